//! Retry plans: the two ways to write one, the built-in ones, and the list of delays that either comes to.
//!
//! Invariant: a `Plan` is fully expanded; nobody else knows `first`, `factor`, `max` or `retries`. Leaves drawing the
//! jitter and reading Retry-After to `retry`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text;

/// Share of a delay by which it may be shorter or longer when a plan names none (contract §5: ±20 %).
pub const JITTER_DEFAULT: f64 = 0.2;
/// Retries of one plan; a longer list is a mistake.
pub const RETRIES_MAX: usize = 100;
/// The plan that stands behind everything (contract §5).
pub const STANDARD: &str = "standard";
/// The plan of Vibe's webhooks (contract §4.3).
pub const VIBE: &str = "vibe";

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const FACTOR_DEFAULT: f64 = 2.0;
const MAX_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

/// When to try again: after failure n wait `delays[n - 1]`, each stretched or shortened by up to `jitter` of itself; when
/// the list is used up, the delivery is dead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    #[serde(with = "text::durations")]
    pub delays: Vec<Duration>,
    /// 0 to 1.
    pub jitter: f64,
}

/// What `retry.default` says: a plan's name, or the plan itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PlanChoice {
    Named(String),
    Inline(Plan),
}

/// The plans that exist without being configured.
#[must_use]
pub fn built_in() -> BTreeMap<String, Plan> {
    [STANDARD, VIBE]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), PlanText::built_in(name)?.expand().ok()?)))
        .collect()
}

/// A plan as it is written: either form, or only the members that change a built-in plan.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PlanText {
    #[serde(deserialize_with = "some_durations")]
    delays: Option<Vec<Duration>>,
    #[serde(with = "text::duration_option")]
    first: Option<Duration>,
    factor: Option<f64>,
    #[serde(with = "text::duration_option")]
    max: Option<Duration>,
    retries: Option<usize>,
    jitter: Option<f64>,
}

fn some_durations<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Vec<Duration>>, D::Error> {
    text::durations::deserialize(from).map(Some)
}

impl PlanText {
    fn built_in(name: &str) -> Option<Self> {
        match name {
            STANDARD => Some(Self {
                delays: Some(vec![
                    Duration::from_secs(5),
                    5 * MINUTE,
                    30 * MINUTE,
                    2 * HOUR,
                    5 * HOUR,
                    10 * HOUR,
                    14 * HOUR,
                    20 * HOUR,
                    24 * HOUR,
                ]),
                ..Self::default()
            }),
            VIBE => Some(Self {
                first: Some(Duration::from_secs(30)),
                factor: Some(4.0),
                retries: Some(5),
                ..Self::default()
            }),
            _ => None,
        }
    }

    /// Lays what is written over the built-in plan of that name, if there is one: members left out keep its values, and
    /// writing one form of the schedule drops the other.
    pub(super) fn over_built_in(mut self, name: &str) -> Self {
        let Some(base) = Self::built_in(name) else { return self };
        if self.delays.is_none() {
            let stepwise = self.is_stepwise();
            self.delays = base.delays.filter(|_| !stepwise);
            self.first = self.first.or(base.first);
            self.factor = self.factor.or(base.factor);
            self.max = self.max.or(base.max);
            self.retries = self.retries.or(base.retries);
        }
        self.jitter = self.jitter.or(base.jitter);
        self
    }

    fn is_stepwise(&self) -> bool {
        self.first.is_some() || self.factor.is_some() || self.max.is_some() || self.retries.is_some()
    }

