//! The rows themselves: what the value of each member may not be, and what is said of it.

use super::*;

#[tokio::test]
async fn r_inner_targets() {
    let mut rows = Vec::new();
    for (host, says) in [
        ("127.0.0.1", "127.0.0.1 is not allowed: loopback"),
        ("2130706433", "127.0.0.1 is not allowed: loopback"),
        ("0x7f.1", "127.0.0.1 is not allowed: loopback"),
        ("0177.0.0.1", "127.0.0.1 is not allowed: loopback"),
        ("127.1", "127.0.0.1 is not allowed: loopback"),
        ("[::1]", "::1 is not allowed: loopback"),
        ("[::ffff:127.0.0.1]", "127.0.0.1: loopback"),
        ("169.254.169.254", "169.254.169.254 is not allowed: cloud metadata"),
        ("100.64.0.1", "100.64.0.1 is not allowed: "),
        ("198.18.0.1", "198.18.0.1 is not allowed: "),
        ("0.0.0.0", "0.0.0.0 is not allowed: "),
        ("[64:ff9b::7f00:1]", "127.0.0.1: loopback"),
        ("[2002:7f00:1::1]", "127.0.0.1: loopback"),
        ("[fe80::1]", "fe80::1 is not allowed: link-local"),
        ("[fd00:ec2::254]", "fd00:ec2::254 is not allowed: AWS metadata"),
        ("168.63.129.16", "168.63.129.16 is not allowed: Azure"),
        ("100.100.100.200", "100.100.100.200 is not allowed: Alibaba"),
        ("192.0.0.192", "192.0.0.192 is not allowed: Oracle"),
        ("metadata.google.internal", "metadata.google.internal is a name of the cloud metadata service"),
        ("METADATA.goog.", "metadata.goog. is a name of the cloud metadata service"),
        ("metadata", "metadata is a name of the cloud metadata service"),
        ("localhost", "localhost is a name of this machine: loopback"),
        ("LOCALHOST.", "localhost. is a name of this machine: loopback"),
        ("a.localhost", "a.localhost is a name of this machine: loopback"),
    ] {
        for url in [format!("http://{host}/"), format!("https://{host}/"), format!("https://{host}:8443/x?y=z")] {
            rows.push(row("url", json!(url), "target_forbidden", says));
        }
    }
    let long = format!("https://{}.localhost/", "y".repeat(63));
    rows.push(row("url", json!(long), "target_forbidden", "loopback"));
    refuse_all(&rows).await;
}

