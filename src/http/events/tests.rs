//! That a body which is read in one pass is read as the parser reads it, and that what the parser refuses it does not take.

use proptest::prelude::*;

use super::*;

const EVENT_BYTES_MAX: usize = 200;

/// Events with every member, in forms that are ordinary and not.
const EVENTS: [&str; 8] = [
    r#"{"type":"a.b"}"#,
    r#"{"type":"a.b","tenant":"acme","data":{"n":0.10,"s":"x\n\u00e4","l":[1,null,{}]},"context":{"k":"v"},"user":{"id":7}}"#,
    r#"{ "tenant" : null , "type" : "a" , "other" : {"type":"x"} , "created_at" : "2024-01-15T10:30:01Z" }"#,
    r#"{"type":"a\u002eb","ordering_key":"k\"1","data":null}"#,
    r#"{"type":"a","unknown":[{"type":1}],"unknown":2}"#,
    r#"{"type":"a","data":{"a":1,"a":2}}"#,
    r#"{"t\u0079pe":"a"}"#,
    r#"{"type":"ä€😀","user":{"ä":"€"}}"#,
];

/// Whatever is found in one pass the parser finds as well.
fn agree(body: &[u8]) -> bool {
    let skimmed = skim_batch(body, EVENT_BYTES_MAX);
    let found = skimmed.is_some();
    if found {
        assert_eq!(skimmed, parse_batch(body, EVENT_BYTES_MAX).ok(), "{}", body.escape_ascii());
    }
    found
}

fn batch(events: &[&str]) -> String {
    format!(r#"{{"events":[{}]}}"#, events.join(","))
}

#[test]
fn what_is_ordinary_is_read_in_one_pass() {
    for event in EVENTS {
        assert!(parse_batch(batch(&[event]).as_bytes(), EVENT_BYTES_MAX).is_ok(), "{event}");
        assert!(agree(batch(&[event]).as_bytes()), "{event}");
    }
    let around = [
        (r#" {"events" : [ ] , "more" : [[]] } "#, true),
        (r#"{"events":[],"events":[]}"#, false),
        (r#"{"events":{}}"#, false),
        (r#"{"events":[[]]}"#, false),
        (r#"{"events":[["a","b"]]}"#, false),
        (r#"{"events":null}"#, false),
        (r#"{"events":[{"type":"a","type":"a"}]}"#, false),
        (r#"{"events":[{"type":"a"}]} x"#, false),
        (r#"[[{"type":"a"}]]"#, false),
        (r#"{"Events":[]}"#, false),
        ("{}", false),
    ];
    for (body, is_found) in around {
        assert_eq!(agree(body.as_bytes()), is_found, "{body}");
    }
}

#[test]
fn what_is_too_much_of_anything_is_left_to_the_parser() {
    let sized = |bytes: usize| format!(r#"{{"type":"a","data":{{"p":"{}"}}}}"#, "x".repeat(bytes - 28));
    assert_eq!(sized(100).len(), 100);
    let small = sized(40);
    for place in 0..3 {
        let mut events = [&*small; 3];
        let (fits, too_large) = (sized(100), sized(EVENT_BYTES_MAX + 1));
        events[place] = &fits;
        assert!(agree(batch(&events).as_bytes()), "{place}");
        events[place] = &too_large;
        assert!(!agree(batch(&events).as_bytes()), "{place}");
    }
    assert!(agree(batch(&[EVENTS[0]; BATCH_EVENTS_MAX]).as_bytes()));
    assert!(!agree(batch(&[EVENTS[0]; BATCH_EVENTS_MAX + 1]).as_bytes()));
}

proptest! {
    #[test]
    fn what_is_read_in_one_pass_the_parser_reads_alike(
        picked in prop::collection::vec(prop::sample::select(EVENTS.as_slice()), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(br#"{}[]",:\u0a 1-"#.as_slice())), 0..4),
    ) {
        let mut body = batch(&picked).into_bytes();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        agree(&body);
    }
}
