//! `sign`, `verify`, `completions`, `man`, `version`: what needs no daemon and no configuration.

use std::fs;

use super::{says, webhookd};

/// Of the Standard Webhooks specification, and of lemon's reference.
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const STANDARD_ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const STANDARD_BODY: &str = "{\"test\": 2432232314}";
const STANDARD_SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const LEMON_SIGNATURE: &str = "t=0,v1=3523dcc0013f08dfa1855772441107330218793f399d7452bd3ff2159c6e0285";
/// So that a test's old timestamp is let through.
const EVER: &str = "99999999999";

#[test]
fn signatures_are_those_of_the_published_vectors() {
    let standard = ["sign", "--id", STANDARD_ID, "--timestamp", "1614265330"];
    let signed = webhookd(&standard).env("WEBHOOK_SECRET", STANDARD_SECRET).input(STANDARD_BODY).run().ends(0).out;
    let wanted =
        format!("webhook-id: {STANDARD_ID}\nwebhook-timestamp: 1614265330\nwebhook-signature: {STANDARD_SIGNATURE}\n");
    assert_eq!(signed, wanted);

    let folder = tempfile::tempdir().expect("a folder");
    let [secret, body] = ["secret", "body"].map(|name| folder.path().join(name));
    fs::write(&secret, format!("{}\n", "0".repeat(64))).expect("a file");
    fs::write(&body, "{}").expect("a file");
    let [secret, body] = [&secret, &body].map(|path| path.to_str().expect("a path"));
    let files = ["--secret-file", secret, "--body", body];
    let lemon = webhookd(&[&["sign", "--scheme", "lemon", "--timestamp", "0"], &files[..]].concat()).run().ends(0).out;
    assert_eq!(lemon, format!("lmg-signature: {LEMON_SIGNATURE}\nlemon-markets-signature: {LEMON_SIGNATURE}\n"));

    let vibe = webhookd(&[&["sign", "--scheme", "vibe"], &files[..]].concat()).run().ends(0).out;
    let signature = vibe.trim().strip_prefix("x-webhook-signature: ").expect("the header").to_owned();
    let verify = |scheme: &str, signature: &str| {
        let args = ["verify", "--scheme", scheme, "--tolerance", EVER, "--signature", signature];
        webhookd(&[&args[..], &files].concat()).run()
    };
    assert_eq!(verify("vibe", &signature).ends(0).out, "verified\n");
    assert_eq!(verify("lemon", LEMON_SIGNATURE).ends(0).out, "verified\n");
    says(&verify("vibe", &signature.replace(&signature[..1], "g")).ends(1).err, &["not verified", "no signature fits"]);
    says(&verify("lemon", "nonsense").ends(1).err, &["can't be read"]);
}

#[test]
fn verifying_looks_at_body_secret_and_time() {
    let verify = |secret: &str, body: &str, tolerance: &str| {
        let args = ["verify", "--id", STANDARD_ID, "--timestamp", "1614265330", "--signature", STANDARD_SIGNATURE];
        webhookd(&[&args[..], &["--tolerance", tolerance]].concat()).env("WEBHOOK_SECRET", secret).input(body).run()
    };
    assert_eq!(verify(STANDARD_SECRET, STANDARD_BODY, EVER).ends(0).out, "verified\n");
    says(&verify(STANDARD_SECRET, "{\"test\": 2432232315}", EVER).ends(1).err, &["no signature fits"]);
    says(&verify("another secret", STANDARD_BODY, EVER).ends(1).err, &["no signature fits"]);
    says(&verify(STANDARD_SECRET, STANDARD_BODY, "300").ends(1).err, &["too far from now"]);
    says(&verify("", STANDARD_BODY, EVER).ends(64).err, &["the secret is empty"]);
    let nowhere = ["verify", "--id", "x", "--timestamp", "1", "--signature", "v1,x", "--secret-file", "gone"];
    says(&webhookd(&nowhere).run().ends(71).err, &["gone can't be read"]);
    let unnamed = ["verify", "--scheme", "vibe", "--signature", "x"];
    says(&webhookd(&unnamed).run().ends(64).err, &["--secret-file", "WEBHOOK_SECRET"]);
    let told = webhookd(&["verify", "--scheme", "vibe", "--signature", "x", "--secret", "s"]).run().ends(64);
    says(&told.err, &["unexpected argument '--secret'"]);
}

#[test]
fn scripts_for_shells_and_pages_for_man_name_every_command() {
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef webhookd"), ("fish", "complete -c webhookd")] {
        let script = webhookd(&["completions", shell]).run().ends(0).out;
        says(&script, &[mark, "doctor", "tenants", "secret-file"]);
    }
    let page = webhookd(&["man"]).run().ends(0).out;
    says(&page, &[".TH webhookd 1", "webhookd\\-doctor(1)"]);
    let folder = tempfile::tempdir().expect("a folder");
    let into = folder.path().join("man");
    webhookd(&["man", "--dir", into.to_str().expect("a path")]).run().ends(0);
    for name in ["webhookd.1", "webhookd-serve.1", "webhookd-keys-create.1", "webhookd-config-show.1"] {
        says(&fs::read_to_string(into.join(name)).expect("a page"), &[".TH"]);
    }
    fs::write(folder.path().join("file"), "").expect("a file");
    let file = folder.path().join("file");
    webhookd(&["man", "--dir", file.to_str().expect("a path")]).run().ends(73);
}

#[test]
fn the_version_is_the_packages() {
    let wanted = format!("webhookd {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(webhookd(&["version"]).run().ends(0).out, wanted);
    assert_eq!(webhookd(&["--version"]).run().ends(0).out, wanted);
}