#[tokio::test]
async fn r_broken_urls_ports_and_plain_http() {
    let long = format!("https://a.example/{}", "x".repeat(2_084 - 18));
    assert_eq!(long.len(), 2_084);
    let (scheme, port) =
        (format!("{}://a.example/", "x".repeat(500)), format!("https://a.example:{}/", "1".repeat(500)));
    let mut rows = Vec::new();
    for (url, says) in [
        ("https://u:p@a.example/", "user-info"),
        ("https://u@a.example/", "user-info"),
        ("https://a.example@127.0.0.1/", "user-info"),
        ("ftp://a.example/", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("unix:/run/x.sock", "scheme"),
        (&scheme, "scheme"),
        ("a.example", "scheme"),
        ("", "empty"),
        ("https://a.example:0/", "port"),
        ("https://a.example:65536/", "port"),
        (&port, "port"),
        ("https://a.example:/", "port"),
        ("https://a.example/\tx", "control characters"),
        ("https://a.example/\rx", "control characters"),
        ("https://a.example/\nx", "control characters"),
        ("https://a.example/\r\nHost: b", "control characters"),
        ("https://a.example/a b", "white space"),
        ("https://a.example\\@127.0.0.1/", "backslash"),
        ("https:\\\\a.example/", "backslash"),
        ("https://a.example/#f", "fragment"),
        ("https:///x", "host"),
        (&long, "2083 bytes"),
    ] {
        rows.push(row("url", json!(url), "invalid_url", says));
    }
    rows.push(row("url", json!("https://a.example:25/"), "port_forbidden", "port 25"));
    rows.push(row("url", json!("http://a.example/"), "https_required", "https is required"));
    refuse_all(&rows).await;
}

#[tokio::test]
async fn r_headers() {
    let mut rows = Vec::new();
    for name in ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "TE", "Upgrade", "Trailer"]
    {
        rows.push(row("headers", json!({name: "canary"}), "header_forbidden", name));
        rows.push(row("headers", json!({name.to_lowercase(): "canary"}), "header_forbidden", "may not be set"));
    }
    for name in ["webhook-id", "webhook-signature", "Webhook-Anything", "LMG-Signature", "Lemon-Markets-Signature"] {
        rows.push(row("headers", json!({name: "canary"}), "header_forbidden", name));
    }
    for name in ["X-Webhook-Signature", "X-Webhook-Token", "Proxy-Authorization", "Expect"] {
        rows.push(row("headers", json!({name: "canary"}), "header_forbidden", name));
    }
    let many: serde_json::Map<_, _> = (0..33).map(|n| (format!("x-{n}"), json!("v"))).collect();
    let (value, name) = ("canary".repeat(700), "x".repeat(1_000));
    for (headers, says) in [
        (json!({"a": "canary\r\ny"}), "value of a"),
        (json!({"a": "canary\ny"}), "value of a"),
        (json!({"a": "canary\u{0}"}), "value of a"),
        (json!({"a": "cänary"}), "value of a"),
        (json!({"a\r\nb": "canary"}), "name"),
        (json!({"a b": "canary"}), "name"),
        (json!({"": "canary"}), "name"),
        (json!({format!("{name} "): "canary"}), "name"),
        (json!({"a": value}), "4096"),
        (Value::Object(many), "32"),
    ] {
        rows.push(row("headers", headers, "header_invalid", says));
    }
    rows.push(row("headers", r#"{"A":"canary","a":"canary"}"#, "header_invalid", "twice"));
    rows.push(row("headers", r#"{"A":"canary","A":"canary"}"#, "header_invalid", "twice"));
    for headers in ["[]", "1", "\"canary\"", r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":["canary"]}"#] {
        rows.push(row("headers", headers, "invalid_field", "an object of strings"));
    }
    refuse_all(&rows).await;
}

#[tokio::test]
async fn r_secrets() {
    use base64::Engine as _;
    let whsec = |bytes: usize| format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(vec![7; bytes]));
    let mut rows = Vec::new();
    for (secret, says) in [
        (whsec(23), "24 to 64"),
        (whsec(65), "24 to 64"),
        (whsec(24).replace('=', "") + "!", "24 to 64"),
        ("whsec_".to_owned(), "24 to 64"),
        ("canary7".to_owned(), "8 to 256"),
        (String::new(), "8 to 256"),
        ("é".repeat(257), "8 to 256"),
        ("canary".repeat(1_000), "8 to 256"),
        ("canary\ncanary".to_owned(), "control characters"),
        (" canary canary".to_owned(), "white space"),
    ] {
        rows.push(row("secret", json!(secret), "secret_invalid", says));
    }
    for value in ["1", "[]", "{}", "true"] {
        rows.push(row("secret", value, "invalid_field", "a string"));
    }
    refuse_all(&rows).await;
}

#[tokio::test]
async fn r_events_rates_and_the_rest() {
    let long = "x".repeat(129);
    let much = "x".repeat(10_000);
    let many: Vec<String> = (0..257).map(|n| format!("t{n}")).collect();
    let mut rows = Vec::new();
    for events in [json!([]), json!(many)] {
        rows.push(row("events", events, "invalid_field", "1 to 256"));
    }
    rows.push(row("events", json!(["a", "a"]), "invalid_field", "twice"));
    rows.push(row("events", json!([much, much]), "invalid_field", "is not a type"));
    for events in
        [json!([long]), json!([much]), json!(["a b"]), json!([""]), json!(["order.**"]), json!(["a\n"]), json!(["ä"])]
    {
        rows.push(row("events", events, "invalid_field", "is not a type"));
    }
    for events in ["\"a\"", "1", "{}", "[1]", "[null]", "[[\"a\"]]"] {
        rows.push(row("events", events, "invalid_field", "an array of strings"));
    }
    for rate in ["0", "-1", "-0.0", "1000001", "1e309", "-1e309", "\"ten\"", "\"1\"", "[]", "true"] {
        rows.push(row("rate_limit", rate, "invalid_field", "above 0"));
    }
    for timeout in ["\"0s\"", "\"999ms\"", "\"61s\"", "\"-5s\"", "\"soon\"", "\"10\"", "\"\"", "10", "[]"] {
        rows.push(row("timeout", timeout, "invalid_field", "10s"));
    }
    for count in ["0", "1025", "-1", "1.5", "1e4", "99999999999999999999999", "\"8\"", "true"] {
        rows.push(row("max_in_flight", count, "invalid_field", "1 to 1024"));
    }
    rows.push(row("plan", json!("nope"), "invalid_field", "\"nope\" is unknown"));
    rows.push(row("plan", json!(much), "invalid_field", "is unknown"));
    rows.push(row("plan", "1", "invalid_field", "a string"));
    rows.push(row("description", json!("x".repeat(1_025)), "invalid_field", "1024 characters"));
    rows.push(row("description", "1", "invalid_field", "a string"));
    for active in ["\"yes\"", "1", "0", "[]"] {
        rows.push(row("active", active, "invalid_field", "true or false"));
    }
    for url in ["1", "[]", "{}", "true", "[\"https://a.example/\"]"] {
        rows.push(row("url", url, "invalid_field", "a string"));
    }
    refuse_all(&rows).await;
}
