//! Every bound of the daemon that is not configurable, in one place, with how they relate.

use std::time::Duration;

/// Response bodies are read up to here; the connection is dropped after that (contract: 16 KiB).
pub const RESPONSE_BYTES_MAX: usize = 16 * 1024;
/// How much of a response body an attempt keeps.
pub const EXCERPT_BYTES: usize = 512;
/// An error detail on record is cut here.
pub const ERROR_BYTES_MAX: usize = 512;
/// Header bytes accepted from a receiver.
pub const RESPONSE_HEADER_BYTES_MAX: usize = 64 * 1024;
/// Header count accepted from a receiver.
pub const RESPONSE_HEADERS_MAX: usize = 100;
/// All bytes that one exchange may read from a receiver, whatever they are: a head, a body as far as it is read, and what HTTP
/// lets come before and beside them.
pub const EXCHANGE_BYTES_MAX: usize = 256 * 1024;
/// The same for the exchanges that share a connection.
pub const EXCHANGES_BYTES_MAX: usize = 4 * EXCHANGE_BYTES_MAX;
/// `Retry-After` is honoured up to here.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);
/// A kept connection to a receiver is not used longer than this, so that address changes are followed.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(5 * 60);
/// A name that does not resolve in this time fails the attempt.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_millis(1_900);

/// Length of a webhook's URL, in bytes (lemon: 1 to 2083).
pub const URL_BYTES_MAX: usize = 2_083;
/// Custom headers a webhook may have.
pub const WEBHOOK_HEADERS_MAX: usize = 32;
/// Length of one custom header's value.
pub const WEBHOOK_HEADER_VALUE_MAX: usize = 4_096;
/// Filters a webhook may have.
pub const WEBHOOK_FILTERS_MAX: usize = 256;
/// Depth of published JSON.
pub const JSON_DEPTH_MAX: usize = 128;
/// Events in one batch.
pub const BATCH_EVENTS_MAX: usize = 1_000;
/// Length of an idempotency key.
pub const IDEMPOTENCY_KEY_MAX: usize = 255;
/// Length of an ordering key.
pub const ORDERING_KEY_MAX: usize = 255;
/// Bytes of what was sent that a message may repeat.
pub const ECHO_BYTES_MAX: usize = 64;
/// Hosts that may be paused, or were lately.
pub const PAUSED_HOSTS_MAX: usize = 4_096;
/// Places of a line that are looked at for the event that the others wait for.
pub const LINE_LOOKED_AT_MAX: usize = 1_000;
/// Length of a request's id that a client chooses.
pub const REQUEST_ID_MAX: usize = 128;
/// Entries of one page.
pub const PAGE_MAX: usize = 100;

/// How far the clock of a signed request may be off, both ways, in seconds (contract §2).
pub const SIGNATURE_TOLERANCE_S: u64 = 300;
/// How long, in seconds, the mark of an accepted signature is kept after its timestamp: for as long as that could be
/// accepted, and as long again, so that a clock that is set back a little opens nothing.
pub const MARK_KEPT_S: u64 = 2 * SIGNATURE_TOLERANCE_S;
/// Characters of a data privacy header's value, which goes into the audit log.
pub const AUDIT_TEXT_MAX: usize = 256;
/// Audit records that one page looks at before it comes back short.
pub const AUDIT_LOOKED_AT_MAX: usize = 10_000;
/// Journal records that one page of attempts over all tenants looks at.
pub const TAIL_LOOKED_AT_MAX: usize = 2_000;
/// Webhooks that one page looks at to find those that fail.
pub const WEBHOOKS_LOOKED_AT_MAX: usize = 2_000;
/// Webhooks that may have figures of their own at `/metrics`: four time series each.
pub const METRICS_WEBHOOKS_MAX: usize = 10_000;
/// Questions to the process that wait for it at once: reloads and the like.
pub const CONTROL_ASKED_MAX: usize = 16;
/// Rows of a table that are removed in one step when they have served their time.
pub const TIDY_ROWS_MAX: usize = 1_024;

