//! `tenants` and `keys`: made, listed, taken back; and which daemon a command talks to, as whom.

use serde_json::{Value, json};

use super::support::{Daemon, free_port};
use super::{of, says, webhookd};

#[test]
fn tenants_are_made_changed_and_listed() {
    let daemon = Daemon::builder().extra("[plans.gold]\ndelays = [\"1s\"]").start();
    says(&of(&daemon, &["tenants", "list"]).run().ends(0).out, &["no tenants", "webhookd tenants put"]);
    let put = ["tenants", "put", "acme", "--name", "Acme\u{1b}[2J GmbH", "--plan", "gold", "--json"];
    assert_ne!(of(&daemon, &put).run().code, 0, "no control characters");
    let put = ["tenants", "put", "acme", "--name", "Acme GmbH", "--plan", "gold", "--json"];
    let made = of(&daemon, &put).run().ends(0).json();
    assert_eq!((&made["id"], &made["name"], &made["plan"]), (&json!("acme"), &json!("Acme GmbH"), &json!("gold")));
    let kept = of(&daemon, &["tenants", "put", "acme", "--plan", ""]).run().ends(0).out;
    says(&kept, &["TENANT", "acme", "Acme GmbH"]);
    assert!(!kept.contains("gold"), "{kept}");
    says(&of(&daemon, &["tenants", "get", "acme"]).run().ends(0).out, &["Acme GmbH"]);
    let all = of(&daemon, &["tenants", "list", "--json"]).run().ends(0).json();
    assert_eq!(all.as_array().expect("a list").len(), 2);
    says(&of(&daemon, &["tenants", "get", "nobody"]).run().ends(1).err, &["not found"]);
    says(&of(&daemon, &["tenants", "put", "No Body"]).run().ends(1).err, &["a tenant's id is"]);
    says(&of(&daemon, &["tenants", "put", "acme", "--plan", "nope"]).run().ends(1).err, &["nope"]);
}

#[test]
fn keys_are_made_listed_and_taken_back() {
    let daemon = Daemon::builder().start();
    of(&daemon, &["tenants", "put", "acme"]).run().ends(0);
    let create = ["keys", "create", "--role", "tenant", "--tenant", "acme", "--publish", "--name", "ci"];
    let limits = ["--expires-at", "2100-01-01T00:00:00Z", "--cidr", "10.0.0.0/8", "--cidr", "127.0.0.0/8", "--json"];
    let key = of(&daemon, &[&create[..], &limits].concat()).run().ends(0).json();
    assert_eq!((&key["publish"], &key["cidrs"]), (&json!(true), &json!(["10.0.0.0/8", "127.0.0.0/8"])));
    let shown = of(&daemon, &["keys", "create", "--role", "publisher"]).run().ends(0).out;
    says(&shown, &["id ", "token ", "whd_", "secret key", "not shown again"]);
    let token = key["token"].as_str().expect("a token");
    assert_eq!(daemon.client().bearer(token).get("/v1/webhooks").status, 200);
    let listed = of(&daemon, &["keys", "list"]).run().ends(0).out;
    let id = key["id"].as_str().expect("an id");
    says(&listed, &[id, "publisher", "acme", "ci", "2100-01-01", "10.0.0.0/8,127.0.0.0/8"]);
    assert!(!listed.contains("whd_"), "{listed}");
    says(&of(&daemon, &["keys", "revoke", id]).run().ends(0).out, &[id, "revoked"]);
    assert_eq!(daemon.client().bearer(token).get("/v1/webhooks").status, 401);
    says(&of(&daemon, &["keys", "revoke", id]).run().ends(1).err, &["not found"]);
    says(&of(&daemon, &["keys", "list"]).run().ends(0).out, &["revoked 2"]);
    let refused = of(&daemon, &["keys", "create", "--role", "tenant", "--tenant", "nobody"]).run().ends(1);
    says(&refused.err, &["tenant is unknown"]);
}

#[test]
fn a_daemon_far_away_is_asked_with_a_token() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let daemon = Daemon::builder().set_text("admin.listen", &address).start();
    let token = of(&daemon, &["keys", "create", "--role", "admin", "--json"]).run().ends(0).json()["token"].take();
    let token = token.as_str().expect("a token");
    let url = format!("http://{address}");
    let far = |args: &[&str], url: &str, token: &str| {
        webhookd(args).env("WEBHOOKD_URL", url).env("WEBHOOKD_TOKEN", token).run()
    };
    far(&["tenants", "put", "acme"], &url, token).ends(0);
    let all: Value = far(&["tenants", "list", "--json"], &url, token).ends(0).json();
    assert_eq!(all[0]["id"], "acme");
    says(&far(&["status"], &url, "").ends(1).err, &["WEBHOOKD_TOKEN"]);
    says(&far(&["status"], &url, "whd_wrong").ends(1).err, &["WEBHOOKD_TOKEN"]);
    // The public listeners have no administration.
    says(&far(&["status"], &daemon.base_url(), token).ends(1).err, &["admin.listen", "not on the public listeners"]);
    // What is named on the command line is meant.
    let near = webhookd(&["status", "--config", daemon.config().to_str().expect("a path")]);
    near.env("WEBHOOKD_URL", "http://127.0.0.1:1").run().ends(0);
}
