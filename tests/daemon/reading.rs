//! Who asks for what was just answered finds it, also while others publish.

use serde_json::json;

use super::support::{Daemon, Receiver, Stage, text};

const PUBLISHERS: usize = 6;
const EVENTS: usize = 100;

#[test]
fn what_a_201_says_is_there_for_the_next_request() {
    let stage = Stage::start(Daemon::builder());
    let receiver = Receiver::ok();
    stage.register(&json!({"url": receiver.url("/"), "events": ["*"]}));
    std::thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let stage = &stage;
            scope.spawn(move || {
                let mut publishes = stage.publisher.open().expect("a connection");
                let mut reads = stage.owner.open().expect("a connection");
                let mut read = |path: &str| reads.send("GET", path, &[], "").expect("an answer").expect(200).json();
                for number in 0..EVENTS {
                    let body = json!({"type": "ping", "tenant": "acme", "data": {"of": publisher, "number": number}});
                    let answer = publishes.send("POST", "/v1/events", &[], body.to_string()).expect("an answer");
                    let id = text(&answer.expect(201).json(), "id");
                    // By its id, in the list, and what became of it: each has a way of its own.
                    assert_eq!(read(&format!("/v1/events/{id}"))["data"], body["data"]);
                    let newest = read("/v1/events?limit=100");
                    assert!(newest["data"].as_array().expect("a list").iter().any(|event| event["id"] == *id), "{id}");
                    assert_eq!(read(&format!("/v1/events/{id}/explain"))["deliveries"][0]["matched"], true);
                }
            });
        }
    });
}
