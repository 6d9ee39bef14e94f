//! One case: the same load, the control and the daemon in turns. Owns what is measured when, and how a run is judged.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::children::{self, Helper};
use crate::daemon::{self, Daemon};
use crate::options::{Options, Subject};
use crate::{disk, tls};

const WARM_UP: Duration = Duration::from_secs(1);
/// The load goes on for so long after the measured time.
const TAIL: Duration = Duration::from_millis(200);
/// What is pending at the end is waited for so long.
const DRAIN: Duration = Duration::from_secs(30);
/// A round that others disturbed is done again so often at most.
const AGAIN_MAX: usize = 3;

/// All runs of one combination of publishers and receivers.
pub struct Case {
    pub publishers: usize,
    pub receivers: usize,
    /// Of each subject, in the order in which they take turns.
    pub runs: Vec<(Subject, Vec<Sample>)>,
}

impl Case {
    pub fn of(&self, subject: Subject) -> &[Sample] {
        self.runs.iter().find(|(of, _)| *of == subject).map_or(&[], |(_, samples)| samples)
    }

    /// Whether an acknowledged event was not received.
    pub fn failed(&self) -> bool {
        self.runs.iter().flat_map(|(_, samples)| samples).any(|sample| sample.get("lost") > 0.0)
    }
}

