//! Tests of the whole room: what a file and variables come to. What is told when they are wrong is in `problems`.

mod problems;

use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn variables(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn load_text(text: &str, list: &[(&str, &str)]) -> Result<Loaded, Problems> {
    super::load_text(Path::new("webhookd.toml"), text, variables(list).into_iter())
}

fn config(text: &str, list: &[(&str, &str)]) -> Config {
    load_text(text, list).unwrap_or_else(|problems| panic!("{text}\n{problems}")).config
}

#[test]
fn nothing_configured_is_the_defaults() {
    let loaded = load_from(None, variables(&[("PATH", "/bin")]).into_iter(), &[]).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.file, None);
    assert!(loaded.origins.is_empty());
    assert_eq!(loaded.config.default_plan().unwrap().delays.len(), 9);
}

#[test]
fn the_socket_is_found_in_a_configuration_that_is_broken_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("webhookd.toml");
    let socket = |text: &str, list: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        admin_socket(Some(&file), variables(list).into_iter())
    };
    let broken = "[admin]\nsocket = \"/run/here.sock\"\nlisen = 1\n[egress]\ntimeout = = 5\n";
    assert_eq!(socket(broken, &[]), Path::new("/run/here.sock"));
    let list = [("WEBHOOKD_ADMIN__SOCKET", "/run/there.sock"), ("WEBHOOKD_NONSENSE", "x")];
    assert_eq!(socket(broken, &list), Path::new("/run/there.sock"));
    assert_eq!(socket("[admin]\nsocket = 5\n", &[]), Config::default().admin.socket);
    assert_eq!(admin_socket(Some(&folder.path().join("gone")), [].into_iter()), Config::default().admin.socket);
}

