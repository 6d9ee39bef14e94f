//! Everything that is told about a wrong configuration: each kind of problem, with its place.

use super::load_text;

/// The lines that are told, without the count.
fn told(text: &str, list: &[(&str, &str)]) -> Vec<String> {
    let problems = load_text(text, list).expect_err(text);
    let lines: Vec<String> = problems.to_string().lines().map(str::to_owned).collect();
    lines[..lines.len() - 1].to_vec()
}

/// Each broken text must be told in exactly the one line that follows its place.
fn assert_told(cases: &[(&str, &str)]) {
    for (text, line) in cases {
        assert_eq!(told(text, &[]), [format!("webhookd.toml:{line}")], "{text}");
    }
}

#[test]
fn unknown_keys() {
    assert_told(&[
        ("[egress]\ntimeot = \"2s\"", "2:1: egress.timeot: unknown key; did you mean egress.timeout?"),
        ("[egres]\ntimeout = \"2s\"", "1:2: egres: unknown key; did you mean egress?"),
        (
            "[server]\nrequire_https = true",
            "2:1: server.require_https: unknown key; did you mean egress.require_https?",
        ),
        ("[store]\nbananas = 1", "2:1: store.bananas: unknown key; known here: disk_budget, cache"),
        ("[server.tls]\ncart = \"a\"", "2:1: server.tls.cart: unknown key; did you mean server.tls.cert?"),
        (
            "[plans.gold]\ndelay = [\"5s\"]\ndelays = []",
            "2:1: plans.gold.delay: unknown key; did you mean plans.gold.delays?",
        ),
        (
            "[[event_types]]\nname = \"a\"\nchanel = \"A\"",
            "3:1: event_types[0].chanel: unknown key; known here: name, description, omnia_channel, schema",
        ),
    ]);
}

#[test]
fn durations_and_sizes() {
    assert_told(&[
        (
            "[egress]\ntimeout = 10",
            "2:11: egress.timeout: expects a duration in quotes, with its unit, found the number 10; \
             write \"10s\" for seconds",
        ),
        (
            "[egress]\ntimeout = \"0s\"",
            "2:11: egress.timeout: \"0s\" must be longer than zero; or write \"auto\", the default",
        ),
        (
            "[egress]\ntimeout = \"61s\"",
            "2:11: egress.timeout: \"61s\" must be between 1s and 1m; or write \"auto\", the default",
        ),
        (
            "[retention]\nevents = \"2mo\"",
            "2:10: retention.events: \"2mo\" uses months or years, which have no fixed length; write days",
        ),
        (
            "[server]\nheader_timeout = \"10\"",
            "2:18: server.header_timeout: \"10\" has no unit; write \"10s\" for seconds",
        ),
        (
            "[store]\ncache = \"much\"",
            "2:9: store.cache: \"much\" is not a size such as \"256 KiB\", \"64 MiB\" or \"10 GB\"",
        ),
        ("[store]\ncache = \"1 KiB\"", "2:9: store.cache: \"1 KiB\" must be between 1 MiB and 1024 TiB"),
    ]);
}

#[test]
fn types_and_bounds() {
    assert_told(&[
        (
            "[egress]\nrequire_https = \"yes\"",
            "2:17: egress.require_https: expects true or false, found the text \"yes\"",
        ),
        (
            "[egress]\nmax_in_flight_per_webhook = 0",
            "2:29: egress.max_in_flight_per_webhook: must be between 1 and 1024",
        ),
        ("[egress]\nmax_in_flight = -1", "2:17: egress.max_in_flight: must be between 1 and 1000000"),
        ("[egress]\nmax_in_flight = 1.5", "2:17: egress.max_in_flight: expects a whole number, found the number 1.5"),
        (
            "[egress]\ndenied_ports = [25, 70000]",
            "2:21: egress.denied_ports: must be between 1 and 65535; or write \"standard\", the default",
        ),
        ("egress = 5", "1:10: egress: expects a table, found the number 5; write the keys below [egress]"),
        ("state_dir = \"\"", "1:13: state_dir: must not be empty"),
        ("[log]\nformat = \"jsn\"", "2:10: log.format: \"jsn\" is not one of auto, text, json; did you mean json?"),
        (
            "[log]\nlevel = \"inof\"",
            "2:9: log.level: \"inof\" is not a level (off, error, warn, info, debug, trace) or a list such as \
             \"info,webhookd=debug\"; did you mean info?",
        ),
    ]);
}