/// Records of each log, and rows of each table, that one step of retention removes: what a publisher may have to wait for.
pub const RETAIN_RECORDS_MAX: usize = 1_024;
/// Kept records and webhooks' rows that one run of retention looks at, to find those that nothing needs any more.
pub const RETAIN_LOOKED_AT_MAX: usize = 16 * 1024;
/// Beyond this part of the bytes that retention lets the store have in use, a run does not wait for its minute: pages that were taken
/// once stay in the store's file.
pub const RETAIN_OVERSHOOT_PART: u64 = 64;
/// Dead letters of one tenant that one step looks at.
pub const RETAIN_DEAD_MAX: usize = 1_024;
/// Time that the daemon did not run counts for this much at most towards the age of what it keeps, in ms: a clock that is
/// wrong at a start must not empty a store.
pub const AGE_GAP_MAX_MS: u64 = 3 * 86_400_000;
/// With less than this free on the file system, or this part of a small one, nothing more is accepted: what deliveries, a
/// checkpoint and a reader's snapshot may still need.
pub const DISK_RESERVE_BYTES: u64 = 64 * 1024 * 1024;
pub const DISK_RESERVE_PART: u64 = 16;
/// Nothing more is accepted when this part of the disk budget is left, or this many bytes.
pub const BUDGET_MARGIN_PART: u64 = 50;
pub const BUDGET_MARGIN_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// How often the store's room is measured.
pub const ROOM_EVERY: Duration = Duration::from_secs(1);
/// Jobs that run at once, of one tenant and in all; the operator counts as a tenant.
pub const JOBS_RUNNING_MAX: usize = 4;
pub const JOBS_RUNNING_OF_ALL_MAX: usize = 1_024;
/// Jobs that have ended are kept so long, in ms, and so many of each tenant and in all.
pub const JOBS_KEPT_MS: u64 = 7 * 86_400_000;
pub const JOBS_KEPT_MAX: usize = 100;
pub const JOBS_KEPT_OF_ALL_MAX: usize = 4_096;
/// Deliveries that one step of a job moves: what is published meanwhile waits for about a millisecond.
pub const JOB_STEP_MAX: usize = 64;
/// Rows or events that one step looks at to find them.
pub const JOB_LOOKED_AT_MAX: usize = 2_048;
/// A job rests for this many times as long as its last step took, its way through the writer included: jobs get a fourth of an
/// idle writer.
pub const JOB_REST: u32 = 3;
/// Of a busy writer they get a fourth of what the others leave; but a job rests for no more than this many times its last step.
pub const JOB_REST_MAX: u32 = 63;
/// Deliveries that jobs move between two checkpoints: a checkpoint writes the pages that they dirtied, some MiB.
pub const JOB_MOVED_PER_CHECKPOINT: usize = 8 * 1_024;

/// Blocks of a log that one step of an erasure writes anew, and bytes that it reads to find them: what is published meanwhile
/// waits for half a MiB to be synced.
pub const ERASE_BLOCKS_MAX: usize = 16;
/// The same of records that retention has kept.
pub const ERASE_KEPT_MAX: usize = 64;
pub const ERASE_READ_BYTES: usize = 2 * 1024 * 1024;
/// Idempotency records whose events one step looks at.
pub const ERASE_EVENTS_LOOKED_AT_MAX: usize = 256;

/// A webhook without one success for this long, in ms, and with at least `FAILING_ATTEMPTS_MIN` failures in a row is made
/// inactive (contract: 5 days, 10 attempts).
pub const FAILING_FOR_MS: u64 = 5 * 86_400_000;
pub const FAILING_ATTEMPTS_MIN: u32 = 10;
/// Shares of that time, rising, at which it is warned (contract: 50 and 75 %).
pub const FAILING_WARNINGS_PERCENT: [u8; 2] = [50, 75];
/// Between two operational events that tell of one webhook's deaths, in ms.
pub const DEATHS_TOLD_EVERY_MS: u64 = 60_000;
/// Webhooks whose deaths are told of in one commit.
pub const DEATHS_TOLD_AT_ONCE: usize = 1_000;

