//! A certificate that is renewed on disk is shown without anybody asking for it; one that can't be used is not, loudly.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::support::{Authority, Certificate, Client, Daemon, SOON, free_port, poll};

/// Two looks, and a busy machine.
const LOOKED: Duration = Duration::from_secs(40);

#[test]
fn a_certificate_that_changes_on_disk_is_taken_over_or_refused_aloud() {
    let folder = tempfile::tempdir().expect("a folder");
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let write = |chain: &str, private: &str| {
        // As a renewal does: new files in the place of the old ones.
        for (path, text) in [(&cert, chain), (&key, private)] {
            let new = path.with_extension("new");
            fs::write(&new, text).expect("a file");
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("permissions");
            fs::rename(&new, path).expect("renaming it");
        }
    };
    let (old, new) = (Authority::new(), Authority::new());
    let (chain, private) = old.issue(Certificate::Good);
    write(&chain, &private);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let builder = Daemon::builder().set("server.listen", format!("[\"{address}\"]"));
    let builder = builder.set_text("server.tls.cert", cert.to_str().expect("a path"));
    let daemon = builder.set_text("server.tls.key", key.to_str().expect("a path")).start();
    let shows = |authority: &Authority| {
        let client = Client::tls(address, "localhost", authority);
        client.try_send("GET", "/readyz", &[], "").is_ok_and(|answer| answer.status == 200)
    };
    let metric = || {
        let text = daemon.admin().get("/metrics").expect(200).text();
        text.lines().find_map(|line| line.strip_prefix("webhookd_certificate_success ").map(str::to_owned))
    };
    assert!(shows(&old) && !shows(&new));
    assert_eq!(metric().as_deref(), Some("1"));

    // The key of another certificate.
    let (renewed, its_key) = new.issue(Certificate::Good);
    write(&renewed, &private);
    let told = poll(LOOKED, || daemon.log().lines().find(|line| line.contains("can't be used")).map(str::to_owned));
    let told = told.unwrap_or_else(|| panic!("nothing is said of it:\n{}", daemon.log()));
    assert!(told.contains("ERROR") && told.contains("is not the key of the certificate"), "{told}");
    assert_eq!(metric().as_deref(), Some("0"));
    assert!(shows(&old), "the old one stays");

    write(&renewed, &its_key);
    assert!(poll(LOOKED, || shows(&new).then_some(())).is_some(), "the new one is never shown:\n{}", daemon.log());
    assert!(poll(SOON, || (metric().as_deref() == Some("1")).then_some(())).is_some());
    assert_eq!(daemon.log().matches("can't be used").count(), 1, "said once");
}
