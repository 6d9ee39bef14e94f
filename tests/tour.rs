//! The README's tour, line by line as it stands there, against `serve --dev`: what a stranger pastes has to work.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{poll, virtual_environment};

/// Two minutes for a tour that takes ten seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// What surrounds the tour: the daemon, started and ended.
const STAGE: &str = r#"
[ -z "$ALONE" ] || ip link set lo up
"$WEBHOOKD" serve --dev >"$TMPDIR/daemon.log" 2>&1 &
DAEMON=$!
for _ in $(seq 100); do [ -s "$TMPDIR/webhookd-dev/env" ] && break; sleep 0.1; done
bash --norc <"$TMPDIR/tour.sh" >"$TMPDIR/tour.out" 2>"$TMPDIR/tour.err"
cp "$TMPDIR/webhookd-dev/received" "$TMPDIR/webhookd-dev/receiver.log" "$TMPDIR"
kill $DAEMON
wait $DAEMON
echo "$?" >"$TMPDIR/code"
"#;

/// The shell lines of the README below "A tour".
fn tour(readme: &str) -> String {
    let (_, tour) = readme.split_once("\n## A tour\n").expect("a tour");
    let tour = tour.split_once("\n## ").map_or(tour, |(tour, _)| tour);
    let blocks = tour.split("\n```sh\n").skip(1);
    blocks.map(|block| block.split_once("```").expect("the end of a block").0).collect()
}

/// A command in a network of its own if the system lets us, so that the tour's fixed ports are free.
fn shell() -> Command {
    for flags in [&["--net"][..], &["--net", "--map-root-user"]] {
        let mut probe = Command::new("unshare");
        probe.args(flags).args(["ip", "link", "set", "lo", "up"]).stdout(Stdio::null()).stderr(Stdio::null());
        if probe.status().is_ok_and(|status| status.success()) {
            let mut command = Command::new("unshare");
            command.args(flags).arg("bash").env("ALONE", "1");
            return command;
        }
    }
    let mut command = Command::new("bash");
    command.env("ALONE", "");
    command
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_default()
}

#[test]
fn the_tour_of_the_readme_works_as_it_is_written() {
    virtual_environment();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let folder = folder.path();
    let lines = tour(&read(root, "README.md"));
    assert!(lines.matches("curl ").count() >= 4, "{lines}");
    std::fs::write(folder.join("tour.sh"), lines).expect("writing the tour");
    let mut command = shell();
    command.arg("-c").arg(STAGE).current_dir(root).env("TMPDIR", folder).stdin(Stdio::null());
    command.env("WEBHOOKD", env!("CARGO_BIN_EXE_webhookd")).env_remove("WEBHOOKD_CONFIG");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a shell");
    let ended = poll(PATIENCE, || child.try_wait().expect("a child to look at"));
    let files = ["tour.out", "tour.err", "received", "receiver.log", "daemon.log"];
    let told: String = files.iter().map(|name| format!("--- {name}\n{}\n", read(folder, name))).collect();
    if ended.is_none() {
        drop(child.kill());
        drop(child.wait());
        panic!("the tour does not end:\n{told}");
    }

    assert_eq!(read(folder, "code").trim(), "0", "the daemon's end:\n{told}");
    assert_eq!(read(folder, "tour.err"), "", "{told}");
    let received: Vec<Value> =
        read(folder, "received").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(received.len(), 1, "one event was verified:\n{told}");
    assert_eq!(received[0]["event"]["data"]["orderId"], "4711", "{told}");
    assert_eq!((&received[0]["lemon"], &received[0]["lemon_markets"]), (&Value::Bool(true), &Value::Bool(true)));

    let out = read(folder, "tour.out");
    let answers = serde_json::Deserializer::from_str(&out).into_iter::<Value>();
    let answers: Vec<Value> = answers.map(|answer| answer.unwrap_or_else(|error| panic!("{error}:\n{told}"))).collect();
    let explained: Vec<&Value> = answers.iter().filter(|answer| answer["deliveries"].is_array()).collect();
    assert_eq!(explained.len(), 2, "explain was asked twice:\n{told}");
    let [before, after] = [explained[0], explained[1]].map(|answer| &answer["deliveries"][0]);
    assert_eq!((&before["state"], &before["attempts"][0]["status"]), (&"delivered".into(), &200.into()), "{told}");
    assert_eq!((&after["state"], &after["attempts"][0]["class"]), (&"pending".into(), &"connect".into()), "{told}");
    assert!(after["waiting_for"].is_object() || after["waiting_for"].is_string(), "{told}");
}