/// Tests of webhooks that one tenant may have under way.
pub const TESTS_PER_TENANT_MAX: usize = 16;
/// Streams (`webhookd listen`) that one tenant may have, and requests that are under way on one: with events of the default
/// size, none of them holds more than 16 MiB.
pub const STREAMS_PER_TENANT_MAX: usize = 8;
pub const STREAM_IN_FLIGHT_MAX: u32 = 16;
/// A stream that nobody holds for this long ends, and its webhook with it.
pub const STREAM_GRACE: Duration = Duration::from_secs(60);
/// A stream on which nothing happens says so this often, so that both ends learn when the other is gone.
pub const STREAM_SIGN_EVERY: Duration = Duration::from_secs(15);

/// Bodies of fresh deliveries that all lanes together hold in memory; beyond that they are read again from the log.
pub const BODIES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bodies that one lane reads ahead from the log with its queue rows.
pub const READ_AHEAD_BYTES: usize = 1024 * 1024;
/// Fresh deliveries that a lane behind an open circuit gathers before they get rows.
pub const OPEN_CIRCUIT_FRESH_MAX: usize = 64;
/// However often somebody asks for what failed, an open circuit is probed no more often than once in this time.
pub const PROBE_AGAIN_MS: u64 = 1_000;
/// Bodies of requests that are being read or held, all together; some three times as much is in memory for them, as they are read,
/// parsed, put on record and answered. A quarter of it is for bodies up to `REQUEST_BODY_SMALL`.
pub const REQUEST_BODIES_BYTES_MAX: usize = 32 * 1024 * 1024;
pub const REQUEST_BODY_SMALL: usize = 64 * 1024;
/// Bodies from this size on are in memory of their own, or in a read buffer that is at most twice as large, and an event may be a slice
/// of one.
pub const SLICED_FROM: usize = 32 * 1024;
/// Bytes of events in a page of a listing: it ends with the one that passes this.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Answers larger than `ANSWER_SMALL` that their clients have not taken yet, all together.
pub const ANSWERS_BYTES_MAX: usize = 64 * 1024 * 1024;
pub const ANSWER_SMALL: usize = 16 * 1024;
/// What a client has to take of an answer on average once it keeps us waiting, in bytes a second.
pub const ANSWER_RATE_MIN: u64 = 4 * 1024;
/// When half of what bodies of requests may take is taken, one that has not come within this time is given up; looked at so often from then on.
pub const SLOW_BODY_AFTER: Duration = Duration::from_secs(2);
pub const SLOW_BODY_LOOK_EVERY: Duration = Duration::from_millis(500);
/// Reads of durable queues under way at once, over all lanes of a worker.
pub const LOADS_MAX: usize = 4;

/// The watermark stays within this many events of the head of the log: what lags further gets a durable row.
pub const WATERMARK_LAG_MAX: u64 = 64 * 1024;
/// The same in bytes of both logs: what a start reads back, and holds in memory until the lanes have it. What memory may not hold as a
/// body any more is read again anyhow.
pub const WATERMARK_LAG_BYTES_MAX: u64 = 2 * BODIES_BYTES_MAX as u64;
/// Bytes of both logs after which the listings are flushed, however few their entries: a start reads the logs from there on.
pub const FLUSH_BYTES: u64 = 64 * 1024 * 1024;
/// Fresh deliveries that one lane holds as bare sequence numbers before they overflow into its durable queue.
pub const LANE_FRESH_MAX: usize = 16 * 1024;
/// Lanes that are kept for their next delivery, as many as there are connections to be kept for them; with more in memory one is
/// forgotten as soon as it has nothing to do.
pub const LANES_KEPT: usize = 4 * 1024;
/// Deliveries that one lane loads from its durable queue at a time: four for each of its permits, within these bounds, so
/// that 100,000 lanes that are behind hold megabytes and not gigabytes.
pub const LANE_REFILL: usize = 256;
pub const LANE_REFILL_MIN: usize = 16;
/// A block of the log stays under the next power of two: redb stores large values in power-of-two page runs.
pub const BLOCK_BYTES_TARGET: usize = 32 * 1024 - 512;
/// The largest block, of a group that publishes much: who reads one record of it has all of it read from the disk.
pub const LARGE_BLOCK_BYTES_TARGET: usize = 512 * 1024 - 512;

