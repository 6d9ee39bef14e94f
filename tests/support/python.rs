//! Receivers, clients and proxies that others made: Python in a virtual environment, JavaScript for Node, nginx and Caddy, made once
//! for the build folder; and whatever else is a program that listens.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{free_port, poll};

const START: Duration = Duration::from_secs(30);

/// A receiver that runs; killed with its handle. It appends one JSON line to `OUT` for each event it accepts.
pub struct Script {
    child: Child,
    folder: TempDir,
    port: u16,
}

/// Starts `tests/receivers/{script}` with `environment`, `PORT` and `OUT`; makes the virtual environment first. A secret
/// that is only known after registration is passed by reserving the port with `free_port` and `PORT` in `environment`.
pub fn python_receiver(script: &str, environment: &[(&str, &str)]) -> Script {
    let mut command = Command::new(virtual_environment().join("bin/python"));
    command.arg(receivers().join(script));
    listening(command, environment)
}

/// As `python_receiver`, for a script in JavaScript.
pub fn node_receiver(script: &str, environment: &[(&str, &str)]) -> Script {
    let mut command = Command::new("node");
    command.env("NODE_PATH", tools().join("node/node_modules")).arg(receivers().join(script));
    listening(command, environment)
}

/// Starts a program of which `environment` says the rest, and waits until it listens.
pub fn listening(mut command: Command, environment: &[(&str, &str)]) -> Script {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let given = environment.iter().find(|(name, _)| *name == "PORT");
    let port = given.map_or_else(free_port, |(_, value)| value.parse().expect("a port"));
    let log = File::create(folder.path().join("log")).expect("a log");
    command.envs(environment.iter().copied());
    command.env("PORT", port.to_string()).env("OUT", folder.path().join("out"));
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut running = Script { child, folder, port };
    let listening = poll(START, || {
        let ended = running.child.try_wait().expect("a child to look at").is_some();
        (ended || TcpStream::connect(("127.0.0.1", port)).is_ok()).then_some(!ended)
    });
    assert!(listening == Some(true), "{command:?} does not listen:\n{}", running.log());
    running
}

/// Runs `tests/clients/{script}` with `environment` to its end; gives the JSON lines that it printed.
pub fn python_client(script: &str, environment: &[(&str, &str)]) -> Vec<Value> {
    let mut command = Command::new(virtual_environment().join("bin/python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script));
    // Whatever proxy this machine has, the daemon stands behind none.
    command.envs(environment.iter().copied()).env("NO_PROXY", "127.0.0.1").stdin(Stdio::null());
    let done = command.output().expect("python");
    let (told, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{script}: {}\n{told}\n{errors}", done.status);
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    told.lines().map(line).collect()
}

impl Script {
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The events that it has verified and accepted.
    pub fn accepted(&self) -> Vec<Value> {
        let lines = std::fs::read_to_string(self.folder.path().join("out")).unwrap_or_default();
        lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until it has accepted `count` events.
    pub fn wait_for(&self, count: usize, within: Duration) -> Vec<Value> {
        let accepted = poll(within, || Some(self.accepted()).filter(|accepted| accepted.len() >= count));
        accepted.unwrap_or_else(|| panic!("accepted {:?} of {count}; its log:\n{}", self.accepted(), self.log()))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a program of the environment that checks the API's description, in `folder`; gives whether it succeeded, and what it
/// printed. Killed after `within`.
pub fn description_tool(
    program: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
    folder: &Path,
    within: Duration,
) -> (bool, String) {
    let printed = folder.join("printed");
    let log = File::create(&printed).expect("a log");
    let mut command = Command::new(made("openapi").join("openapi/bin").join(program));
    command.args(arguments).envs(environment.iter().copied()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("NO_PROXY", "127.0.0.1").current_dir(folder).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a log")).stderr(log);
    let mut child = command.spawn().expect("the program");
    let ended = poll(within, || child.try_wait().expect("a child to look at"));
    drop(child.kill());
    drop(child.wait());
    let printed = std::fs::read_to_string(printed).unwrap_or_default();
    (ended.is_some_and(|status| status.success()), printed)
}

fn receivers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/receivers")
}

/// The folder of the virtual environment, made unless it is there.
pub fn virtual_environment() -> PathBuf {
    tools().join("venv")
}

/// Where to look for nginx and Caddy: what is installed, or else what was fetched.
pub fn path_to_proxies() -> String {
    let fetched = made("proxies").join("proxies/usr").display().to_string();
    let path = std::env::var("PATH").expect("a path");
    format!("{fetched}/bin:{fetched}/sbin:{path}:/usr/sbin")
}

/// The library that tells a program another time: what is installed, or else what was fetched.
pub fn library_of_false_time() -> PathBuf {
    let fetched = made("faketime").join("faketime/usr/lib");
    let in_folder = |lib: &Path| -> Option<PathBuf> {
        let folders = std::fs::read_dir(lib).ok()?.filter_map(Result::ok);
        folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
    };
    in_folder(&fetched).or_else(|| in_folder(Path::new("/usr/lib"))).expect("libfaketime of Debian")
}

fn tools() -> PathBuf {
    made("")
}

/// Makes what the scripts need, or the `part` that is named, unless it is there; several test processes take turns.
fn made(part: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the build folder");
    let lock = File::create(target.join("venv.lock")).expect("a lock file");
    lock.lock().expect("a lock");
    let made = Command::new("bash").arg(receivers().join("setup.sh")).arg(target).arg(part).output().expect("bash");
    let told = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "tests/receivers/setup.sh: {}\n{told}", made.status);
    target.to_owned()
}