#[test]
fn variables_win_over_the_file() {
    let text = "[egress]\ntimeout = \"5s\"\nmax_in_flight = 7\n[plans.gold]\nfirst = \"1s\"\nretries = 2\n";
    let list = [
        ("WEBHOOKD_EGRESS__TIMEOUT", "2s"),
        ("WEBHOOKD_SERVER__LISTEN", "127.0.0.1:1, [::1]:1"),
        ("WEBHOOKD_SERVER__PLAINTEXT_LISTEN", "[\"127.0.0.1:2\"]"),
        ("WEBHOOKD_EGRESS__ALLOW", " 10.0.0.0/8 "),
        ("WEBHOOKD_EGRESS__DENIED_PORTS", "25,465"),
        ("WEBHOOKD_EGRESS__REQUIRE_HTTPS", "false"),
        ("WEBHOOKD_EGRESS__MAX_IN_FLIGHT_PER_HOST", "9"),
        ("WEBHOOKD_STORE__CACHE", "128 MiB"),
        ("WEBHOOKD_STORE__DISK_BUDGET", "\"1 GiB\""),
        ("WEBHOOKD_PLANS__GOLD__RETRIES", "3"),
        ("WEBHOOKD_PLANS__BRONZE__DELAYS", "1 min, 1h"),
        ("WEBHOOKD_PLANS__SILVER", "{ delays = [\"1 min\"], jitter = 0 }"),
        ("WEBHOOKD_RETRY__DEFAULT", "gold"),
        ("WEBHOOKD_DIALECTS__OMNIA__MAX_WEBHOOKS", "6"),
        ("WEBHOOKD_EVENT_TYPES", "[{ name = \"a\" }]"),
        ("WEBHOOKD_STATE_DIR", "/tmp/true"),
        ("WEBHOOKD_CONFIG", "elsewhere"),
        ("WEBHOOKD_URL", "x"),
        ("WEBHOOKD_TOKEN", "x"),
    ];
    let loaded = load_text(text, &list).unwrap();
    let Config { server, egress, store, state_dir, dialects, event_types, .. } = &loaded.config;
    assert_eq!(egress.timeout, Some(Duration::from_secs(2)));
    assert_eq!(server.listen, ["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()]);
    assert_eq!(server.plaintext_listen, ["127.0.0.1:2".parse().unwrap()]);
    assert_eq!(egress.allow, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(egress.denied_ports, Some(vec![25, 465]));
    assert_eq!((egress.require_https, egress.max_in_flight, egress.max_in_flight_per_host), (false, 7, 9));
    assert_eq!((store.cache, store.disk_budget), (128 << 20, Some(1 << 30)));
    assert_eq!(loaded.config.default_plan().unwrap().delays, [1, 2, 4].map(Duration::from_secs));
    assert_eq!(loaded.config.plan("silver").unwrap().jitter, 0.0);
    assert_eq!((dialects.omnia.max_webhooks, event_types.len()), (6, 1));
    assert_eq!(state_dir.to_str(), Some("/tmp/true"));
    for (key, origin) in [
        ("egress.timeout", "WEBHOOKD_EGRESS__TIMEOUT"),
        ("egress.max_in_flight", "webhookd.toml:3"),
        ("plans.gold", "webhookd.toml:4"),
        ("plans.gold.retries", "WEBHOOKD_PLANS__GOLD__RETRIES"),
        ("plans.silver", "WEBHOOKD_PLANS__SILVER"),
        ("plans.bronze", "WEBHOOKD_PLANS__BRONZE__DELAYS"),
        ("store.cache", "WEBHOOKD_STORE__CACHE"),
        ("log.level", "default"),
    ] {
        assert_eq!(loaded.origin(key).to_string(), origin, "{key}");
    }
}

#[test]
fn a_word_takes_an_option_back() {
    let text = "[egress]\ntimeout = \"5s\"\n[limits]\npublish_rate = 5\n[metrics]\nlisten = \"127.0.0.1:9\"";
    let list = [
        ("WEBHOOKD_EGRESS__TIMEOUT", "auto"),
        ("WEBHOOKD_LIMITS__PUBLISH_RATE", "off"),
        ("WEBHOOKD_METRICS__LISTEN", "off"),
        ("WEBHOOKD_SERVER__LISTEN", ""),
    ];
    let changed = config(text, &list);
    assert_eq!((changed.egress.timeout, changed.limits.publish_rate, changed.metrics.listen), (None, None, None));
    assert!(changed.server.listen.is_empty());
}

#[test]
fn the_file_is_found_in_order_and_a_missing_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, rate: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("[limits]\npublish_rate = {rate}\n")).unwrap();
        path
    };
    let (first, second, usual) = (write("first.toml", 1), write("second.toml", 2), write("usual.toml", 3));
    let gone = folder.path().join("gone.toml");
    let usual_names = [gone.to_str().unwrap(), usual.to_str().unwrap()];
    let list = || variables(&[("WEBHOOKD_CONFIG", second.to_str().unwrap())]).into_iter();
    let rate = |loaded: Loaded| (loaded.config.limits.publish_rate, loaded.file.unwrap());
    assert_eq!(rate(load_from(Some(&first), list(), &usual_names).unwrap()), (Some(1), first.clone()));
    assert_eq!(rate(load_from(None, list(), &usual_names).unwrap()), (Some(2), second.clone()));
    assert_eq!(rate(load_from(None, std::iter::empty(), &usual_names).unwrap()), (Some(3), usual.clone()));

    let problems = load_from(Some(&gone), std::iter::empty(), &usual_names).unwrap_err().to_string();
    assert!(problems.contains("gone.toml: can't be read: No such file"), "{problems}");
    assert!(problems.ends_with("\n1 problem in the configuration"), "{problems}");

    std::fs::write(&first, b"[log]\nlevel = \"\xff\"").unwrap();
    let problems = load_from(Some(&first), std::iter::empty(), &[]).unwrap_err().to_string();
    assert!(problems.contains("first.toml:2:10: is not UTF-8 from here on"), "{problems}");
}

