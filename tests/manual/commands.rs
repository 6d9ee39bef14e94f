//! Every command of the documents, as it stands there. Owns that there is none that nobody runs: what `support::pages` knows no
//! runner for fails the first test here; sessions are played by `tests/tour.rs`, what takes a machine by `tests/systemd.rs`.
//!
//! What a reader has to put in is put in here too: the socket's path, an id for `wbh_…`, the times of an incident.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::support::pages::{self, Block, PAGES, Runner, blocks};
use super::support::{Daemon, Receiver, Reply, Request, SOON, Stage, poll, tenant_key, text};

/// Languages of blocks that are nothing to type, and what looks at them.
const NO_COMMANDS: &[&str] = &[
    // Configurations: `the_configurations_in_the_manual_are_accepted`.
    "toml", // Functions of a receiver: `receivers.rs`.
    "python", "js", "rust", "go", "php", // `proxies.rs`.
    "caddy", "nginx",
];

#[test]
fn every_block_of_the_documents_is_run_by_something() {
    let mut commands = 0;
    for block in PAGES.into_iter().flat_map(blocks) {
        let Block { page, heading, language, text } = &block;
        if block.is_commands() {
            assert!(block.runner().is_some(), "{page}, {heading}: nothing runs\n{text}");
            commands += 1;
        } else {
            let known = NO_COMMANDS.contains(&language.as_str());
            assert!(known, "{page}, {heading}: what is ```{language}, and who looks at it?\n{text}");
        }
    }
    assert!(commands >= 30, "{commands}");
    let invented = |page, text: &str| {
        let (heading, language) = ("Somewhere".to_owned(), "sh".to_owned());
        Block { page, heading, language, text: format!("{text}\n") }.runner()
    };
    assert_eq!(invented("docs/OPERATIONS.md", "rm -rf here"), None);
    assert_eq!(invented("docs/RECEIVERS.md", "webhookd status"), None);
    assert_eq!(invented("README.md", "curl http://x\nls"), None);
    assert_eq!(invented("README.md", "webhookd status"), Some(Runner::Daemon));
}

/// Where blocks are run: a daemon with the tenant `acme`, and the programs that they name.
struct Desk {
    stage: Stage,
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        symlink(env!("CARGO_BIN_EXE_webhookd"), folder.path().join("webhookd")).expect("a link");
        // An answer that is no success is to end the block.
        let curl = folder.path().join("curl");
        fs::write(&curl, "#!/bin/sh\nPATH=${PATH#*:} exec curl --silent --show-error --fail-with-body \"$@\"\n")
            .expect("a file");
        fs::set_permissions(&curl, fs::Permissions::from_mode(0o755)).expect("a mode");
        Self {
            stage: Stage::start(Daemon::builder().set("circuit.failures", "0").extra("[plans.once]\ndelays = []")),
            folder,
        }
    }

    fn shell(&self, script: &str, environment: &[(&str, &str)]) -> Command {
        let socket = self.stage.daemon.folder().join("admin.sock");
        let script = script.replace("/run/webhookd/admin.sock", socket.to_str().expect("a path"));
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").expect("a path"));
        let mut command = Command::new("bash");
        command.args(["-e", "-o", "pipefail", "-c", &script]).env("PATH", path).current_dir(self.folder.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEBHOOK")) {
            command.env_remove(name);
        }
        command.env("WEBHOOKD_CONFIG", self.stage.daemon.config()).stdin(Stdio::null());
        command.envs(environment.iter().copied());
        command
    }

    /// Runs it to its end, which has to be a good one; gives what it printed.
    #[track_caller]
    fn run(&self, script: &str) -> String {
        let done = self.shell(script, &[]).output().expect("bash");
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{}:\n{script}\n{out}{err}", done.status);
        out.into_owned()
    }
}

