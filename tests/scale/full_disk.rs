//! Promise 9 on a real disk: a small file system of its own is filled while the daemon runs. As root only: it is mounted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{Daemon, Receiver, Reply, SOON, Stage, poll, text};

/// From the moment at which there is room again.
const ACCEPTED_AGAIN: Duration = Duration::from_secs(5);
const SIZE: u64 = 160 << 20;
/// What the ballast leaves.
const ROOM: u64 = 8 << 20;

struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path) -> Option<Self> {
        Self::with(at, &["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"])
    }

    fn ext4(at: &Path, image: &Path) -> Option<Self> {
        std::fs::File::create(image).and_then(|file| file.set_len(SIZE)).expect("an image");
        let made = Command::new("mkfs.ext4").arg("-q").arg(image).status().expect("mkfs.ext4");
        assert!(made.success());
        Self::with(at, &["-o", "loop", image.to_str().expect("a path")])
    }

    fn with(at: &Path, what: &[&str]) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a folder");
        let done = Command::new("mount").args(what).arg(at).output().expect("mount");
        done.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn fill(folder: &Path) -> PathBuf {
    let ballast = folder.join("ballast");
    let used = std::fs::read_dir(folder).expect("a folder").filter_map(|entry| entry.ok()?.metadata().ok());
    let used: u64 = used.map(|data| data.len()).sum();
    let size = usize::try_from(SIZE.saturating_sub(used + ROOM)).expect("a size");
    // What does not fit any more is no matter.
    drop(std::fs::write(&ballast, vec![1; size]));
    ballast
}

fn outlives_a_full_disk(mut daemon: Daemon, state: &Path) {
    daemon.start();
    super::support::tenant(&daemon, "acme");
    let owner = daemon.client().bearer(&super::support::tenant_key(&daemon, "acme").token);
    let publisher = daemon.client().bearer(&super::support::publisher_key(&daemon).token);
    let mut stage = Stage { daemon, owner, publisher };
    let receiver = Receiver::forgetful(|_| Reply::ok());
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    let pid = stage.daemon.pid();
    let filler = "x".repeat(100_000);
    let body = json!({"type": "order.created", "tenant": "acme", "data": {"filler": filler}}).to_string();
    let mut accepted = vec![text(&stage.publish(&json!({"type": "order.created", "tenant": "acme"})), "id")];

    let ballast = fill(state);
    let publish = || stage.publisher.send("POST", "/v1/events", &[], body.clone());
    let refused = (0..2_000).find_map(|_| {
        let answer = publish();
        if answer.status == 201 {
            accepted.push(text(&answer.json(), "id"));
        }
        (answer.status != 201).then_some(answer)
    });
    let refused = refused.expect("the disk fills up").expect(503);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    for _ in 0..20 {
        let answer = publish();
        // What little room is left may be enough for one more.
        if answer.status == 201 {
            accepted.push(text(&answer.json(), "id"));
        } else {
            assert!(answer.expect(503).header("retry-after").is_some());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    stage.daemon.client().get("/healthz").expect(200);

    std::fs::remove_file(ballast).expect("the ballast");
    let since = Instant::now();
    let again = poll(SOON, || Some(publish()).filter(|answer| answer.status == 201));
    let took = since.elapsed();
    accepted.push(text(&again.expect("it accepts again").json(), "id"));
    println!("{} accepted; after there was room again, the next was accepted after {took:?}", accepted.len());
    assert!(took <= ACCEPTED_AGAIN, "{took:?}");
    assert_eq!(stage.daemon.pid(), pid, "without a restart");
    poll(SOON, || (receiver.count() >= accepted.len()).then_some(())).expect("all are delivered");
    stage.daemon.kill9();
    stage.daemon.start();
    for id in &accepted {
        stage.owner.get(&format!("/v1/events/{id}")).expect(200);
    }
    assert!(stage.daemon.term().success());
}

#[test]
fn g09_a_full_disk_is_outlived_without_a_restart() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let at = folder.path().join("disk");
    let state = at.join("state");
    let mount = if std::env::var_os("G09_EXT4").is_some() {
        Some(Mount::ext4(&at, &folder.path().join("image")).expect("a loop device"))
    } else {
        Mount::tmpfs(&at)
    };
    if mount.is_none() {
        println!("not as root: nothing can be mounted, nothing is tested");
        return;
    }
    std::fs::create_dir(&state).expect("a folder");
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("its mode");
    let daemon = Daemon::builder().set_text("state_dir", state.to_str().expect("a path")).prepare();
    outlives_a_full_disk(daemon, &state);
}
