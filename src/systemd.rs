//! What systemd and the daemon tell each other: sockets handed over, readiness, status, time to start, the watchdog. Owns the
//! names of the sockets; the protocol is `sd-notify`'s and `listenfd`'s.
//!
//! Invariant: without systemd everything here does nothing. Leaves accepting to `http`, and what is told to whoever knows it.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// While the daemon starts, systemd is asked for more time this often, and for this much.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY_US: u32 = 30_000_000;

/// What a handed-over socket is for: `FileDescriptorName=` of its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The API, with TLS.
    Api,
    Admin,
    /// `/metrics`, in plain HTTP.
    Metrics,
}

/// A listening socket that was made by whoever started us.
#[derive(Debug)]
pub enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Why handed-over sockets can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("a socket named {0:?} was handed over; FileDescriptorName= in its unit has to be api, admin or metrics")]
    Name(String),
    #[error("the handed-over socket {name} is no listening TCP or unix socket: {source}")]
    Kind { name: String, source: io::Error },
    #[error("the handed-over sockets can't be taken: {0}")]
    Taken(#[from] io::Error),
}

fn purpose(name: &str) -> Option<Purpose> {
    match name {
        "api" => Some(Purpose::Api),
        "admin" => Some(Purpose::Admin),
        "metrics" => Some(Purpose::Metrics),
        _ => None,
    }
}

/// Takes the sockets that were handed over. Called once, before any thread is started: it takes the variables about them out
/// of the environment.
///
/// # Errors
/// When one has no name that we know or is of another kind: nobody would ever accept on it.
pub fn handed_over() -> Result<Vec<(Purpose, Listening)>, HandoverError> {
    let names: Vec<String> = sd_notify::listen_fds_with_names()?.map(|(_, name)| name).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut descriptors = ListenFd::from_env();
    let mut taken = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        let purpose = purpose(&name).ok_or_else(|| HandoverError::Name(name.chars().take(64).collect()))?;
        let tcp = descriptors.take_tcp_listener(index).map(|socket| socket.map(Listening::Tcp));
        let socket = tcp.or_else(|_| descriptors.take_unix_listener(index).map(|socket| socket.map(Listening::Unix)));
        match socket {
            Ok(Some(socket)) => taken.push((purpose, socket)),
            Ok(None) => {}
            Err(source) => return Err(HandoverError::Kind { name, source }),
        }
    }
    Ok(taken)
}

fn tell(state: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell, and a manager that does not listen is no reason to stop.
    let _ = sd_notify::notify(state);
}

/// The daemon serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins; `ready` ends it, however it went.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // Type=notify-reload wants both in one message.
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The daemon finishes what is under way.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("Finishing what is under way")]);
}

/// What `systemctl status` shows.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// The proof of life that systemd waits for.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How long systemd waits for a proof of life before it restarts us; `None` when it does not.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Asks systemd for time while a store is read; stops when it is dropped.
pub struct Starting {
    done: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Starting {
    /// Begins to ask; after `longest` a start that still hangs is left to `TimeoutStartSec=`.
    #[must_use]
    pub fn begin(longest: Duration) -> Self {
        let (done, ended) = mpsc::channel();
        let thread = std::env::var_os("NOTIFY_SOCKET").and_then(|_| {
            let thread = std::thread::Builder::new().name("starting".to_owned());
            // Without the thread systemd's own patience has to do.
            thread.spawn(move || ask_for_time(&ended, longest)).ok()
        });
        Self { done, thread }
    }
}

fn ask_for_time(ended: &mpsc::Receiver<()>, longest: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < longest {
        let status = format!("Reading the store, for {} s so far", begun.elapsed().as_secs());
        tell(&[NotifyState::ExtendTimeoutUsec(EXTEND_BY_US), NotifyState::Status(&status)]);
        if ended.recv_timeout(EXTEND_EVERY) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.done.send(());
        if let Some(thread) = self.thread.take() {
            // So that nothing it tells comes after what is told next.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sockets_are_those_of_the_units() {
        for (file, wanted) in [
            (include_str!("../systemd/webhookd.socket"), Purpose::Api),
            (include_str!("../systemd/examples/webhookd-admin.socket"), Purpose::Admin),
            (include_str!("../systemd/examples/webhookd-metrics.socket"), Purpose::Metrics),
        ] {
            let name = file.lines().find_map(|line| line.strip_prefix("FileDescriptorName="));
            assert_eq!(name.and_then(purpose), Some(wanted));
        }
        assert_eq!(purpose("webhookd.socket"), None, "systemd's name for a unit without FileDescriptorName=");
    }

    #[test]
    fn without_systemd_nothing_is_handed_over_and_nothing_is_told() {
        assert!(handed_over().unwrap().is_empty());
        assert_eq!(watchdog(), None);
        let begun = Instant::now();
        drop(Starting::begin(EXTEND_EVERY));
        assert!(begun.elapsed() < EXTEND_EVERY);
        ready();
    }
}