    /// The delays that it comes to; the error is the broken rule.
    pub(super) fn expand(self) -> Result<Plan, String> {
        let stepwise = self.is_stepwise();
        let jitter = self.jitter.unwrap_or(JITTER_DEFAULT);
        let delays = match (self.delays, self.first, self.retries) {
            (Some(_), _, _) if stepwise => {
                return Err("has both delays and first/factor/max/retries; keep one of the two".to_owned());
            }
            (Some(delays), _, _) => delays,
            (None, Some(first), Some(retries)) => {
                let max = self.max.unwrap_or(MAX_DEFAULT);
                if max < first {
                    return Err("has a max that is shorter than first".to_owned());
                }
                steps(first, self.factor.unwrap_or(FACTOR_DEFAULT), max, retries)
            }
            (None, None, _) => return Err("needs delays, or first and retries; first is missing".to_owned()),
            (None, _, None) => return Err("needs delays, or first and retries; retries is missing".to_owned()),
        };
        if delays.len() > RETRIES_MAX {
            return Err(format!("has {} retries; at most {RETRIES_MAX} are allowed", delays.len()));
        }
        Ok(Plan { delays, jitter })
    }
}

/// `first`, then each one `factor` times the one before it, none above `max`. Rounded to milliseconds.
fn steps(first: Duration, factor: f64, max: Duration, retries: usize) -> Vec<Duration> {
    let max_seconds = max.as_secs_f64();
    let grow = |seconds: &f64| Some((seconds * factor).min(max_seconds));
    std::iter::successors(Some(first.as_secs_f64()), grow)
        .map(|seconds| Duration::from_millis((seconds * 1_000.0).round() as u64))
        .take(retries.min(RETRIES_MAX + 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(plan: &Plan) -> Vec<u64> {
        plan.delays.iter().map(Duration::as_secs).collect()
    }

    #[test]
    fn the_built_in_plans_are_the_contracts() {
        let plans = built_in();
        assert_eq!(
            seconds(&plans[STANDARD]),
            [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400],
            "contract §5"
        );
        assert_eq!(seconds(&plans[VIBE]), [30, 120, 480, 1_920, 7_680], "contract §4.3: five retries, 30 s, ×4");
        assert!(plans.values().all(|plan| plan.jitter == 0.2));
    }

    #[test]
    fn growth_stops_at_max() {
        let plan = PlanText {
            first: Some(Duration::from_millis(1_500)),
            factor: Some(3.0),
            max: Some(Duration::from_secs(10)),
            retries: Some(5),
            jitter: Some(0.0),
            ..PlanText::default()
        };
        let plan = plan.expand().unwrap();
        let millis: Vec<_> = plan.delays.iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [1_500, 4_500, 10_000, 10_000, 10_000]);
        assert_eq!(plan.jitter, 0.0);
    }

    #[test]
    fn a_built_in_plan_can_be_changed_in_part() {
        let text = PlanText { retries: Some(2), ..PlanText::default() };
        assert_eq!(seconds(&text.over_built_in(VIBE).expand().unwrap()), [30, 120]);
        let text = PlanText { jitter: Some(0.5), ..PlanText::default() };
        let plan = text.over_built_in(STANDARD).expand().unwrap();
        assert_eq!((plan.delays.len(), plan.jitter), (9, 0.5));
        let text = PlanText { delays: Some(vec![MINUTE]), ..PlanText::default() };
        assert_eq!(seconds(&text.over_built_in(VIBE).expand().unwrap()), [60]);
        let text = PlanText { first: Some(MINUTE), retries: Some(1), ..PlanText::default() };
        assert_eq!(seconds(&text.over_built_in(STANDARD).expand().unwrap()), [60]);
    }

    #[test]
    fn half_a_plan_is_refused() {
        let first = || PlanText { first: Some(MINUTE), ..PlanText::default() };
        let cases = [
            (PlanText::default(), "first is missing"),
            (first(), "retries is missing"),
            (PlanText { delays: Some(vec![]), ..first() }, "both"),
            (PlanText { retries: Some(3), max: Some(Duration::from_secs(1)), ..first() }, "shorter than first"),
            (PlanText { retries: Some(usize::MAX), ..first() }, "at most 100"),
        ];
        for (text, part) in cases {
            let error = text.clone().expand().unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
