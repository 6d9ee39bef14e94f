//! What the documents for operators and receivers say, held against the daemon: the commands and snippets run, proxies stand in
//! front of it, the metrics are there, the configurations are accepted.

mod support;

#[path = "manual/commands.rs"]
mod commands;
#[path = "manual/proxies.rs"]
mod proxies;
#[path = "manual/receivers.rs"]
mod receivers;
#[path = "receivers/verify.rs"]
mod verify;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use support::{Daemon, Stage, pages};

const OPERATIONS: &str = include_str!("../docs/OPERATIONS.md");
const ALERTS: &str = include_str!("../docs/monitoring/alerts.yaml");
const DASHBOARD: &str = include_str!("../docs/monitoring/grafana.json");

/// The code blocks of one language, page by page.
fn blocks(pages: &[&'static str], language: &str) -> Vec<String> {
    let all = pages.iter().flat_map(|page| pages::blocks(page));
    all.filter(|block| block.language == language).map(|block| block.text).collect()
}

/// The names of metrics in a text of queries.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    // A package's name goes on with its version.
    let is_metric = |word: &str| {
        let rest = word.strip_prefix("webhookd_");
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    words.filter(|word| is_metric(word)).map(str::to_owned).collect()
}

/// The names of all samples that a daemon with one webhook exposes, and what their families are called.
fn exposed() -> BTreeSet<String> {
    let stage = Stage::start(Daemon::builder().set("metrics.per_webhook", "1"));
    stage.register(&json!({"url": "https://hooks.example.com/", "events": ["*"]}));
    let text = stage.daemon.admin().get("/metrics").expect(200).text();
    let mut exposed = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        exposed.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    // A family without a sample is left out of the exposition until its first.
    let later = ["deliveries", "attempts", "http_requests", "operational_events", "jobs_ended", "job_deliveries"];
    exposed.extend(later.map(|name| format!("webhookd_{name}_total")));
    exposed
}

#[test]
fn every_metric_of_the_alerts_the_dashboard_and_the_pages_exists() {
    let exposed = exposed();
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() >= 12));
    for (what, text) in [("alerts.yaml", ALERTS), ("grafana.json", DASHBOARD)] {
        let named = named(text);
        assert!(named.len() >= 8, "{what}: {named:?}");
        let missing: Vec<&String> = named.difference(&exposed).collect();
        assert!(missing.is_empty(), "{what} names what is not exposed: {missing:?}");
    }
    let pages: Vec<String> = pages::PAGES.into_iter().flat_map(|page| named(&pages::page(page))).collect();
    assert!(pages.len() >= 15, "{pages:?}");
    for name in pages {
        // `webhookd_retention_…_total` stands for several.
        let is_there = match name.strip_suffix('_') {
            Some(start) => exposed.iter().any(|known| known.starts_with(start)),
            None => exposed.contains(&name),
        };
        assert!(is_there, "a page names {name}, which is not exposed");
    }
}

#[test]
fn every_alert_has_its_line_in_the_manual() {
    let alerts: Vec<&str> = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 8, "{alerts:?}");
    for alert in &alerts {
        assert!(OPERATIONS.contains(&format!("\n| {alert} | ")), "{alert} is not in OPERATIONS.md");
    }
    let rows = OPERATIONS.lines().filter(|line| line.starts_with("| Webhookd")).count();
    assert_eq!(rows, alerts.len(), "OPERATIONS.md tells of an alert that there is not");
}

#[test]
fn the_configurations_in_the_manual_are_accepted() {
    let found = blocks(&pages::PAGES, "toml");
    assert!(found.len() >= 3);
    for block in found {
        let loaded = webhookd::config::load_text(Path::new("OPERATIONS.md"), &block, std::iter::empty());
        assert!(loaded.is_ok(), "{}:\n{block}", loaded.err().map(|problems| problems.to_string()).unwrap_or_default());
    }
}
