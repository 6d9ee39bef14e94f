//! `retention run`: counted, and done.

use serde_json::json;

use super::support::{Daemon, Receiver, SOON, Stage, poll};
use super::{of, says};

#[test]
fn what_has_served_its_time_is_counted_and_removed_from_the_command_line() {
    let stage = Stage::start(Daemon::builder().set_text("retention.idempotency", "1s"));
    let receiver = Receiver::ok();
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    for _ in 0..10 {
        stage.publish(&json!({"type": "order.created", "tenant": "acme"}));
    }
    receiver.wait_for(10, SOON);
    let daemon = &stage.daemon;
    let run = |args: &[&str]| of(daemon, &[&["retention", "run"], args].concat()).run();
    let nothing = run(&["--dry-run"]).ends(0).out;
    says(&nothing, &["would go at most: 0 events, 0 attempts, 0 dead letters, 0 idempotency keys, 0 B"]);
    let by_age = ["--events", "1s", "--attempts", "1s"];
    // They have to be more than a second old and on record; the newest block of each log stays.
    let counted = poll(SOON, || {
        let counted = run(&[&by_age[..], &["--dry-run", "--json"]].concat()).ends(0).json();
        (counted["events"].as_u64() >= Some(5) && counted["attempts"].as_u64() >= Some(1)).then_some(counted)
    });
    let counted = counted.expect("what is old");
    assert_eq!((&counted["dry_run"], &counted["complete"]), (&json!(true), &json!(true)));
    assert!(counted["bytes"].as_u64() > Some(0), "{counted}");
    let events = || stage.owner.get("/v1/events").expect(200).json()["data"].as_array().map(Vec::len);
    assert_eq!(events(), Some(10), "only counted");

    let removed = run(&[&by_age[..], &["--json"]].concat()).ends(0).json();
    // Time goes on between the two.
    assert!(
        removed["events"].as_u64() >= counted["events"].as_u64() && removed["complete"] == true,
        "{counted}, {removed}"
    );
    assert_eq!(events(), Some(10 - usize::try_from(removed["events"].as_u64().expect("a count")).expect("a count")));
    says(&run(&by_age).ends(0).out, &["removed: 0 events, "]);
    for (args, told) in
        [(&["--events", "long"][..], "a duration such as"), (&["--attempts", "1y"], "a duration such as")]
    {
        says(&run(args).ends(1).err, &[told]);
    }
    says(&run(&["--max-bytes", "much"]).ends(64).err, &["--max-bytes"]);
}