#[test]
fn a_credential_takes_the_place_of_a_key_file_that_is_not_configured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let load = |text: &str, list: &[(&str, &str)]| {
        let file = folder.path().join("webhookd.toml");
        std::fs::write(&file, text).unwrap();
        load_from(Some(&file), variables(list).into_iter(), &[]).unwrap()
    };
    let key_file = |loaded: &Loaded| loaded.config.secrets.key_file.clone();
    let given = [("CREDENTIALS_DIRECTORY", path)];
    assert_eq!(key_file(&load("", &given)), None, "there is no such credential");
    let credential = folder.path().join("webhookd.key");
    std::fs::write(&credential, "0".repeat(64)).unwrap();
    for text in ["", "[secrets]\nkey_file = \"auto\""] {
        let loaded = load(text, &given);
        assert_eq!(key_file(&loaded), Some(credential.clone()), "{text}");
        assert_eq!(loaded.origin("secrets.key_file").to_string(), "CREDENTIALS_DIRECTORY");
    }
    assert_eq!(key_file(&load("", &[])), None);
    assert_eq!(key_file(&load("", &[("CREDENTIALS_DIRECTORY", "")])), None);
    let other = Some("/etc/webhookd/other.key".into());
    let told = |folder: &str| {
        let loaded = load("", &[("CREDENTIALS_DIRECTORY", folder)]);
        let lacks = |problems: Vec<Problem>| problems.iter().any(|problem| problem.path == "server.listen");
        (lacks(loaded.check(0)), lacks(loaded.check_serve(0)))
    };
    assert_eq!(told(path), (true, true), "there is no certificate");
    assert_eq!(told("/nowhere/at/all"), (false, true), "there may be one that only serve can see");
    for name in ["cert.pem", "key.pem"] {
        assert_eq!(load("", &given).config.server.tls.pair(), None, "half a pair is none");
        std::fs::write(folder.path().join(name), "PEM").unwrap();
    }
    let loaded = load("", &given);
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    assert_eq!(loaded.config.server.tls.pair(), Some((cert.as_path(), key.as_path())));
    assert_eq!(loaded.origin("server.tls.key").to_string(), "CREDENTIALS_DIRECTORY");
    let named = load("[server.tls]\ncert = \"/a.pem\"\nkey = \"/b.pem\"", &given);
    assert_eq!(named.config.server.tls.pair(), Some((Path::new("/a.pem"), Path::new("/b.pem"))));
    assert_eq!(key_file(&load("[secrets]\nkey_file = \"/etc/webhookd/other.key\"", &given)), other);
    let variable = ("WEBHOOKD_SECRETS__KEY_FILE", "/etc/webhookd/other.key");
    assert_eq!(key_file(&load("", &[given[0], variable])), other);
}