#[test]
fn the_commands_for_a_daemon_do_what_the_page_says() {
    let desk = Desk::new();
    let blocks = pages::run_by(Runner::Daemon);
    assert!(blocks.len() >= 6, "{blocks:?}");
    let (mut pauses, mut tokens) = (Vec::new(), BTreeSet::new());
    for block in &blocks {
        for line in block.text.lines() {
            let out = desk.run(line);
            assert!(!out.is_empty() || line.contains("-X DELETE"), "{line}: nothing came of it");
            // What `curl` asks is answered in JSON.
            let answer = if line.starts_with("curl ") {
                serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}: {error}: {out}"))
            } else {
                Value::Null
            };
            tokens.extend(answer["token"].as_str().map(str::to_owned));
            if line.contains("/admin/pause") || line.contains("/admin/resume") {
                pauses.push(answer["data"].as_array().expect("what is paused").len());
            }
            if line.contains("/admin/retention") || line.starts_with("webhookd retention") {
                assert!(out.contains("events"), "{line}: {out}");
            }
        }
    }
    assert_eq!(pauses, [1, 1, 0], "paused, shown, resumed");
    assert!(tokens.len() >= 3, "a key each: {}", tokens.len());
    // OPERATIONS.md deletes it.
    desk.stage.daemon.admin().get("/admin/tenants/acme").expect(404);
}

/// A line of the incident's chapter that begins like this.
#[track_caller]
fn line<'a>(blocks: &'a [Block], start: &str) -> Vec<&'a str> {
    let lines = blocks.iter().flat_map(|block| block.text.lines());
    let found: Vec<&str> = lines.filter(|line| line.starts_with(start)).collect();
    assert!(!found.is_empty(), "the chapter has no {start}");
    found
}

/// A receiver that was down, its webhook, and what the chapter says to type.
struct Incident {
    desk: Desk,
    blocks: Vec<Block>,
    receiver: Receiver,
    webhook: String,
}

impl Incident {
    fn new() -> Self {
        let (desk, receiver) = (Desk::new(), Receiver::with(|_| Reply::status(500)));
        let body = json!({"url": receiver.url("/"), "events": ["order.*"], "plan": "once"});
        let webhook = text(&desk.stage.register(&body), "id");
        Self { desk, blocks: pages::run_by(Runner::Incident), receiver, webhook }
    }

    fn publish(&self, count: usize) -> Vec<String> {
        let event = json!({"type": "order.created", "tenant": "acme"});
        (0..count).map(|_| text(&self.desk.stage.publish(&event), "id")).collect()
    }

    /// Waits until so many deliveries are dead.
    #[track_caller]
    fn dead(&self, count: usize) {
        let letters = || self.desk.stage.owner.get("/v1/dead-letters").expect(200).json();
        let found = poll(SOON, || (letters()["data"].as_array().map(Vec::len) == Some(count)).then_some(()));
        assert!(found.is_some(), "not {count} dead: {}", letters());
    }

    /// The events of the `count` requests that follow the first `after`.
    #[track_caller]
    fn sent(&self, after: usize, count: usize) -> BTreeSet<String> {
        let requests = self.receiver.wait_for(after + count, SOON);
        let id = |request: &Request| request.header("webhook-id").expect("an id").to_owned();
        requests[after..].iter().map(id).collect()
    }

    /// Runs a line of the chapter, for this webhook and an incident since then.
    fn run(&self, line: &str, since: &str) -> String {
        let line = line.replace("wbh_…", &self.webhook).replace("2026-03-01T06:00:00Z", since);
        let line = line.replace("--since …", &format!("--since {since}"));
        self.desk.run(&line.replace("2026-03-02T08:00:00Z", "2099-01-01T00:00:00Z"))
    }

    fn is_inactive(&self) -> bool {
        self.desk.run("webhookd webhooks --state inactive").contains(&self.webhook)
    }
}

fn set<'a>(ids: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    ids.into_iter().cloned().collect()
}

