//! `reload`: the daemon reads its configuration and certificates again. Owns how its verdict is told.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, StatusCode};
use serde_json::Value;

use super::client::Target;
use super::{Failure, REFUSED, print};

#[derive(Args)]
pub(super) struct Reload {
    #[command(flatten)]
    target: Target,
    /// Wait this long, in seconds, until it is done or refused.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_value_t = 60, default_missing_value = "60")]
    wait: u16,
}

impl Reload {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let client = self.target.client()?.patient(Duration::from_secs(self.wait.max(1).into()));
        let answer = client.try_ask(Method::POST, "/admin/reload", Bytes::new(), &[])?;
        if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
            let why = print::text(&answer.json()?["detail"]);
            eprintln!("{why}");
            return Err(Failure::new(REFUSED, "not reloaded; the daemon goes on with the configuration that it has"));
        }
        if !answer.status.is_success() {
            return Err(client.refusal("/admin/reload", &answer));
        }
        let done = answer.json()?;
        let later = done["restart_needed"].as_array().map_or(&[][..], Vec::as_slice);
        print::line("reloaded")?;
        for key in later.iter().filter_map(Value::as_str) {
            print::line(&format!("{key} was changed too, but takes a restart: systemctl restart webhookd"))?;
        }
        Ok(())
    }
}
