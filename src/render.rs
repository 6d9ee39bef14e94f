//! Delivery bodies: an event in the shape of each dialect. Owns member order and time forms.
//!
//! Invariant: `data`, `context` and `user` pass through byte for byte; they were checked to be JSON objects when the event was
//! accepted, and nothing here parses or re-serialises them. The same event and webhook always give the same bytes,
//! so that every retry sends what the first attempt sent. Around the published text there is no white space.
//! Signing what comes out is left to `sign`.

use bytes::Bytes;

use crate::model::event::Event;
use crate::model::id::WebhookId;
use crate::model::time;
use crate::model::webhook::Dialect;

/// The body that a webhook of this dialect gets. Only Omnia's names the webhook.
#[must_use]
pub fn body(dialect: Dialect, event: &Event, webhook: &WebhookId) -> Bytes {
    let mut out = Vec::with_capacity(size_hint(event));
    match dialect {
        Dialect::Lemon => write_event(&mut out, event),
        Dialect::Omnia => write_omnia(&mut out, event, webhook),
        Dialect::Vibe => write_vibe(&mut out, event),
        Dialect::OneMetric => write_onemetric(&mut out, event),
    }
    out.into()
}

/// An event as it is read at `/v1/events/{id}`: exactly what a lemon receiver gets (contract §3).
#[must_use]
pub fn event_json(event: &Event) -> Bytes {
    let mut out = Vec::with_capacity(size_hint(event));
    write_event(&mut out, event);
    out.into()
}

/// Appends `event_json`: for listings and answers that hold more than one event, or an event and more.
pub fn write_event(out: &mut Vec<u8>, event: &Event) {
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(&event.id.text());
    out.extend_from_slice(b"\",\"type\":");
    write_string(out, &event.kind);
    out.extend_from_slice(b",\"created_at\":\"");
    out.extend_from_slice(&time::lemon(event.created_us));
    out.extend_from_slice(b"\",\"context\":");
    out.extend_from_slice(event.context.as_deref().unwrap_or(b"{}"));
    write_part(out, b",\"data\":", event.data.as_ref());
    write_part(out, b",\"user\":", event.user.as_ref());
    out.push(b'}');
}

/// Whether no array or object in `json` lies deeper than `depth_max` containers, the outermost counted as 1.
///
/// `RawValue` skips serde_json's own limit. This scan knows strings and escapes and nothing else of JSON, needs no stack
/// and may run before the text was parsed: on what is no JSON its answer means nothing, and the parser refuses it.
#[must_use]
pub fn depth_ok(json: &[u8], depth_max: usize) -> bool {
    // What opens no more than that, strings included, lies no deeper; counting takes a fraction of the scan's time.
    if opens(json) <= depth_max {
        return true;
    }
    let mut depth = 0_usize;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    true
}

/// How many bytes of a text open an array or an object, those in strings included.
#[must_use]
pub fn opens(json: &[u8]) -> usize {
    // Summed up in bytes as far as a byte goes: so the compiler looks at many at once, at a twentieth of the time.
    let opens_in = |part: &[u8]| part.iter().map(|byte| u8::from(matches!(byte, b'{' | b'['))).sum::<u8>();
    json.chunks(240).map(|part| usize::from(opens_in(part))).sum()
}

/// Moves past the closing quote of a string whose opening one was read.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            // Whatever is escaped, a quote above all, ends nothing.
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// Contract §4.2: the vendor publishes no body; `eventType` is the channel of the event's type, where it has one.
fn write_omnia(out: &mut Vec<u8>, event: &Event, webhook: &WebhookId) {
    out.extend_from_slice(b"{\"type\":");
    write_string(out, &event.kind);
    write_text(out, b",\"subscriptionId\":\"", &webhook.dashed());
    out.extend_from_slice(b"\",\"eventType\":");
    write_string(out, event.channel.as_ref().unwrap_or(&event.kind));
    out.extend_from_slice(b",\"eventId\":\"");
    out.extend_from_slice(&event.id.text());
    write_text(out, b"\",\"timestamp\":\"", &time::seconds_z(event.created_us));
    out.extend_from_slice(b"\",\"data\":");
    out.extend_from_slice(event.data.as_deref().unwrap_or(b"{}"));
    out.push(b'}');
}

/// Contract §4.3, the seed's payloads: `data` is always there.
fn write_vibe(out: &mut Vec<u8>, event: &Event) {
    out.extend_from_slice(b"{\"event\":");
    write_string(out, &event.kind);
    write_text(out, b",\"timestamp\":\"", &time::seconds_z(event.created_us));
    out.extend_from_slice(b"\",\"data\":");
    out.extend_from_slice(event.data.as_deref().unwrap_or(b"{}"));
    out.push(b'}');
}

/// Contract §4.4, the seed's payloads: type `A.B` is event type `A` and sub-type `B`; absent parts are left out.
fn write_onemetric(out: &mut Vec<u8>, event: &Event) {
    let (kind, sub) = match event.kind.split_once('.') {
        Some((kind, sub)) => (kind, Some(sub)),
        None => (event.kind.as_str(), None),
    };
    out.extend_from_slice(b"{\"event_type\":");
    write_string(out, kind);
    if let Some(sub) = sub {
        out.extend_from_slice(b",\"sub_type\":");
        write_string(out, sub);
    }
    write_text(out, b",\"time_stamp\":\"", &time::spaced(event.created_us));
    out.push(b'"');
    write_part(out, b",\"details\":", event.data.as_ref());
    write_part(out, b",\"user\":", event.user.as_ref());
    out.push(b'}');
}

/// Room for any dialect's members around the published text, so that a body is allocated once.
fn size_hint(event: &Event) -> usize {
    let part = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    let channel = event.channel.as_ref().map_or(0, String::len);
    256 + 2 * (event.kind.len() + channel) + part(&event.data) + part(&event.context) + part(&event.user)
}

/// A name and a published object, when there is one.
fn write_part(out: &mut Vec<u8>, name: &[u8], part: Option<&Bytes>) {
    if let Some(part) = part {
        out.extend_from_slice(name);
        out.extend_from_slice(part);
    }
}

/// A name and text of ours that needs no escaping.
fn write_text(out: &mut Vec<u8>, name: &[u8], text: &str) {
    out.extend_from_slice(name);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a whole number.
pub fn write_number(out: &mut Vec<u8>, number: u64) {
    serde_json::to_writer(out, &number).expect("a number is always JSON");
}

/// A JSON string, quoted and escaped.
fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string is always JSON");
}

#[cfg(test)]
mod tests;