#[test]
fn a_receiver_that_was_down_gets_everything_by_the_chapters_commands() {
    let incident = Incident::new();
    let (receiver, blocks) = (&incident.receiver, &incident.blocks);
    // The chapter's second case first: deliveries have died, two before the incident and three in it.
    let before = incident.publish(2);
    incident.dead(2);
    std::thread::sleep(std::time::Duration::from_millis(5));
    let since = jiff::Timestamp::now().to_string();
    let during = incident.publish(3);
    incident.dead(5);
    receiver.set(|_| Reply::ok());
    let redrives = line(blocks, "webhookd dead-letters redrive");
    assert_eq!(redrives.len(), 2, "{redrives:?}");
    assert!(incident.run(redrives[0], &since).contains("3 deliveries"), "only those of the incident");
    assert_eq!(receiver.count(), 5, "only counted");
    assert!(incident.run(redrives[1], &since).contains("done"));
    assert_eq!(incident.sent(5, 3), set(&during));
    incident.dead(2);

    // Its first: the receiver answers 410, its webhook becomes inactive and misses what follows.
    receiver.set(|_| Reply::status(410));
    let gone = incident.publish(1);
    incident.dead(3);
    let missed = incident.publish(2);
    assert!(incident.is_inactive());
    receiver.set(|_| Reply::ok());
    let recovers = line(blocks, "webhookd webhooks recover");
    let counted = incident.run(recovers[0], &since);
    assert!(counted.contains("5 deliveries"), "the three that are dead and the two that it missed: {counted}");
    assert!(incident.run(recovers[1], &since).contains("done"));
    assert_eq!(incident.sent(9, 5), set(before.iter().chain(&gone).chain(&missed)));
    incident.dead(0);
    assert!(!incident.is_inactive());

    // Its third: the receiver said 200 and lost them.
    let page = pages::page("docs/OPERATIONS.md");
    let is_it = |code: &&str| code.starts_with("webhookd webhooks recover") && code.contains("--only all");
    incident.run(&format!("{} --wait", page.split('`').find(is_it).expect("the third command")), &since);
    assert_eq!(incident.sent(14, 6), set(during.iter().chain(&gone).chain(&missed)));
}

/// What runs beside the test; killed with its handle.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_session_of_local_development_goes_as_it_is_shown() {
    let desk = Desk::new();
    let blocks = pages::run_by(Runner::Receiver);
    let session = blocks.iter().find(|block| block.language == "console").expect("a session");
    let (typed, shown): (Vec<&str>, Vec<&str>) = session.text.lines().partition(|line| line.starts_with("$ "));
    assert_eq!((typed.len(), shown.len()), (2, 3), "{}", session.text);
    let receiver = Receiver::ok();
    let key = tenant_key(&desk.stage.daemon, "acme");
    let script = typed.iter().map(|line| &line[2..]).collect::<Vec<_>>().join("\nexec ");
    let script =
        script.replace("https://hooks.example.com", &desk.stage.daemon.base_url()).replace("whd_…", &key.token);
    let script = script.replace("http://127.0.0.1:5000", receiver.url("").trim_end_matches('/'));
    let out = desk.folder.path().join("out");
    let mut command = desk.shell(&script, &[]);
    command.env_remove("WEBHOOKD_CONFIG").stdout(fs::File::create(&out).expect("a file"));
    let _listener = Beside(command.spawn().expect("bash"));
    let lines = |count: usize| {
        let read = || fs::read_to_string(&out).expect("text").lines().map(str::to_owned).collect::<Vec<_>>();
        let found = poll(SOON, || Some(read()).filter(|lines| lines.len() >= count));
        found.unwrap_or_else(|| panic!("{count} lines in {:?}", read()))
    };
    lines(2);
    desk.stage.publish(&json!({"type": "order.updated", "tenant": "acme", "data": {}}));
    let told = lines(3);
    receiver.wait_for(1, SOON);
    // The same words in the same places, but for ids, secrets, times and the address.
    for (told, shown) in told.iter().zip(&shown) {
        let kind = |word: &str| {
            let end = ["wbh_", "evt_", "http"].into_iter().find(|start| word.starts_with(start));
            let is_secret = word.ends_with('…') || word.len() == 64;
            let end = end.or(is_secret.then_some("a secret"));
            match (end, word.bytes().next().is_some_and(|byte| byte.is_ascii_digit())) {
                (Some(start), _) => start.to_owned(),
                (None, true) => "a number".to_owned(),
                (None, false) => word.to_owned(),
            }
        };
        let kinds = |line: &str| line.split(' ').map(kind).collect::<Vec<_>>();
        assert_eq!(kinds(told), kinds(shown), "{told}\n{shown}");
    }
}

/// The text of all files of a test or a bench.
fn sources(folder: &str, name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut all = fs::read_to_string(root.join(format!("{name}.rs"))).unwrap_or_default();
    for entry in fs::read_dir(root.join(name)).into_iter().flatten() {
        all.push_str(&fs::read_to_string(entry.expect("an entry").path()).unwrap_or_default());
    }
    assert!(!all.is_empty(), "there is no {folder}/{name}");
    all
}

