//! Rules between keys: what no single value can break. Owns expanding plans and every check that looks at two keys.
//!
//! Invariant: a rule is silent about keys that were already found wrong, so that one mistake is told once. Leaves single
//! values to `value`, and what only `serve` needs (certificates) to `serve`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use figment::value::{Dict, Value};

use super::plan::{self, Plan, PlanChoice, PlanText};
use super::problem::{Place, Problem, quoted};
use super::schema::nearest;
use super::settings::Config;

pub(super) struct Rules<'a> {
    pub origins: &'a BTreeMap<String, Place>,
    pub problems: Vec<Problem>,
    /// Whether parts of the sources could not be read: then what is missing is not held against anyone.
    pub is_broken: bool,
}

impl Rules<'_> {
    /// Expands the plans in the merged settings, adds the built-in ones, and takes out what `Config` can't read.
    pub(super) fn settle(&mut self, data: &mut Dict) {
        let mut plans: BTreeMap<String, Plan> = plan::built_in();
        if let Some(Value::Dict(_, written)) = data.remove("plans") {
            for (name, text) in written {
                let path = format!("plans.{name}");
                let expanded = self.expand(&path, &text, |text| text.over_built_in(&name));
                plans.extend(expanded.map(|plan| (name, plan)));
            }
        }
        self.store(data, "plans", &plans);
        if let Some(Value::Dict(_, retry)) = data.get_mut("retry")
            && let Some(inline) = retry.get("default").filter(|default| default.as_dict().is_some()).cloned()
        {
            retry.remove("default");
            if let Some(plan) = self.expand("retry.default", &inline, |text| text) {
                self.store(retry, "default", &plan);
            }
        }
        self.event_types(data);
    }

    fn expand(&mut self, path: &str, text: &Value, complete: impl Fn(PlanText) -> PlanText) -> Option<Plan> {
        if !self.is_sound(path) {
            return None;
        }
        match text.deserialize::<PlanText>() {
            Ok(text) => match complete(text).expand() {
                Ok(plan) => return Some(plan),
                Err(rule) => self.refuse(path, rule),
            },
            Err(error) => self.refuse(path, error.kind.to_string()),
        }
        None
    }

    fn store(&mut self, data: &mut Dict, key: &str, value: &impl serde::Serialize) {
        match Value::serialize(value) {
            Ok(value) => drop(data.insert(key.to_owned(), value)),
            Err(error) => self.problems.push(Problem::new(key, error.to_string())),
        }
    }

    fn event_types(&mut self, data: &mut Dict) {
        let Some(Value::Array(_, entries)) = data.get("event_types") else { return };
        let mut seen = BTreeSet::new();
        let mut twice = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let name = entry.as_dict().and_then(|entry| entry.get("name")).and_then(Value::as_str);
            if let Some(name) = name.filter(|name| !seen.insert((*name).to_owned())) {
                twice.push((index, name.to_owned()));
            }
        }
        let is_readable = entries.iter().all(|entry| entry.as_dict().is_some());
        for (index, name) in twice {
            self.refuse(&format!("event_types[{index}].name"), format!("{} is listed twice", quoted(&name)));
        }
        if !is_readable {
            data.remove("event_types");
        }
    }

    /// Checks the rules between keys.
    pub(super) fn check(&mut self, config: &Config) {
        self.listeners(config);
        self.tls(config);
        self.plan_names(config);
        let circuit = &config.circuit;
        if circuit.probe_first > circuit.probe_max && self.are_sound(&["circuit.probe_first", "circuit.probe_max"]) {
            self.refuse(
                self.written_of("circuit.probe_first", "circuit.probe_max"),
                "probe_first is longer than probe_max",
            );
        }
        let limits = &config.limits;
        if limits.event_bytes > limits.batch_bytes && self.are_sound(&["limits.event_bytes", "limits.batch_bytes"]) {
            self.refuse(
                self.written_of("limits.event_bytes", "limits.batch_bytes"),
                "event_bytes is more than batch_bytes",
            );
        }
    }

    fn listeners(&mut self, config: &Config) {
        let server = &config.server;
        let plaintext = "server.plaintext_listen";
        if !server.danger_plaintext_anywhere && self.is_sound("server.danger_plaintext_anywhere") {
            for address in server.plaintext_listen.iter().filter(|address| !is_loopback(address)) {
                self.refuse_with(
                    plaintext,
                    format!("{address} is not a loopback address, and requests there would travel unencrypted"),
                    "listen on 127.0.0.1 or [::1] behind a reverse proxy, or set server.danger_plaintext_anywhere = true",
                );
            }
        }
        let listed = |key: &'static str, addresses: &[SocketAddr]| -> Vec<(&'static str, SocketAddr)> {
            addresses.iter().map(|address| (key, *address)).collect()
        };
        let mut all = listed("server.listen", &server.listen);
        all.extend(listed(plaintext, &server.plaintext_listen));
        all.extend(listed("admin.listen", config.admin.listen.as_slice()));
        all.extend(listed("metrics.listen", config.metrics.listen.as_slice()));
        for (index, (key, address)) in all.iter().enumerate() {
            // Port 0 asks for any free port, so two of them never meet.
            let earlier = all[..index].iter().find(|(_, other)| other == address && address.port() != 0);
            if let Some((other, _)) = earlier.filter(|(other, _)| self.are_sound(&[key, other])) {
                let (key, other) = if self.origins.contains_key(*key) { (key, other) } else { (other, key) };
                let also = if key == other { "listed twice".to_owned() } else { format!("also in {other}") };
                self.refuse(key, format!("{address} is {also}"));
            }
        }
    }

    fn tls(&mut self, config: &Config) {
        let (cert, key) = ("server.tls.cert", "server.tls.key");
        if self.is_broken || !self.are_sound(&[cert, key]) {
            return;
        }
        match (&config.server.tls.cert, &config.server.tls.key) {
            (Some(_), None) => self.refuse_with(cert, "has no key to go with it", "set server.tls.key too"),
            (None, Some(_)) => self.refuse_with(key, "has no certificate to go with it", "set server.tls.cert too"),
            _ => {}
        }
    }

    fn plan_names(&mut self, config: &Config) {
        if let PlanChoice::Named(name) = &config.retry.default {
            self.plan_name("retry.default", name, config);
        }
        let dialects = &config.dialects;
        for (key, plan) in [
            ("dialects.lemon.plan", &dialects.lemon.plan),
            ("dialects.omnia.plan", &dialects.omnia.plan),
            ("dialects.onemetric.plan", &dialects.onemetric.plan),
        ] {
            if let Some(name) = plan {
                self.plan_name(key, name, config);
            }
        }
    }

    fn plan_name(&mut self, key: &str, name: &str, config: &Config) {
        let written = format!("plans.{name}");
        let is_written = self.origins.contains_key(&written) || super::first_below(self.origins, &written).is_some();
        if config.plan(name).is_some() || is_written || self.is_broken {
            return;
        }
        let names = config.plans.keys().map(String::as_str);
        let advice = match nearest(name, names.clone()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("plans: {}", names.collect::<Vec<_>>().join(", ")),
        };
        self.refuse_with(key, format!("there is no plan {}", quoted(name)), advice);
    }

    fn are_sound(&self, paths: &[&str]) -> bool {
        paths.iter().all(|path| self.is_sound(path))
    }

    /// Whether nothing at or below `path` was found wrong.
    fn is_sound(&self, path: &str) -> bool {
        let below =
            |problem: &str| problem.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        !self.problems.iter().any(|problem| below(&problem.path))
    }

    /// Which of two keys to blame: the one that was written.
    fn written_of<'p>(&self, first: &'p str, second: &'p str) -> &'p str {
        if self.origins.contains_key(first) { first } else { second }
    }

    fn refuse(&mut self, path: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(path, message).at(self.origins.get(path).cloned()));
    }

    fn refuse_with(&mut self, path: &str, message: impl Into<String>, advice: impl Into<String>) {
        self.problems.push(Problem::new(path, message).at(self.origins.get(path).cloned()).suggest(advice));
    }
}

/// Loopback also when it is written as an IPv4-mapped IPv6 address.
fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