#[test]
fn addresses() {
    assert_told(&[
        (
            "[egress]\nallow = [\"10.0.0.0/8\", \"10.0.0.1\"]",
            "2:24: egress.allow: \"10.0.0.1\" is not a network such as \"10.0.0.0/8\"; did you mean \"10.0.0.1/32\"?",
        ),
        (
            "[egress]\nallow = \"10.0.0.0/8\"",
            "2:9: egress.allow: expects a list, found the text \"10.0.0.0/8\"; write [\"10.0.0.0/8\"]",
        ),
        ("[egress]\nsource_addresses = [\"eth0\"]", "2:21: egress.source_addresses: \"eth0\" is not an IP address"),
        (
            "[server]\nlisten = [\"localhost:8443\"]",
            "2:11: server.listen: \"localhost:8443\" is not an IP address with a port such as \"127.0.0.1:8443\" or \
             \"[::1]:8443\"; did you mean \"127.0.0.1:8443\"?",
        ),
        (
            "[server]\nplaintext_listen = [\"0.0.0.0:80\"]",
            "2:1: server.plaintext_listen: 0.0.0.0:80 is not a loopback address, and requests there would travel \
             unencrypted; listen on 127.0.0.1 or [::1] behind a reverse proxy, or set \
             server.danger_plaintext_anywhere = true",
        ),
        ("[metrics]\nlisten = \"127.0.0.1:8443\"", "2:1: metrics.listen: 127.0.0.1:8443 is also in server.listen"),
        ("[server]\nlisten = [\"[::1]:1\", \"[::1]:1\"]", "2:1: server.listen: [::1]:1 is listed twice"),
    ]);
}

#[test]
fn plans() {
    assert_told(&[
        ("[plans.gold]\ndelays = [\"5s\"]\njitter = 1.5", "3:10: plans.gold.jitter: must be between 0 and 1"),
        ("[plans.gold]\ndelays = [\"5s\"]\njitter = nan", "3:10: plans.gold.jitter: must be between 0 and 1"),
        ("[plans.gold]\ndelays = [\"5s\", \"0s\"]", "2:17: plans.gold.delays: \"0s\" must be longer than zero"),
        ("[plans.gold]\nfirst = \"5s\"", "1:8: plans.gold: needs delays, or first and retries; retries is missing"),
        (
            "[plans.gold]\ndelays = [\"5s\"]\nretries = 3",
            "1:8: plans.gold: has both delays and first/factor/max/retries; keep one of the two",
        ),
        ("[plans.Gold]\ndelays = [\"5s\"]", "1:8: plans: \"Gold\" is not a plan's name: 1 to 64 of a–z 0–9 _ -"),
        ("[retry]\ndefault = \"vibes\"", "2:1: retry.default: there is no plan \"vibes\"; did you mean vibe?"),
        (
            "[dialects.omnia]\nplan = \"gold\"",
            "2:1: dialects.omnia.plan: there is no plan \"gold\"; plans: standard, vibe",
        ),
        ("[dialects.vibe]\nplan = \"gold\"", "1:11: dialects.vibe: unknown key; known here: lemon, omnia, onemetric"),
        (
            "[retry]\ndefault = { first = \"5s\" }",
            "2:1: retry.default: needs delays, or first and retries; retries is missing",
        ),
    ]);
}

