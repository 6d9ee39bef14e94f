//! What can be seen of a lane from outside: what a delivery that is pending now waits for.

use crate::clock::Millis;

/// A lane at one moment. The default is a lane that holds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// An attempt of the delivery asked about is under way.
    pub in_flight: bool,
    /// That attempt is the last: the delivery was cancelled meanwhile.
    pub is_ending: bool,
    /// The circuit is open; the next probe, in schedule time.
    pub circuit_probe_at: Option<Millis>,
    /// All permits (of the lane, its host or the daemon) are taken.
    pub permits_taken: bool,
    /// The rate limit lets the next attempt go at this schedule time.
    pub rate_limited_until: Option<Millis>,
}