/// What one run measured: name and figure, in the order in which they are printed.
#[derive(Default, Clone)]
pub struct Sample(pub Vec<(&'static str, f64)>);

impl Sample {
    fn put(&mut self, name: &'static str, value: f64) {
        self.0.push((name, value));
    }

    /// The figure of that name; NaN when this run has none.
    pub fn get(&self, name: &str) -> f64 {
        self.0.iter().find(|(known, _)| *known == name).map_or(f64::NAN, |(_, value)| *value)
    }
}

pub fn measure(options: &Options, publishers: usize, receivers: usize) -> Case {
    let runs = options.subjects.iter().map(|subject| (*subject, Vec::new())).collect();
    let mut case = Case { publishers, receivers, runs };
    for round in 1..=options.rounds {
        let mut samples = measure_round(options, round, publishers, receivers);
        for _ in 0..AGAIN_MAX {
            let disturbed = |sample: &Sample| options.others_max.is_some_and(|max| sample.get("others_percent") > max);
            if !samples.iter().any(disturbed) {
                break;
            }
            eprintln!("others took too much of the machine: again");
            samples = measure_round(options, round, publishers, receivers);
        }
        for ((_, runs), sample) in case.runs.iter_mut().zip(samples) {
            runs.push(sample);
        }
    }
    case
}

/// One run of each subject; the samples in the order of the subjects.
fn measure_round(options: &Options, round: usize, publishers: usize, receivers: usize) -> Vec<Sample> {
    let of = |subject: &Subject| {
        let sample = run(options, *subject, publishers, receivers);
        eprintln!(
            "publishers {publishers}, receivers {receivers}, round {round}, {}: {:.0} {}/s, others {:.1} %",
            subject.name(),
            sample.get(if receivers == 0 { "events_per_s" } else { "deliveries_per_s" }),
            if receivers == 0 { "events" } else { "deliveries" },
            sample.get("others_percent"),
        );
        sample
    };
    // What runs last has it easier, by 4 to 9 %: so each round begins with another.
    let count = options.subjects.len();
    let mut samples = vec![Sample::default(); count];
    for turn in 0..count {
        let at = (turn + round - 1) % count;
        samples[at] = of(&options.subjects[at]);
    }
    samples
}

/// The subject, started, and where it takes events.
struct Started {
    pid: u32,
    address: SocketAddr,
    token: String,
    idle_rss_kib: u64,
    _ends: Box<dyn std::any::Any>,
}

fn start(options: &Options, subject: Subject, folder: &Path, receivers: &[SocketAddr]) -> Started {
    match subject {
        Subject::Control => {
            let list = receivers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let mut arguments = vec!["--permits".into(), options.permits.to_string(), "--receivers".to_owned(), list];
            arguments.extend(tls_arguments(options, folder));
            let helper = Helper::spawn("__control", &arguments);
            std::thread::sleep(Duration::from_millis(400));
            Started {
                pid: helper.pid(),
                address: helper.ready["address"].as_str().and_then(|text| text.parse().ok()).expect("an address"),
                token: "none".to_owned(),
                idle_rss_kib: children::memory_kib(helper.pid()).0,
                _ends: Box::new(helper),
            }
        }
        Subject::Daemon | Subject::Against => {
            let against = options.against.as_deref().filter(|_| subject == Subject::Against);
            let program = against.unwrap_or(Path::new(daemon::OURS));
            let daemon = Daemon::start_by(program, folder, receivers, options.permits, options.tls);
            Started {
                pid: daemon.process.pid(),
                address: daemon.address,
                token: daemon.publisher_token.clone(),
                idle_rss_kib: daemon.idle_rss_kib,
                _ends: Box::new(daemon),
            }
        }
    }
}

fn tls_arguments(options: &Options, folder: &Path) -> Vec<String> {
    if options.tls { vec!["--tls".into(), folder.display().to_string()] } else { Vec::new() }
}

/// What was read from all processes at one moment.
struct Mark {
    receiver: Value,
    publisher: Value,
    cpu_us: u64,
    load_cpu_us: u64,
    machine_us: (u64, u64),
}

/// Fields drop in order: the publisher goes first, so that it does not see the subject end.
struct Bench {
    publisher: Helper,
    subject: Started,
    receiver: Helper,
}

impl Bench {
    fn mark(&mut self) -> Mark {
        Mark {
            receiver: self.receiver.ask("mark"),
            publisher: self.publisher.ask("mark"),
            cpu_us: children::cpu_us(self.subject.pid),
            load_cpu_us: children::cpu_us(self.receiver.pid()) + children::cpu_us(self.publisher.pid()),
            machine_us: children::machine_us(),
        }
    }
}

fn run(options: &Options, subject: Subject, publishers: usize, receivers: usize) -> Sample {
    // Not /tmp, which may be memory: the store has to stand on the disk that the build stands on.
    let folder =
        tempfile::Builder::new().prefix("delivery-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    if options.tls {
        tls::make(folder.path());
    }
    if receivers == 0 && subject == Subject::Control {
        return raw_log(options, folder.path());
    }
    let probe = (publishers == 1).then(|| disk::synced_append_us(folder.path()));
    let mut arguments = vec!["--ports".to_owned(), receivers.to_string()];
    arguments.extend(tls_arguments(options, folder.path()));
    let receiver = Helper::spawn("__receiver", &arguments);
    let ports = receiver.ready["ports"].as_array().expect("ports").iter();
    let addresses = ports.map(|port| {
        let port = port.as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    });
    let addresses = addresses.collect::<Vec<_>>();
    let started = start(options, subject, folder.path(), &addresses);
    let mut arguments = vec!["--address".to_owned(), started.address.to_string()];
    arguments.extend(["--token".to_owned(), started.token.clone()]);
    for (name, number) in [("--connections", publishers), ("--bytes", options.bytes), ("--batch", options.batch)] {
        arguments.extend([name.to_owned(), number.to_string()]);
    }
    arguments.extend(tls_arguments(options, folder.path()));
    let publisher = Helper::spawn("__publisher", &arguments);
    let mut bench = Bench { publisher, subject: started, receiver };
    let sample = load(&mut bench, options, receivers, &folder.path().join("state"), probe);
    drop(bench);
    sample
}

/// The control where nothing is delivered: the same bytes appended to a file, one sync a request.
fn raw_log(options: &Options, folder: &Path) -> Sample {
    let (machine, cpu_us) = (children::machine_us(), children::cpu_us(std::process::id()));
    let appends_per_s = disk::synced_appends_per_s(folder, options.bytes * options.batch, options.seconds);
    let (machine_after, cpu_after_us) = (children::machine_us(), children::cpu_us(std::process::id()));
    let events_per_s = appends_per_s * options.batch as f64;
    let ours = cpu_after_us - cpu_us;
    let others = (machine_after.0 - machine.0).saturating_sub(ours);
    let mut sample = Sample::default();
    sample.put("events_per_s", events_per_s);
    sample.put("cpu_us_per_delivery", ours as f64 / (events_per_s * options.seconds));
    sample.put("others_percent", 100.0 * others as f64 / (machine_after.1 - machine.1) as f64);
    sample
}

fn load(bench: &mut Bench, options: &Options, receivers: usize, store: &Path, probe: Option<(u64, u64)>) -> Sample {
    let before = disk::usage_bytes(store);
    bench.publisher.ask("start");
    std::thread::sleep(WARM_UP);
    let from = bench.mark();
    std::thread::sleep(Duration::from_secs_f64(options.seconds));
    let to = bench.mark();
    let (rss_kib, hwm_kib) = children::memory_kib(bench.subject.pid);
    std::thread::sleep(TAIL);
    let stopped = bench.publisher.ask("stop");
    let at_end = bench.receiver.ask("look");
    let acked = number(&stopped, "acked");
    let due = acked * receivers as f64;
    // Where nothing is delivered, what is accepted is counted.
    let of_events = receivers == 0;
    let drain_started = Instant::now();
    let mut received = number(&at_end, "count");
    while received < due && drain_started.elapsed() < DRAIN {
        std::thread::sleep(Duration::from_millis(20));
        received = number(&bench.receiver.ask("look"), "count");
    }
    let drained_s = drain_started.elapsed().as_secs_f64();
    let after = disk::usage_bytes(store);

    let received_meanwhile = number(&to.receiver, "count") - number(&from.receiver, "count");
    let elapsed_s = (number(&to.receiver, "at_us") - number(&from.receiver, "at_us")) / 1e6;
    let acks = number(&to.publisher, "acked") - number(&from.publisher, "acked");
    let ack_s = (number(&to.publisher, "at_us") - number(&from.publisher, "at_us")) / 1e6;
    let count = if of_events { acks } else { received_meanwhile };
    let mut sample = Sample::default();
    if !of_events {
        sample.put("deliveries_per_s", count / elapsed_s);
        sample.put("delivered_mb_per_s", count / elapsed_s * options.bytes as f64 / 1e6);
    }
    sample.put("events_per_s", acks / ack_s);
    sample.put("cpu_us_per_delivery", (to.cpu_us - from.cpu_us) as f64 / count);
    sample.put("load_cpu_us_per_delivery", (to.load_cpu_us - from.load_cpu_us) as f64 / count);
    let ours = (to.cpu_us - from.cpu_us) + (to.load_cpu_us - from.load_cpu_us);
    let others = (to.machine_us.0 - from.machine_us.0).saturating_sub(ours);
    sample.put("others_percent", 100.0 * others as f64 / (to.machine_us.1 - from.machine_us.1) as f64);
    sample.put("ack_p50_ms", number(&to.publisher, "p50_us") / 1e3);
    sample.put("ack_p99_ms", number(&to.publisher, "p99_us") / 1e3);
    sample.put("received_p50_ms", number(&to.receiver, "p50_us") / 1e3);
    sample.put("received_p99_ms", number(&to.receiver, "p99_us") / 1e3);
    sample.put("idle_rss_mib", bench.subject.idle_rss_kib as f64 / 1024.0);
    sample.put("rss_mib", rss_kib as f64 / 1024.0);
    sample.put("hwm_mib", hwm_kib as f64 / 1024.0);
    if after.1 > 0 {
        sample.put("store_allocated_bytes_per_event", after.0.saturating_sub(before.0) as f64 / acked);
        sample.put("store_length_bytes_per_event", after.1.saturating_sub(before.1) as f64 / acked);
    }
    sample.put("refused", number(&stopped, "refused"));
    sample.put("pending_at_end", (due - number(&at_end, "count")).max(0.0));
    sample.put("drain_s", drained_s);
    sample.put("lost", (due - received).max(0.0));
    sample.put("extra", (received - due).max(0.0));
    if let Some((p50_us, p99_us)) = probe {
        sample.put("fdatasync_p50_ms", p50_us as f64 / 1e3);
        sample.put("fdatasync_p99_ms", p99_us as f64 / 1e3);
        sample.put("ack_p50_to_fdatasync_p50", sample.get("ack_p50_ms") * 1e3 / p50_us as f64);
        sample.put("received_after_ack_p50_ms", sample.get("received_p50_ms") - sample.get("ack_p50_ms"));
    }
    sample
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("{name} in {value}"))
}