#[test]
fn plans_come_in_both_forms() {
    let text = "
        [retry]
        default = { delays = [\"1s\", \"2 min\"] }
        [plans.gold]
        first = \"10s\"
        factor = 3
        max = \"1 min\"
        retries = 4
        jitter = 0
        [plans.vibe]
        retries = 2
        [plans.never]
        delays = []
    ";
    let config = config(text, &[]);
    let seconds = |plan: &Plan| plan.delays.iter().map(Duration::as_secs).collect::<Vec<_>>();
    assert_eq!(seconds(config.default_plan().unwrap()), [1, 120]);
    assert_eq!(config.default_plan().unwrap().jitter, JITTER_DEFAULT);
    assert_eq!(seconds(config.plan("gold").unwrap()), [10, 30, 60, 60]);
    assert_eq!(seconds(config.plan(VIBE).unwrap()), [30, 120]);
    assert!(config.plan("never").unwrap().delays.is_empty());
    assert_eq!(config.plan(STANDARD), Config::default().plan(STANDARD));
}

#[test]
fn the_catalogue_holds_every_type_of_the_seeds() {
    let names: Vec<String> = Config::default().event_types.into_iter().map(|kind| kind.name).collect();
    assert_eq!(names.len(), 1 + 12 + 9);
    for name in ["account.created", "order.cancelled", "system.alert", "MARKET_GENERATED_ALERT.PRICE_ALERT"] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
    let fires = Config::default().event_types.into_iter().filter(|kind| kind.omnia_channel.is_some());
    let fires: Vec<(String, String)> = fires.map(|kind| (kind.name, kind.omnia_channel.unwrap())).collect();
    let activity = |name: &str| (name.to_owned(), "ACCOUNT_ACTIVITY".to_owned());
    assert_eq!(fires, [activity("account.deposit_received"), activity("account.withdrawal_processed")]);
}

/// The shipped file with every `#key = …` and `#[section]` made live; prose has a blank after the `#`.
fn shipped_live() -> String {
    let live = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|first: char| first == '[' || first.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    SHIPPED.lines().map(live).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_file_changes_nothing_and_shows_every_default() {
    assert_eq!(config(SHIPPED, &[]), Config::default());
    let live = load_text(&shipped_live(), &[]).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(live.config, Config::default());
    for (path, kind) in schema::leaves() {
        assert!(live.origins.contains_key(&path), "{path} is not in webhookd.toml");
        let word = if let schema::Kind::Optional(word, _) = kind { word } else { continue };
        let name = path.rsplit('.').next().unwrap();
        assert!(SHIPPED.contains(&format!("\n#{name} = \"{word}\"\n")), "{path} does not stand there as {word}");
    }
    for key in schema::PLAN {
        let written = |plan: &&str| live.origins.contains_key(&format!("plans.{plan}.{}", key.name));
        assert!([STANDARD, VIBE].iter().any(written), "{} of plans is not in webhookd.toml", key.name);
    }
    for key in schema::EVENT_TYPE {
        assert!(SHIPPED.contains(&format!("\n#   {} ", key.name)), "{} of event types is not explained", key.name);
    }
}

/// Every field of `Config` has a key in the schema, and the other way round.
#[test]
fn schema_and_settings_name_the_same_keys() {
    let loaded = Loaded::from(Config::default());
    let shown = loaded.entries().into_iter().map(|entry| entry.key);
    let shown: Vec<String> = shown.filter(|key| !key.starts_with("plans.")).collect();
    let known = schema::leaves().into_iter().map(|(path, _)| path);
    let known: Vec<String> = known.filter(|path| path != "plans").collect();
    assert_eq!(shown, known);
    fn count(value: &serde_json::Value) -> usize {
        value.as_object().map_or(1, |members| members.values().map(count).sum())
    }
    let mut json = serde_json::to_value(&loaded.config).unwrap();
    json.as_object_mut().unwrap().remove("plans");
    assert_eq!(count(&json), known.len());
    assert!(known.iter().all(|path| schema::find(path).is_some()));
}

#[test]
fn what_is_shown_loads_as_the_same_configuration() {
    let text = "
        state_dir = 'C:\\odd \"folder\"'
        [server]
        listen = [\"[::1]:8443\", \"10.0.0.1:443\"]
        workers = 3
        [egress]
        allow = [\"10.0.0.0/8\"]
        timeout = \"1500ms\"
        denied_ports = [25]
        [retry]
        default = { delays = [\"90s\"], jitter = 0.25 }
        [plans.gold-1]
        first = \"1s\"
        factor = 1.5
        retries = 3
        [retention]
        max_bytes = \"2000001 B\"
        [log]
        level = \"info,webhookd=debug\"
        format = \"json\"
        [[event_types]]
        name = \"A.B\"
        schema = \"/etc/a.json\"
    ";
    let loaded = load_text(text, &[]).unwrap();
    let lines: Vec<String> = loaded.entries().iter().map(ToString::to_string).collect();
    assert_eq!(config(&lines.join("\n"), &[]), loaded.config, "{}", lines.join("\n"));
    assert!(lines.contains(&"retention.events = \"30d\"".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"limits.publish_rate = \"off\"".to_owned()), "{lines:#?}");
}

#[test]
fn a_reload_tells_what_needs_a_restart() {
    let old = Config::default();
    assert!(reload_scope(&old, &old).is_empty());
    let text = "[egress]\ntimeout = \"2s\"\n[limits]\npublish_rate = 1\n[server.tls]\ncert = \"a\"\nkey = \"b\"";
    assert!(reload_scope(&old, &config(text, &[])).is_empty());
    let text = "state_dir = \"/x\"\n[server]\nworkers = 1\nlisten = []\n[store]\ncache = \"1 MiB\"\n[admin]\n\
                listen = \"127.0.0.1:1\"\n[metrics]\nlisten = \"127.0.0.1:2\"";
    let changed = reload_scope(&old, &config(text, &[]));
    let expected = "state_dir server.listen server.workers admin.listen metrics.listen store.cache secrets.key_file";
    assert_eq!(changed.join(" "), expected);
}

proptest! {
    /// Whatever is done to a file or put in a variable, it loads or is told about, and what loads can be shown and loaded again.
    #[test]
    fn damaged_text_is_told_about(
        edits in prop::collection::vec((any::<prop::sample::Index>(), "[\\[\\]{}=\"'#\n a-z0-9._é-]{0,6}", 0..12_usize), 1..6),
        key in any::<prop::sample::Index>(),
        value in "[\\[\\]{}=\"',: a-z0-9./-]{0,20}",
    ) {
        let mut text: Vec<char> = shipped_live().chars().collect();
        for (at, insert, remove) in edits {
            let start = at.index(text.len());
            let end = (start + remove).min(text.len());
            text.splice(start..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        let name = schema::variable(&key.get(&schema::leaves()).0);
        match load_text(&text, &[(&name, &value)]) {
            Ok(loaded) => {
                let lines: Vec<String> = loaded.entries().iter().map(ToString::to_string).collect();
                prop_assert_eq!(config(&lines.join("\n"), &[]), loaded.config);
            }
            Err(problems) => prop_assert!(!problems.0.is_empty()),
        }
    }
}