#[test]
fn rules_between_keys() {
    assert_told(&[
        ("[server.tls]\ncert = \"a.pem\"", "2:1: server.tls.cert: has no key to go with it; set server.tls.key too"),
        (
            "[server.tls]\nkey = \"a.pem\"",
            "2:1: server.tls.key: has no certificate to go with it; set server.tls.cert too",
        ),
        ("[circuit]\nprobe_first = \"6 min\"", "2:1: circuit.probe_first: probe_first is longer than probe_max"),
        ("[limits]\nbatch_bytes = \"64 KiB\"", "2:1: limits.batch_bytes: event_bytes is more than batch_bytes"),
    ]);
}

#[test]
fn event_types() {
    assert_told(&[
        (
            "[[event_types]]\nname = \"a b\"",
            "2:8: event_types[0].name: \"a b\" is not an event type: 1 to 128 of A–Z a–z 0–9 _ . -",
        ),
        (
            "[[event_types]]\nname = \"webhookd.x\"",
            "2:8: event_types[0].name: \"webhookd.x\" is reserved: types of webhookd itself start with webhookd.",
        ),
        (
            "[[event_types]]\nname = \"a\"\n[[event_types]]\nname = \"a\"",
            "4:1: event_types[1].name: \"a\" is listed twice",
        ),
        ("[[event_types]]\ndescription = \"a\"", "1:1: event_types[0].name: is missing"),
        (
            "[[event_types]]\nname = \"a\"\nomnia_channel = \"a\"",
            "3:17: event_types[0].omnia_channel: \"a\" is not a channel: 1 to 64 of A–Z 0–9 _",
        ),
    ]);
}

#[test]
fn several_are_told_at_once_in_the_order_of_the_file() {
    let text = "\
[server]
plaintext_listen = [\"0.0.0.0:80\"]
listn = []

[egress]
timeout = \"2 parsecs\"
  requre_https = false
allow = [\"nowhere\", \"10.0.0.0/8\", \"10.0.0.0/99\"]

[plans.gold]
first = 5
retries = 3

[retry]
default = \"gold\"
";
    let problems = load_text(text, &[("WEBHOOKD_LOG__LEVEL", "loud"), ("WEBHOOKD_NO", "1")]).unwrap_err();
    let places: Vec<String> = problems.0.iter().map(|problem| problem.place.clone().unwrap().to_string()).collect();
    let paths: Vec<&str> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        places,
        [
            "webhookd.toml:2:1",
            "webhookd.toml:3:1",
            "webhookd.toml:6:11",
            "webhookd.toml:7:3",
            "webhookd.toml:8:10",
            "webhookd.toml:8:35",
            "webhookd.toml:11:9",
            "WEBHOOKD_LOG__LEVEL",
            "WEBHOOKD_NO"
        ]
    );
    assert_eq!(paths[0], "server.plaintext_listen");
    assert_eq!(paths[6], "plans.gold.first", "and neither the plan nor the reference to it again");
    assert!(problems.to_string().ends_with("\n9 problems in the configuration"), "{problems}");
}

#[test]
fn syntax_errors_are_told_beside_the_rest() {
    let text = "[egress]\ntimeout = 2s\nreqire_https = true\n\n[server.tls]\ncert = \"a.pem\"\nkey = \n";
    let lines = told(text, &[]);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[0].starts_with("webhookd.toml:2:11: not valid TOML: "), "{}", lines[0]);
    assert_eq!(lines[1], "webhookd.toml:3:1: egress.reqire_https: unknown key; did you mean egress.require_https?");
    assert!(lines[2].starts_with("webhookd.toml:7:"), "{}", lines[2]);
    let lines = told("[log]\nlevel = \"info\"\nlevel = \"warn\"\n[log]\n", &[]);
    assert!(lines[0].starts_with("webhookd.toml:3:1: not valid TOML: duplicate key"), "{lines:#?}");
    assert!(lines[1].starts_with("webhookd.toml:4:"), "{lines:#?}");
}

