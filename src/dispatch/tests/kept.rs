//! Connections that webhooks share: those to one scheme, name and port, for as long as one of them delivers there.

use super::*;
use crate::dispatch::kept::Kept;
use crate::egress::{Endpoint, Host};

#[tokio::test]
async fn webhooks_of_one_endpoint_share_its_connections() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let receiver = Receiver::start(204).await;
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let one = daemon.webhook("acme", &receiver).await;
    let other = daemon.webhook("other", &receiver).await;
    // Events go to the two workers in turn, so each webhook delivers on both.
    for (count, no) in [one, other, other, one].into_iter().enumerate() {
        daemon.publish(no, 1).await;
        eventually("it is delivered", || receiver.count() == count + 1).await;
        daemon.settled().await;
    }
    let open = || daemon.dispatcher.egress.open_connections();
    assert_eq!(open(), 2, "one a worker, not one a worker and webhook");
    daemon.ask(Op::DeleteWebhook { no: one }).await;
    daemon.publish(other, 2).await;
    eventually("the other goes on", || receiver.count() == 6).await;
    daemon.settled().await;
    assert_eq!(open(), 2, "who is left goes on using them");
    daemon.ask(Op::DeleteWebhook { no: other }).await;
    eventually("the last one takes them along", || open() == 0).await;
    daemon.stop().await;
}

#[tokio::test]
async fn who_is_switched_off_or_moves_away_lets_go_of_connections() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::system());
    let (receiver, elsewhere) = (Receiver::start(204).await, Receiver::start(204).await);
    let daemon = Daemon::open(folder.path(), &clock, slow());
    let no = daemon.webhook("acme", &receiver).await;
    daemon.publish(no, 2).await;
    eventually("both are delivered", || receiver.count() == 2).await;
    daemon.settled().await;
    let open = || daemon.dispatcher.egress.open_connections();
    assert_eq!(open(), 2);
    daemon.patch(no, WebhookPatch { url: Some(elsewhere.url()), ..WebhookPatch::default() }).await;
    eventually("the old ones are closed", || open() == 0).await;
    daemon.publish(no, 2).await;
    eventually("both are delivered there", || elsewhere.count() == 2).await;
    daemon.settled().await;
    assert_eq!((open(), receiver.count()), (2, 2));
    daemon.patch(no, WebhookPatch { active: Some(false), ..WebhookPatch::default() }).await;
    eventually("these are closed too", || open() == 0).await;
    daemon.stop().await;
}

#[test]
fn a_set_is_for_one_scheme_name_and_port() {
    let kept = Kept::new(2);
    let endpoint = |https, name: &str, port| Endpoint { https, host: Host::Name(name.to_owned()), port };
    let plain = kept.to(&endpoint(false, "example.com", 8443));
    let others = [(true, "example.com", 8443), (false, "example.com", 8444), (false, "example.org", 8443)];
    for (https, name, port) in others {
        assert!(!Arc::ptr_eq(&plain, &kept.to(&endpoint(https, name, port))), "{https} {name} {port}");
    }
    assert!(Arc::ptr_eq(&plain, &kept.to(&endpoint(false, "example.com", 8443))));
    assert!(!std::ptr::eq(plain.of(0), plain.of(1)), "workers share a pool");
}