#[test]
fn what_builds_and_measures_names_what_there_is() {
    let pipeline = pages::page(".ci/run");
    let mut looked_at = 0;
    for line in pages::run_by(Runner::Build).iter().flat_map(|block| block.text.lines()) {
        let line = line.split(" #").next().unwrap_or_default().trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        let (variables, words) = words.split_at(words.iter().take_while(|word| word.contains('=')).count());
        let after = |flag: &str| words.iter().skip_while(|word| **word != flag).nth(1).copied();
        let options =
            words.iter().skip_while(|word| **word != "--").filter(|word| word.len() > 2 && word.starts_with("--"));
        match words {
            ["bash", script] => assert!(pipeline.contains(line) && Path::new(script).exists(), "{line}"),
            // The daemon's own command: `tests/tour.rs` runs what stands behind the dashes.
            ["cargo", "run", "--release", "--", "serve", "--dev"] => {}
            ["cargo", "bench", "--bench", bench, ..] => {
                let source = sources("benches", bench);
                assert!(pages::page("Cargo.toml").contains(&format!("name = {bench:?}")), "{line}");
                for option in options {
                    assert!(source.contains(&format!("{option:?} =>")), "{line}: {option}");
                }
                let scenario = after("--scenario");
                assert!(scenario.is_none_or(|scenario| source.contains(&format!("{scenario:?}"))), "{line}");
            }
            ["cargo", "test", "--release", "--test", test, "--", ..] => drop(sources("tests", test)),
            ["cargo", "test", "--release", "--test", test, filter, ..] => {
                let source = sources("tests", test);
                assert!(source.contains(&format!("fn {filter}")), "{line}: no test begins with {filter}");
                for variable in variables {
                    let (name, _) = variable.split_once('=').expect("a variable");
                    assert!(source.contains(&format!("{name:?}")), "{line}: nobody reads {name}");
                }
            }
            _ => panic!("what is this? {line}"),
        }
        looked_at += 1;
    }
    assert!(looked_at >= 15, "{looked_at}");
}

/// The words of a command line before its first option or placeholder, and its options.
fn parts(code: &str) -> (Vec<&str>, Vec<&str>) {
    let plain =
        |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') && !word.starts_with('-');
    let words = code.split_whitespace().take_while(plain).collect();
    (words, code.split_whitespace().filter(|word| word.starts_with("--")).collect())
}

#[test]
fn every_command_in_the_text_exists_with_its_options() {
    let mut looked_at = BTreeSet::new();
    for name in PAGES {
        let text = pages::page(name);
        let table = text
            .split_once("\n| command | does |\n")
            .map_or("", |(_, rest)| rest.split("\n\n").next().unwrap_or_default());
        let rows = table.lines().filter_map(|row| row.strip_prefix("| `")?.split(" |").next());
        let of_table = rows.flat_map(|cell| cell.split('`')).filter(|code| !code.trim_matches([',', ' ']).is_empty());
        let of_text = text
            .lines()
            .flat_map(|line| line.split('`').skip(1).step_by(2))
            .filter_map(|code| code.strip_prefix("webhookd "));
        looked_at.extend(of_table.chain(of_text).map(str::to_owned));
    }
    for code in &looked_at {
        let (mut words, options) = parts(code);
        let named = words.len();
        let help = loop {
            let done =
                Command::new(env!("CARGO_BIN_EXE_webhookd")).args(&words).arg("--help").output().expect("the binary");
            if done.status.success() {
                break String::from_utf8_lossy(&done.stdout).into_owned();
            }
            assert!(words.len() > 1, "webhookd {code}: no such command");
            words.pop();
        };
        // What follows a command may be its argument, but not where a command of its own has to follow.
        assert!(words.len() == named || !help.contains("\nCommands:\n"), "webhookd {code}: no such command");
        for option in options {
            let option = option.trim_end_matches(|char: char| !char.is_ascii_lowercase());
            assert!(option.is_empty() || help.contains(option), "webhookd {code}: no {option}");
        }
    }
    assert!(looked_at.len() >= 30, "{looked_at:?}");
}
