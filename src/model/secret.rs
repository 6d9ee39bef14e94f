//! A string that must not be seen: its `Debug` prints nothing of it, its memory is wiped.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// Secret text (a signing secret, a token, a custom header's value).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself. Every call is a place where a secret could leak: keep them few.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;
    use crate::model::id::KeyId;
    use crate::model::key::{Key, Role};
    use crate::model::webhook::{Filter, Webhook};

    #[test]
    fn what_a_panic_may_show_of_webhooks_and_keys_holds_no_secret() {
        let secret = || Secret::new("canary".to_owned());
        let mut webhook = Webhook::sample(1, vec![Filter::All]);
        webhook.secrets[0].secret = secret();
        webhook.headers = vec![("X-Authorization".to_owned(), secret())];
        let key = Key {
            id: KeyId([7; 8]),
            role: Role::Admin,
            tenant: None,
            name: Some("a name".to_owned()),
            publish: false,
            token_hash: [7; 32],
            secret_key: secret(),
            created_ms: 1,
            expires_ms: None,
            cidrs: Vec::new(),
            revoked_ms: None,
        };
        assert_eq!(secret().expose(), "canary");
        let shown = [format!("{webhook:?} {key:?} {:?}", secret()), format!("{webhook:#?} {key:#?} {:#?}", secret())];
        for shown in shown {
            assert!(shown.contains("X-Authorization") && shown.contains("a name"), "{shown}");
            assert!(!shown.contains("canary"), "{shown}");
        }
    }
}