#[test]
fn columns_count_characters() {
    let lines = told("[egress] # äöü €\nallow = [\"é\", \"x\"]", &[]);
    assert!(lines[0].starts_with("webhookd.toml:2:10: "), "{lines:#?}");
    assert!(lines[1].starts_with("webhookd.toml:2:15: "), "{lines:#?}");
}

#[test]
fn long_input_is_not_repeated() {
    let long = "é".repeat(500);
    for text in
        [format!("[log]\nlevel = \"{long}\""), format!("[log]\n\"{long}\" = 1"), format!("[log]\n'a\\nb' = '{long}'")]
    {
        let lines = told(&text, &[]);
        assert!(lines.len() == 1 && lines[0].len() < 300, "{lines:#?}");
    }
}

#[test]
fn wrong_variables_are_told_by_name() {
    let cases: &[(&str, &str, &str)] = &[
        ("WEBHOOKD_EGRESS__TIMEOT", "2s", "unknown variable; did you mean WEBHOOKD_EGRESS__TIMEOUT?"),
        ("WEBHOOKD_EGRESS_TIMEOUT", "2s", "unknown variable; did you mean WEBHOOKD_EGRESS__TIMEOUT?"),
        ("WEBHOOKD_egress__timeout", "2s", "unknown variable; did you mean WEBHOOKD_EGRESS__TIMEOUT?"),
        ("WEBHOOKD_EGRESS.TIMEOUT", "2s", "unknown variable; did you mean WEBHOOKD_EGRESS__TIMEOUT?"),
        ("WEBHOOKD_CONFG", "f", "unknown variable; did you mean WEBHOOKD_CONFIG?"),
        ("WEBHOOKD_", "x", "unknown variable; settings are WEBHOOKD_<SECTION>__<KEY>, with two underscores between"),
        (
            "WEBHOOKD_EGRESS__TIMEOUT",
            "2 parsecs",
            "egress.timeout: \"2 parsecs\" is not a duration such as \"5s\", \"5 min\", \"24h\" or \"30d\"; \
             or write \"auto\", the default",
        ),
        (
            "WEBHOOKD_EGRESS__TIMEOUT",
            "2",
            "egress.timeout: \"2\" has no unit; write \"2s\" for seconds; or write \"auto\", the default",
        ),
        ("WEBHOOKD_EGRESS__REQUIRE_HTTPS", "no", "egress.require_https: expects true or false, found the text \"no\""),
        (
            "WEBHOOKD_SERVER__WORKERS",
            "",
            "server.workers: expects a whole number, found the text \"\"; or write \"auto\", the default",
        ),
        ("WEBHOOKD_LOG", "debug", "log: is a section; add two underscores and a key (level, format, access)"),
        (
            "WEBHOOKD_EGRESS__ALLOW",
            "[\"10.0.0.0/8\"",
            "egress.allow: \"[\\\"10.0.0.0/8\\\"\" is not valid TOML: unclosed array, expected `]`",
        ),
        (
            "WEBHOOKD_SERVER__PLAINTEXT_LISTEN",
            "0.0.0.0:80",
            "server.plaintext_listen: 0.0.0.0:80 is not a loopback address, and requests there would travel \
             unencrypted; listen on 127.0.0.1 or [::1] behind a reverse proxy, or set \
             server.danger_plaintext_anywhere = true",
        ),
    ];
    for (name, text, line) in cases {
        assert_eq!(told("", &[(name, text)]), [format!("{name}: {line}")]);
    }
    let list = [("WEBHOOKD_PLANS__GOLD__DELAYS", "soon"), ("WEBHOOKD_RETRY__DEFAULT", "gold")];
    assert_eq!(told("", &list).len(), 1, "a broken plan is there, so naming it is no second mistake");
}
