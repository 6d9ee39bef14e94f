//! `sign` and `verify`: the three signatures of our deliveries, computed and checked here, without a daemon. Owns that a
//! secret comes from a file or a variable and never from the command line, where every process of the machine sees it.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use http::{HeaderMap, HeaderName};
use zeroize::Zeroizing;

use super::{Failure, NO, SYSTEM, print};
use crate::clock::Clock;
use crate::limits::SIGNATURE_TOLERANCE_S;
use crate::model::secret::Secret;
use crate::model::webhook::Dialect;
use crate::sign::{
    LEMON_SIGNATURES, SigningKeys, VIBE_SIGNATURE, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP, verify_lemon,
    verify_standard, verify_vibe,
};

/// The variable that holds the secret where no file is named.
const SECRET: &str = "WEBHOOK_SECRET";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scheme {
    /// Standard Webhooks: webhook-id, webhook-timestamp, webhook-signature; on every delivery.
    Standard,
    /// LMG-Signature: `t=<unix>,v1=<hex>`.
    Lemon,
    /// X-Webhook-Signature: hex over the body alone.
    Vibe,
}

#[derive(Args)]
struct Signed {
    /// Whose signature.
    #[arg(long, value_enum, default_value_t = Scheme::Standard)]
    scheme: Scheme,
    /// The event's id, as in webhook-id; for the scheme standard.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The body, byte for byte; otherwise standard input.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// A file with the webhook's secret; otherwise $WEBHOOK_SECRET.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Sign {
    #[command(flatten)]
    signed: Signed,
    /// Unix seconds; otherwise now.
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<u64>,
}

#[derive(Args)]
pub(super) struct Verify {
    #[command(flatten)]
    signed: Signed,
    /// The signature header's value, as received.
    #[arg(long, value_name = "VALUE")]
    signature: String,
    /// The webhook-timestamp header's value; for the scheme standard.
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<String>,
    /// How far the timestamp may be from now, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = SIGNATURE_TOLERANCE_S)]
    tolerance: u64,
}

impl Signed {
    fn id(&self) -> Result<&str, Failure> {
        self.id.as_deref().ok_or_else(|| Failure::usage("--id is required for the scheme standard: the webhook-id"))
    }

    fn secret(&self) -> Result<Secret, Failure> {
        let text = match &self.secret_file {
            Some(path) => return secret_of(path),
            None => Zeroizing::new(std::env::var(SECRET).map_err(|_| {
                Failure::usage(format!("the secret is missing: name its file with --secret-file, or set {SECRET}"))
            })?),
        };
        secret_in(&text)
    }

    fn body(&self) -> Result<Vec<u8>, Failure> {
        match &self.body {
            Some(path) => std::fs::read(path).map_err(|error| unreadable(path, &error)),
            None => {
                let mut body = Vec::new();
                let read = std::io::stdin().read_to_end(&mut body);
                read.map_err(|error| unreadable(Path::new("standard input"), &error))?;
                Ok(body)
            }
        }
    }
}

/// The secret that stands in a file.
pub(super) fn secret_of(path: &Path) -> Result<Secret, Failure> {
    secret_in(&Zeroizing::new(std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?))
}

fn secret_in(text: &str) -> Result<Secret, Failure> {
    // A file that was written with an editor ends in a newline, which no secret does.
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() { Err(Failure::usage("the secret is empty")) } else { Ok(Secret::new(text.to_owned())) }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(SYSTEM, format!("{} can't be read: {error}", path.display()))
}

impl Sign {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let (dialect, names): (Dialect, &[HeaderName]) = match self.signed.scheme {
            Scheme::Standard => (Dialect::Omnia, &[WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE]),
            Scheme::Lemon => (Dialect::Lemon, &LEMON_SIGNATURES),
            Scheme::Vibe => (Dialect::Vibe, &[VIBE_SIGNATURE]),
        };
        let id = if self.signed.scheme == Scheme::Standard { self.signed.id()? } else { "" };
        let at_s = self.timestamp.unwrap_or_else(|| Clock::system().wall_ms() / 1_000);
        let keys = SigningKeys::new(dialect, [&self.signed.secret()?]);
        let mut headers = HeaderMap::new();
        let written = keys.write_headers(&mut headers, id, at_s, &self.signed.body()?, 1);
        written.map_err(|_| Failure::usage("--id holds characters that no header can carry"))?;
        for name in names {
            if let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) {
                print::line(&format!("{name}: {value}"))?;
            }
        }
        Ok(())
    }
}

impl Verify {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let now_s = Clock::system().wall_ms() / 1_000;
        let (secret, signature) = (self.signed.secret()?, self.signature.trim());
        let verdict = match self.signed.scheme {
            Scheme::Standard => {
                let id = self.signed.id()?;
                let stamp = self.timestamp.as_deref();
                let stamp = stamp.ok_or_else(|| Failure::usage("--timestamp is required: the webhook-timestamp"))?;
                let body = self.signed.body()?;
                verify_standard(&secret, id, stamp, signature, &body, now_s, self.tolerance)
            }
            Scheme::Lemon => verify_lemon(&secret, signature, &self.signed.body()?, now_s, self.tolerance),
            Scheme::Vibe => verify_vibe(&secret, signature, &self.signed.body()?),
        };
        verdict.map_err(|refusal| Failure::new(NO, format!("not verified: {refusal}")))?;
        print::line("verified")
    }
}
