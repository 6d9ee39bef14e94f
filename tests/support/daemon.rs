//! The real binary as a child process: its folder, its configuration, its life and its end. Ended by its id only.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Client, SOON, free_port, poll};

/// What a daemon is started with: the defaults of a test, changed.
pub struct Builder {
    settings: BTreeMap<String, String>,
    extra: String,
    environment: Vec<(String, String)>,
    descriptors: Option<u32>,
}

impl Builder {
    /// Sets one key by its dotted name; `value` is TOML text, such as `"\"2s\""` or `"[]"`. Replaces a default.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        self.settings.insert(key.to_owned(), value.into());
        self
    }

    /// Sets one key to a string.
    #[must_use]
    pub fn set_text(self, key: &str, value: impl AsRef<str>) -> Self {
        self.set(key, format!("{:?}", value.as_ref()))
    }

    /// Appends TOML tables (`[plans.quick]`, `[[event_types]]`). For `server`, `admin` and `egress` use `set`.
    #[must_use]
    pub fn extra(mut self, toml: &str) -> Self {
        self.extra.push_str(toml);
        self.extra.push('\n');
        self
    }

    /// Sets an environment variable of the daemon.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Limits how many files the daemon may have open.
    #[must_use]
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// Writes the configuration into a new folder; starts nothing.
    pub fn prepare(mut self) -> Daemon {
        let folder = tempfile::Builder::new().prefix("webhookd-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let folder = folder.expect("a folder");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let path = |name: &str| format!("{:?}", folder.path().join(name));
        let defaults = [
            ("state_dir", path("state")),
            ("server.listen", "[]".to_owned()),
            ("server.plaintext_listen", format!("[\"{address}\"]")),
            ("admin.socket", path("admin.sock")),
            ("egress.require_https", "false".to_owned()),
            ("egress.allow", "[\"127.0.0.0/8\"]".to_owned()),
        ];
        for (key, value) in defaults {
            self.settings.entry(key.to_owned()).or_insert(value);
        }
        let mut text = String::new();
        for (key, value) in &self.settings {
            text.push_str(&format!("{key} = {value}\n"));
        }
        text.push_str(&self.extra);
        std::fs::write(folder.path().join("webhookd.toml"), text).expect("writing the configuration");
        Daemon { folder, address, environment: self.environment, descriptors: self.descriptors, child: None }
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.start();
        daemon
    }
}

pub struct Daemon {
    folder: TempDir,
    address: SocketAddr,
    environment: Vec<(String, String)>,
    descriptors: Option<u32>,
    child: Option<Child>,
}

impl Daemon {
    pub fn builder() -> Builder {
        Builder { settings: BTreeMap::new(), extra: String::new(), environment: Vec::new(), descriptors: None }
    }

    /// Where it serves the public interface in plain HTTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The folder that holds configuration, state (`state/`), admin socket and log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config(&self) -> PathBuf {
        self.folder().join("webhookd.toml")
    }

    /// A client without credentials.
    pub fn client(&self) -> Client {
        Client::tcp(self.address)
    }

    /// A client on the admin socket.
    pub fn admin(&self) -> Client {
        Client::unix(&self.folder().join("admin.sock"))
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a daemon that runs").id()
    }

    /// Everything that it has written to stdout and stderr, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// Starts the process and does not wait for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = OpenOptions::new().create(true).append(true).open(self.folder().join("log")).expect("a log");
        let binary = env!("CARGO_BIN_EXE_webhookd");
        let mut command = Command::new(binary);
        if let Some(most) = self.descriptors {
            command = Command::new("sh");
            command.arg("-c").arg(format!("ulimit -n {most}; exec \"$0\" \"$@\"")).arg(binary);
        }
        command.arg("serve").arg("--config").arg(self.config()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.child = Some(command.spawn().expect("the daemon's binary"));
    }

    /// Starts the process and waits until `/readyz` answers 200.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_ready(SOON);
    }

    /// Waits until `/readyz` answers 200; fails the test with the log when that takes longer than `within`.
    pub fn wait_ready(&mut self, within: Duration) {
        let client = self.client();
        let mut ended = None;
        let ready = poll(within, || {
            ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a child to look at"));
            let ready = client.try_send("GET", "/readyz", &[], "").is_ok_and(|answer| answer.status == 200);
            (ready || ended.is_some()).then_some(ready)
        });
        assert!(ready == Some(true), "not ready ({ended:?}); its log:\n{}", self.log());
    }

    /// Ends it with SIGKILL and waits until it is gone.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("a daemon that runs");
        child.kill().expect("a process to kill");
        child.wait().expect("a process to wait for");
    }

    /// Asks it to end with SIGTERM and waits for that; kills it and fails the test after `SOON`.
    pub fn term(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let mut child = self.child.take().expect("a daemon that runs");
        if let Some(status) = poll(SOON, || child.try_wait().expect("a child to look at")) {
            return status;
        }
        drop(child.kill());
        drop(child.wait());
        panic!("SIGTERM did not end it; its log:\n{}", self.log());
    }

    /// Sends a signal, such as `Signal::HUP`.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("a process to signal");
    }

    /// Ends it with SIGTERM and starts it again on the same folder and port.
    pub fn restart(&mut self) {
        let status = self.term();
        assert!(status.success(), "SIGTERM: {status}; its log:\n{}", self.log());
        self.start();
    }

    /// Waits until it has ended by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a daemon that runs");
        let status = poll(SOON, || child.try_wait().expect("a child to look at"));
        status.unwrap_or_else(|| {
            drop(child.kill());
            drop(child.wait());
            panic!("it did not end; its log:\n{}", self.log())
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(6_000).map_or(0, |(at, _)| at);
            eprintln!("--- the daemon's log, its end ---\n{}", &log[from..]);
        }
    }
}