/// Length of the write-ahead log: what stands there is read back after a crash, and this much at most is written by one
/// checkpoint, which holds the writer up meanwhile (measured: docs/PERFORMANCE.md).
pub const WAL_BYTES: u64 = 4 * 1024 * 1024;
/// A group that publishes more than this does not go through the log but is a checkpoint itself, so that its bytes are written once
/// (measured: docs/PERFORMANCE.md).
pub const LOGGED_BYTES_MAX: usize = 1024 * 1024;

/// Groups that may share one transaction before it is committed, and their bytes in the write-ahead log: with so many each takes a
/// sixteenth of what a commit costs, and who reads waits for no more than these to be committed (measured: docs/PERFORMANCE.md).
pub const UNSEEN_GROUPS_MAX: usize = 16;
pub const UNSEEN_BYTES_MAX: usize = 256 * 1024;

/// A frame of a backup is closed once it has this many bytes.
pub const BACKUP_FRAME_BYTES: usize = 256 * 1024;
/// No frame of a backup is larger: the largest event there can be, with room around it.
pub const BACKUP_FRAME_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Bytes of the logs that a backup reads in one go, from one snapshot.
pub const BACKUP_READ_BYTES: usize = 1024 * 1024;
/// After a piece a backup rests for as long as the piece took, so that it gets half of one core while nothing else goes on,
pub const BACKUP_REST: u32 = 1;
/// and for this many times as long besides when the writer is at work all the time, in proportion when it is at times.
pub const BACKUP_REST_BUSY: u32 = 12;
/// Who takes nothing of a backup for this long loses it: while one is made, nothing old is removed.
pub const BACKUP_STALL_MAX: Duration = Duration::from_secs(60);
/// A backup's temporary copy leaves this much of the disk free.
pub const BACKUP_SPARE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of a backup that a restore writes in one transaction.
pub const RESTORE_COMMIT_BYTES: usize = 64 * 1024 * 1024;

/// Successes of one lane that may wait for their commit with their permits free.
pub const LANE_SPOOLED_MAX: usize = 1_024;

/// A start that reads a large store after a power cut may take this long before systemd's own limit counts again.
pub const START_EXTENDED_MAX: Duration = Duration::from_secs(3_600);
/// How often the files of the certificate are looked at; one that has changed is taken over at the second look.
pub const CERTIFICATE_LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the line that `systemctl status` shows is looked at.
pub const STATUS_EVERY: Duration = Duration::from_secs(5);

const _: () = assert!(LANE_FRESH_MAX as u64 * 2 <= WATERMARK_LAG_MAX);
const _: () = assert!(MARK_KEPT_S > SIGNATURE_TOLERANCE_S && MARK_KEPT_S.is_multiple_of(60));
const _: () = assert!(REQUEST_BODY_SMALL * 16 <= REQUEST_BODIES_BYTES_MAX / 4);
const _: () = assert!(PAGE_BYTES_MAX * 16 <= ANSWERS_BYTES_MAX && ANSWER_SMALL < PAGE_BYTES_MAX);
const _: () = assert!(EXCERPT_BYTES <= RESPONSE_BYTES_MAX);
// The head, the body, and a buffer of each that is read ahead.
const _: () = assert!(2 * (RESPONSE_HEADER_BYTES_MAX + RESPONSE_BYTES_MAX) <= EXCHANGE_BYTES_MAX);
const _: () = assert!(LANE_REFILL * 4 <= LANE_FRESH_MAX);
const _: () = assert!(JOBS_RUNNING_MAX <= JOBS_KEPT_MAX && JOB_STEP_MAX <= JOB_LOOKED_AT_MAX);
const _: () = assert!(JOB_STEP_MAX < JOB_MOVED_PER_CHECKPOINT);
const _: () = assert!(JOB_REST < JOB_REST_MAX);
const _: () = assert!(2 * LOGGED_BYTES_MAX as u64 <= WAL_BYTES);
const _: () = assert!(UNSEEN_BYTES_MAX < LOGGED_BYTES_MAX);
const _: () = assert!(BACKUP_FRAME_BYTES < BACKUP_FRAME_BYTES_MAX && BACKUP_READ_BYTES >= BACKUP_FRAME_BYTES);
