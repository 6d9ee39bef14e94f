//! What only `serve` refuses: a TLS listener without a certificate, and files that the configuration names and that are no
//! good. Owns looking into those files.
//!
//! Invariant: reads only, binds nothing, creates nothing. Leaves the state folder and the key file to the store (exit 73).

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys, RootCertStore};

use super::problem::Problem;
use super::settings::Config;
use crate::clock::Millis;

/// What `serve` would refuse about `config` at `now_ms` (wall time); empty when it may start.
#[must_use]
pub fn check_serve(config: &Config, now_ms: Millis) -> Vec<Problem> {
    let mut problems = Vec::new();
    match config.server.tls.pair() {
        Some((cert, key)) => problems.extend(check_pair(cert, key, now_ms)),
        None if !config.server.listen.is_empty() => problems.push(without_certificate(config)),
        None => {}
    }
    if let Some(path) = &config.egress.ca_file {
        problems.extend(read_certificates("egress.ca_file", path).err());
    }
    if let Some(path) = &config.secrets.key_file {
        problems.extend(check_private("secrets.key_file", path));
    }
    for (index, event_type) in config.event_types.iter().enumerate() {
        let Some(path) = &event_type.schema else { continue };
        problems.extend(check_schema(format!("event_types[{index}].schema"), path));
    }
    problems
}

fn without_certificate(config: &Config) -> Problem {
    let addresses = config.server.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Problem::new("server.listen", format!("{addresses} speaks TLS, and there is no certificate")).suggest(
        "name one with server.tls.cert and server.tls.key; or set server.listen = [] and \
         server.plaintext_listen = [\"127.0.0.1:8080\"] behind a reverse proxy that holds it; or, to try things out, \
         run webhookd serve --dev, which makes its own",
    )
}

fn check_pair(cert: &Path, key: &Path, now_ms: Millis) -> Vec<Problem> {
    let chain = read_certificates("server.tls.cert", cert);
    let private = read_key("server.tls.key", key);
    let mut problems: Vec<Problem> = check_private("server.tls.key", key).into_iter().collect();
    match (chain, private) {
        (Ok(chain), Ok(private)) => problems.extend(check_match(cert, key, chain, private, now_ms)),
        (chain, private) => problems.extend(chain.err().into_iter().chain(private.err())),
    }
    problems
}

fn check_match(
    cert: &Path,
    key: &Path,
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
    now_ms: Millis,
) -> Option<Problem> {
    let dated = chain.first().and_then(|leaf| check_dates(cert, leaf, now_ms));
    match CertifiedKey::from_der(chain, private, &ring::default_provider()) {
        Ok(_) => dated,
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let message = format!("{} does not belong to the certificate in {}", key.display(), cert.display());
            Some(Problem::new("server.tls.key", message).suggest("the server's own certificate must come first"))
        }
        Err(Error::InvalidCertificate(error)) => Some(unusable("server.tls.cert", cert, &format!("{error:?}"))),
        Err(error) => Some(unusable("server.tls.key", key, &error.to_string())),
    }
}

/// Whether the certificate is valid at `now_ms`. rustls reads the dates before it looks for an issuer, so asking it with an
/// empty list of issuers tells about the dates and nothing else.
fn check_dates(path: &Path, leaf: &CertificateDer<'_>, now_ms: Millis) -> Option<Problem> {
    let parsed = match ParsedCertificate::try_from(leaf) {
        Ok(parsed) => parsed,
        Err(error) => return Some(unusable("server.tls.cert", path, &error.to_string())),
    };
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now_ms));
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    let verdict = verify_server_cert_signed_by_trust_anchor(&parsed, &RootCertStore::empty(), &[], now, algorithms);
    let date = |time: UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |time| time.to_string())
    };
    let told = match verdict {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            format!("expired at {}", date(not_after))
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            format!("is not valid before {}", date(not_before))
        }
        Err(Error::InvalidCertificate(CertificateError::Expired)) => "has expired".to_owned(),
        Err(Error::InvalidCertificate(CertificateError::NotValidYet)) => "is not valid yet".to_owned(),
        _ => return None,
    };
    Some(Problem::new("server.tls.cert", format!("the certificate in {} {told}", path.display())))
}

fn read_certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let pem = std::fs::read(path).map_err(|error| unreadable(key, path, &error))?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(chain) if chain.is_empty() => Err(unusable(key, path, "there is no CERTIFICATE block in it")),
        Ok(chain) => match chain.iter().find_map(|cert| ParsedCertificate::try_from(cert).err()) {
            Some(error) => Err(unusable(key, path, &error.to_string())),
            None => Ok(chain),
        },
        Err(error) => Err(unusable(key, path, &error.to_string())),
    }
}

fn read_key(key: &str, path: &Path) -> Result<PrivateKeyDer<'static>, Problem> {
    let pem = zeroize::Zeroizing::new(std::fs::read(path).map_err(|error| unreadable(key, path, &error))?);
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        pem::Error::NoItemsFound => unusable(key, path, "there is no unencrypted PRIVATE KEY block in it"),
        // The error may quote the file.
        _ => unusable(key, path, "it is not valid PEM"),
    })
}

/// A secret that everybody on the machine can read is no secret.
fn check_private(key: &str, path: &Path) -> Option<Problem> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o007 != 0).then(|| {
        let message = format!("{} is open to every user (mode {:04o})", path.display(), mode & 0o7777);
        Problem::new(key, message).suggest(format!("run chmod o= {}", path.display()))
    })
}

fn check_schema(key: String, path: &Path) -> Option<Problem> {
    match std::fs::read(path) {
        Ok(text) => {
            let error = serde_json::from_slice::<serde_json::Value>(&text).err()?;
            Some(unusable(&key, path, &format!("it is not JSON (line {}, column {})", error.line(), error.column())))
        }
        Err(error) => Some(unreadable(&key, path, &error)),
    }
}

fn unreadable(key: &str, path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(key, format!("{} can't be read: {error}", path.display()))
}

fn unusable(key: &str, path: &Path, why: &str) -> Problem {
    Problem::new(key, format!("{} can't be used: {why}", path.display()))
}
