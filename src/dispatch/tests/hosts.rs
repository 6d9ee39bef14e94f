//! What webhooks of one host share: its connections, for as long as one of them delivers there.

use super::*;

#[tokio::test]
async fn webhooks_of_one_host_share_its_connections() {
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
