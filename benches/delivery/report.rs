//! The figures as people and programs read them: medians over the rounds with lowest and highest, and ratios to the
//! control. Measures nothing.

use serde_json::{Value, json};

use crate::options::{Options, Subject};
use crate::run::{Case, Sample};

struct Row {
    name: &'static str,
    label: &'static str,
    digits: usize,
    /// Whether daemon / control is printed.
    ratio: bool,
}

const fn row(name: &'static str, label: &'static str, digits: usize, ratio: bool) -> Row {
    Row { name, label, digits, ratio }
}

const ROWS: [Row; 24] = [
    row("deliveries_per_s", "deliveries/s", 0, true),
    row("events_per_s", "events acknowledged/s", 0, true),
    row("delivered_mb_per_s", "delivered MB/s", 1, true),
    row("cpu_us_per_delivery", "CPU µs/delivery", 1, true),
    row("load_cpu_us_per_delivery", "CPU µs/delivery, load + receiver", 1, false),
    row("others_percent", "machine taken by others %", 1, false),
    row("ack_p50_ms", "ack p50 ms", 3, false),
    row("ack_p99_ms", "ack p99 ms", 3, false),
    row("received_p50_ms", "publish → received p50 ms", 3, false),
    row("received_p99_ms", "publish → received p99 ms", 3, false),
    row("idle_rss_mib", "RSS idle MiB", 1, false),
    row("rss_mib", "RSS under load MiB", 1, false),
    row("hwm_mib", "RSS highest MiB", 1, false),
    row("store_allocated_bytes_per_event", "store bytes/event, allocated", 0, false),
    row("store_length_bytes_per_event", "store bytes/event, file length", 0, false),
    row("refused", "refused (not 201)", 0, false),
    row("pending_at_end", "pending at the end", 0, false),
    row("drain_s", "drained after s", 2, false),
    row("lost", "lost", 0, false),
    row("extra", "received more than once", 0, false),
    row("fdatasync_p50_ms", "disk: 4 KiB fdatasync p50 ms", 3, false),
    row("fdatasync_p99_ms", "disk: 4 KiB fdatasync p99 ms", 3, false),
    row("ack_p50_to_fdatasync_p50", "ack p50 / fdatasync p50", 2, false),
    row("received_after_ack_p50_ms", "received p50 − ack p50 ms", 3, false),
];

pub fn print_case(case: &Case) {
    println!("\npublishers {}, receivers {}, {} rounds", case.publishers, case.receivers, rounds(case));
    print!("{:<34}", "median [lowest, highest]");
    for (subject, _) in &case.runs {
        print!("{:>30}{:>8}", subject.name(), if *subject == Subject::Control { "" } else { "ratio" });
    }
    println!();
    for row in &ROWS {
        let control = Spread::of(case.of(Subject::Control), row.name);
        if case.runs.iter().all(|(_, samples)| Spread::of(samples, row.name).is_none()) {
            continue;
        }
        print!("{:<34}", row.label);
        for (subject, samples) in &case.runs {
            let spread = Spread::of(samples, row.name);
            let ratio = match (&control, &spread) {
                (Some(control), Some(spread)) if row.ratio && *subject != Subject::Control => {
                    format!("{:.2}", spread.median / control.median)
                }
                _ => String::new(),
            };
            print!("{:>30}{ratio:>8}", text(spread, row.digits));
        }
        println!();
    }
}

/// The two ratios of all cases below each other.
pub fn print_summary(cases: &[Case]) {
    println!("\npublishers  receivers            control/s   daemon/s   ratio   CPU µs control   daemon   ratio");
    let lines = cases.iter().flat_map(|case| {
        let daemons = case.runs.iter().filter(|(subject, _)| *subject != Subject::Control);
        daemons.map(move |(subject, _)| (case, *subject))
    });
    for (case, daemon) in lines {
        let of = |subject, name| Spread::of(case.of(subject), name).map_or(f64::NAN, |spread| spread.median);
        // Where nothing is delivered, what is accepted counts.
        let rate = |subject| of(subject, if case.receivers == 0 { "events_per_s" } else { "deliveries_per_s" });
        let cpu = |subject| of(subject, "cpu_us_per_delivery");
        println!(
            "{:>10}{:>11}{:>10}{:>11.0}{:>11.0}{:>8.2}{:>17.1}{:>9.1}{:>8.2}",
            case.publishers,
            case.receivers,
            daemon.name(),
            rate(Subject::Control),
            rate(daemon),
            rate(daemon) / rate(Subject::Control),
            cpu(Subject::Control),
            cpu(daemon),
            cpu(daemon) / cpu(Subject::Control),
        );
    }
}

/// All samples, as they were taken.
pub fn json(options: &Options, cases: &[Case]) -> String {
    let samples = |samples: &[Sample]| -> Vec<Value> {
        samples
            .iter()
            .map(|sample| sample.0.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect())
            .collect()
    };
    let cases = cases.iter().map(|case| {
        let mut all = json!({ "publishers": case.publishers, "receivers": case.receivers });
        for (subject, runs) in &case.runs {
            all[subject.name()] = json!(samples(runs));
        }
        all
    });
    let all = json!({
        "seconds": options.seconds, "rounds": options.rounds, "permits": options.permits, "bytes": options.bytes,
        "batch": options.batch, "tls": options.tls, "cases": cases.collect::<Vec<_>>(),
    });
    format!("{all:#}\n")
}

fn rounds(case: &Case) -> usize {
    case.runs.iter().map(|(_, samples)| samples.len()).max().unwrap_or(0)
}

struct Spread {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Spread {
    fn of(samples: &[Sample], name: &str) -> Option<Self> {
        let mut values: Vec<f64> =
            samples.iter().map(|sample| sample.get(name)).filter(|value| !value.is_nan()).collect();
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, lowest, highest })
    }
}

fn text(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(String::new, |Spread { median, lowest, highest }| {
        format!("{median:.digits$} [{lowest:.digits$}, {highest:.digits$}]")
    })
}
