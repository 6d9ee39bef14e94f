//! The house's own rules, held by a test: ranks, sizes, headers. A module imports only from rooms of a lower rank, or from
//! its own; files and functions stay readable in one sitting; every file says what it owns.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms in rank order: a room may import from those before its own line.
const RANKS: &[&[&str]] = &[
    &["clock", "entropy", "limits", "metrics", "systemd"],
    &["model"],
    &["catalogue", "circuit", "render", "retry", "sign"],
    &["store", "egress"],
    &["schedule"],
    &["dispatch"],
    &["service"],
    &["http"],
    &["config"],
    &["settings"],
    &["daemon"],
    &["logs", "dev", "pulse"],
    &["reload"],
    &["cli"],
    &["main", "lib"],
];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty() || folder != "src", "no sources found");
    found.sort();
    found
}

fn room_of(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn rank(room: &str) -> Option<usize> {
    RANKS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn rooms_import_only_from_lower_ranks() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let room = room_of(&path);
        let own = rank(&room).unwrap_or_else(|| panic!("{room} has no rank: give it one in RANKS"));
        for (at, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for part in code.split("crate::").skip(1) {
                let names = part.strip_prefix('{').map_or_else(
                    || vec![part],
                    |group| group.trim_end_matches(['}', ';']).split(',').map(str::trim).collect(),
                );
                for name in names {
                    let other: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if other != room && rank(&other).is_some_and(|other| other >= own) {
                        wrong.push(format!("{}:{}: {room} imports {other}", path.display(), at + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_one_room_names_each_engine() {
    for (engine, home) in [("redb", "store"), ("figment", "config")] {
        for (path, text) in sources("src") {
            let named = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains(&format!("{engine}::")) || code.contains(&format!("use {engine}"))
            });
            assert!(!named || room_of(&path) == home, "{} names {engine}; only {home} may", path.display());
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            if lines > FILE_LINES_MAX {
                wrong.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", path.display()));
            }
            if !text.starts_with("//!") {
                wrong.push(format!("{}: does not open with what it owns (//!)", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn functions_fit_a_screen() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for (path, text) in sources(folder) {
            let lines: Vec<&str> = text.lines().collect();
            for (start, line) in lines.iter().enumerate() {
                let code = line.trim_start();
                let indent = line.len() - code.len();
                let words = ["pub ", "pub(super) ", "pub(crate) ", "const ", "async "];
                let mut head = code;
                while let Some(rest) = words.iter().find_map(|word| head.strip_prefix(word)) {
                    head = rest;
                }
                // A declaration has no lines of its own.
                if !head.starts_with("fn ") || head.ends_with(';') {
                    continue;
                }
                let close = format!("{}}}", " ".repeat(indent));
                let end = lines[start..].iter().position(|line| *line == close);
                if let Some(length) = end.filter(|length| length + 1 > FUNCTION_LINES_MAX) {
                    wrong.push(format!(
                        "{}:{}: {} lines, at most {FUNCTION_LINES_MAX}",
                        path.display(),
                        start + 1,
                        length + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_project_speaks_only_of_itself() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Put together here so that this file does not name them.
    let foreign: Vec<String> =
        [["/wo", "rk/"], ["Cla", "ude"], ["L", "LM"], ["sub", "agent"]].iter().map(|parts| parts.concat()).collect();
    let mut texts = sources("src");
    texts.extend(sources("tests"));
    texts.extend(sources("benches"));
    for name in [
        "README.md",
        "CHANGELOG.md",
        "webhookd.toml",
        "Cargo.toml",
        ".ci/run",
        ".ci/test",
        "systemd/webhookd.service",
        "systemd/webhookd.socket",
        "systemd/examples/webhookd-admin.socket",
        "systemd/examples/webhookd-metrics.socket",
        "systemd/examples/low-port.conf",
        "systemd/examples/notify-reload.conf",
        "systemd/examples/egress-deny.conf",
        "tests/systemd/box.sh",
        "tests/systemd/lib.sh",
        "tests/systemd/service.sh",
        "tests/systemd/package.sh",
        ".ci/package",
        ".ci/deny",
        ".ci/deny.toml",
        "docs/ARCHITECTURE.md",
        "docs/DIALECTS.md",
        "docs/FORMAT.md",
        "docs/openapi.json",
        "docs/OPERATIONS.md",
        "docs/RECEIVERS.md",
        "docs/monitoring/alerts.yaml",
        "docs/monitoring/grafana.json",
    ] {
        let path = root.join(name);
        texts.push((path.clone(), fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))));
    }
    for (path, text) in texts {
        for word in &foreign {
            assert!(!text.contains(word.as_str()), "{} contains {word}", path.display());
        }
    }
}
