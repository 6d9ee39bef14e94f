//! The schedule: when whom to wake. Owns the timing wheel; keeps no clock and no task of its own.
//!
//! A lane (one webhook's deliveries) waits for one thing at a time: its next retry, its rate limit, its circuit's probe. So
//! the wheel holds at most one wake-up per lane, and its memory is bounded by webhooks, not by backlog. Every wake-up is a
//! hint: the log and the lane's durable queue say what is due, and a lane that is woken for nothing goes back to sleep.
//! Nothing here survives a restart, and nothing has to: each lane arms itself again from its queue.
//!
//! The invariant that callers build on: a wake-up never fires before its time, and it fires on the first `advance` at or
//! after it. Turning that into sleeping and waking is left to the scheduler task that owns the wheel.

mod wheel;

pub use wheel::Wheel;
