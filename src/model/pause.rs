//! Pauses: what nothing is delivered to for a while, by decision of its owner or of the operator. Owns which webhooks a
//! pause covers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::id::{TenantNo, WebhookNo};
use super::webhook::Webhook;
use crate::clock::Millis;

/// What is paused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    Everything,
    Tenant(TenantNo),
    /// Every webhook whose URL names this host; with a port: on that port only.
    Host(String),
    /// By the operator.
    Webhook(WebhookNo),
    /// By its owner.
    Own(WebhookNo),
}

/// Since when it is paused, or was; wall time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub since_ms: Millis,
    /// It was resumed then. Kept for a while, because time under a pause does not count against a receiver.
    pub until_ms: Option<Millis>,
}

/// All pauses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    all: BTreeMap<Scope, Pause>,
    /// How many of them are in force, and how many name a host: mostly none, and then nothing is looked up.
    in_force: usize,
    hosts: usize,
}

impl Scope {
    /// Reads a host name or address, with or without a port.
    #[must_use]
    pub fn host(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > 260 || text.contains(['/', '\\', '?', '#', '@', ' ', '\t', '\r', '\n']) {
            return None;
        }
        let url = Url::parse(&format!("https://{text}/")).ok()?;
        let host = url.host()?;
        let tail = text.rsplit_once(':').map(|(_, tail)| tail);
        let has_port = tail.is_some_and(|tail| !tail.is_empty() && tail.bytes().all(|byte| byte.is_ascii_digit()));
        let port = url.port_or_known_default().filter(|_| has_port);
        if tail.is_some() && !has_port && !text.ends_with(']') {
            return None;
        }
        Some(Self::Host(port.map_or_else(|| host.to_string(), |port| with_port(&host, port))))
    }
}

fn with_port(host: &Host<&str>, port: u16) -> String {
    format!("{host}:{port}")
}

impl Pauses {
    /// Sets what is known of a scope, or forgets it.
    pub fn set(&mut self, scope: &Scope, pause: Option<Pause>) {
        let before = match pause {
            Some(pause) => self.all.insert(scope.clone(), pause),
            None => self.all.remove(scope),
        };
        let in_force = |pause: Option<Pause>| usize::from(pause.is_some_and(|pause| pause.until_ms.is_none()));
        self.in_force = self.in_force + in_force(pause) - in_force(before);
        if matches!(scope, Scope::Host(_)) {
            self.hosts = self.hosts + usize::from(pause.is_some()) - usize::from(before.is_some());
        }
    }

    #[must_use]
    pub fn get(&self, scope: &Scope) -> Option<Pause> {
        self.all.get(scope).copied()
    }

    /// Everything that is known, what was resumed too.
    pub fn iter(&self) -> impl Iterator<Item = (&Scope, Pause)> {
        self.all.iter().map(|(scope, pause)| (scope, *pause))
    }

    /// What was resumed before then.
    pub fn ended_before(&self, before_ms: Millis) -> impl Iterator<Item = &Scope> {
        let ended = move |pause: Pause| pause.until_ms.is_some_and(|until| until < before_ms);
        self.iter().filter(move |(_, pause)| ended(*pause)).map(|(scope, _)| scope)
    }

    /// What is paused now.
    pub fn now(&self) -> impl Iterator<Item = (&Scope, Pause)> {
        self.iter().filter(|(_, pause)| pause.until_ms.is_none())
    }

    /// Hosts that are paused, or were lately.
    #[must_use]
    pub fn hosts(&self) -> usize {
        self.hosts
    }

    /// What pauses a webhook: the widest scope.
    #[must_use]
    pub fn of(&self, webhook: &Webhook) -> Option<&Scope> {
        if self.in_force == 0 {
            return None;
        }
        self.covering(webhook).find(|(_, pause)| pause.until_ms.is_none()).map(|(scope, _)| scope)
    }

    /// Until when a webhook was paused last; `now_ms` while it is.
    #[must_use]
    pub fn last_until(&self, webhook: &Webhook, now_ms: Millis) -> Option<Millis> {
        self.covering(webhook).map(|(_, pause)| pause.until_ms.unwrap_or(now_ms)).max()
    }

    /// The pauses that cover a webhook, widest first.
    fn covering(&self, webhook: &Webhook) -> impl Iterator<Item = (&Scope, Pause)> {
        let mut hosts = Vec::new();
        // Reading the URL costs something; hosts are hardly ever paused.
        let url = Some(&webhook.url).filter(|_| self.hosts > 0).and_then(|url| Url::parse(url).ok());
        if let Some((url, host)) = url.as_ref().and_then(|url| Some((url, url.host()?))) {
            hosts.push(Scope::Host(host.to_string()));
            hosts.extend(url.port_or_known_default().map(|port| Scope::Host(with_port(&host, port))));
        }
        let scopes = [Scope::Everything, Scope::Tenant(webhook.tenant)].into_iter().chain(hosts);
        let scopes = scopes.chain([Scope::Webhook(webhook.no), Scope::Own(webhook.no)]);
        scopes.filter_map(|scope| self.all.get_key_value(&scope)).map(|(scope, pause)| (scope, *pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(no: WebhookNo, tenant: TenantNo, url: &str) -> Webhook {
        Webhook { no, url: url.to_owned(), ..Webhook::sample(tenant, Vec::new()) }
    }

    #[test]
    fn hosts_are_read_as_urls_name_them() {
        let read = |text: &str| match Scope::host(text) {
            Some(Scope::Host(host)) => Some(host),
            _ => None,
        };
        for (text, host) in [
            ("Example.COM", "example.com"),
            ("example.com:443", "example.com:443"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("0x7f.1", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[0:0::1]:80", "[::1]:80"),
        ] {
            assert_eq!(read(text).as_deref(), Some(host), "{text}");
        }
        for text in ["", "a/b", "u@h", "h:", "h:x", "h:65536", "::1", "a b", "https://h", "h?x", &"a".repeat(300)] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_pause_covers_what_it_names() {
        let (since_ms, until_ms) = (5, None);
        for (scope, covered) in [
            (Scope::Everything, [true, true, true]),
            (Scope::Tenant(1), [true, true, false]),
            (Scope::host("a.example").unwrap(), [true, false, true]),
            (Scope::host("a.example:8443").unwrap(), [false, false, true]),
            (Scope::host("a.example:443").unwrap(), [true, false, false]),
            (Scope::Webhook(2), [false, true, false]),
            (Scope::Own(3), [false, false, true]),
        ] {
            let mut pauses = Pauses::default();
            pauses.set(&scope, Some(Pause { since_ms, until_ms }));
            let webhooks = [
                webhook(1, 1, "https://a.example/x"),
                webhook(2, 1, "https://b.example/"),
                webhook(3, 2, "https://A.example:8443/"),
            ];
            let found = webhooks.each_ref().map(|webhook| pauses.of(webhook) == Some(&scope));
            assert_eq!(found, covered, "{scope:?}");
            assert_eq!(pauses.now().count(), 1);
            pauses.set(&scope, Some(Pause { since_ms, until_ms: Some(9) }));
            assert!(webhooks.iter().all(|webhook| pauses.of(webhook).is_none()) && pauses.now().count() == 0);
            let known = webhooks.each_ref().map(|webhook| pauses.last_until(webhook, 99) == Some(9));
            assert_eq!(known, covered, "{scope:?}");
            pauses.set(&scope, None);
            assert_eq!(pauses, Pauses::default());
        }
    }
}
