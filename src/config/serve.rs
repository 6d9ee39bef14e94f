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
use crate::catalogue::Schema;
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
        (Ok(chain), Ok(private)) => {
            problems.extend(chain.first().and_then(|leaf| check_dates(cert, leaf, now_ms)));
            problems.extend(check_match(cert, key, chain, private));
        }
        (chain, private) => problems.extend(chain.err().into_iter().chain(private.err())),
    }
    problems
}

fn check_match(
    cert: &Path,
    key: &Path,
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
) -> Option<Problem> {
    match CertifiedKey::from_der(chain, private, &ring::default_provider()).err()? {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let message = format!("{} does not belong to the certificate in {}", key.display(), cert.display());
            Some(Problem::new("server.tls.key", message).suggest("our own certificate must be the first in its file"))
        }
        error => Some(unusable("server.tls.key", key, &error.to_string())),
    }
}

/// Whether the certificate is valid at `now_ms`. rustls reads the dates before it looks for an issuer, so asking it with an
/// empty list of issuers tells about the dates and nothing else.
fn check_dates(path: &Path, leaf: &CertificateDer<'_>, now_ms: Millis) -> Option<Problem> {
    let parsed = match ParsedCertificate::try_from(leaf) {
        Ok(parsed) => parsed,
        Err(Error::InvalidCertificate(CertificateError::Other(_))) => {
            let why = "no client would take it: it is broken, or of an old form (X.509 version 3 with a subjectAltName is asked for)";
            return Some(unusable("server.tls.cert", path, why));
        }
        Err(error) => return Some(unusable("server.tls.cert", path, &error.to_string())),
    };
    let date = |time: UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |time| time.to_string())
    };
    let told = match dates_at(&parsed, now_ms) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            format!("expired at {}; renew it", date(not_after))
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            format!("is not valid before {}", date(not_before))
        }
        Err(Error::InvalidCertificate(CertificateError::Expired)) => "has expired; renew it".to_owned(),
        Err(Error::InvalidCertificate(CertificateError::NotValidYet)) => "is not valid yet".to_owned(),
        _ => return None,
    };
    Some(Problem::new("server.tls.cert", format!("the certificate in {} {told}", path.display())))
}

fn dates_at(parsed: &ParsedCertificate<'_>, at_ms: Millis) -> Result<(), Error> {
    let at = UnixTime::since_unix_epoch(Duration::from_millis(at_ms));
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(parsed, &RootCertStore::empty(), &[], at, algorithms)
}

/// When our own certificate expires; `None` without one, or when it does not read.
#[must_use]
pub fn certificate_expiry(config: &Config) -> Option<Millis> {
    /// Later than any certificate lasts: the end of year 9999.
    const NEVER_MS: Millis = 253_402_300_799_000;
    let (cert, _) = config.server.tls.pair()?;
    let chain = read_certificates("server.tls.cert", cert).ok()?;
    match dates_at(&ParsedCertificate::try_from(chain.first()?).ok()?, NEVER_MS) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Some(not_after.as_secs().saturating_mul(1_000))
        }
        _ => None,
    }
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
    match std::fs::read_to_string(path) {
        Ok(text) => Schema::read(&text).err().map(|why| unusable(&key, path, &why)),
        Err(error) => Some(unreadable(&key, path, &error)),
    }
}

fn unreadable(key: &str, path: &Path, error: &std::io::Error) -> Problem {
    Problem::new(key, format!("{} can't be read: {error}", path.display()))
}

fn unusable(key: &str, path: &Path, why: &str) -> Problem {
    Problem::new(key, format!("{} can't be used: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tempfile::TempDir;

    use super::*;
    use crate::config::{EventType, Loaded, Origin, Place};

    /// 2026-06-01.
    const NOW_MS: Millis = 1_780_272_000_000;

    /// What is said of a schema that is cut off, in a build that knows schemas and in one that does not.
    const SCHEMA_TOLD: &str = if cfg!(feature = "schema") {
        "event_types[0].schema: schema.json can't be used: it is not JSON (line 1, column 1)"
    } else {
        "event_types[0].schema: schema.json can't be used: this build checks no schemas: build it with --features schema"
    };

    /// A folder with a good pair, valid in 2026, and a configuration that names it.
    struct Desk {
        folder: TempDir,
        config: Config,
    }

    impl Desk {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut made = Self { folder, config: Config::default() };
            let (cert, key) = pair(2026, 2027);
            made.config.server.tls.cert = Some(made.write("cert.pem", &cert));
            made.config.server.tls.key = Some(made.write("key.pem", &key));
            made
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            path
        }

        fn told(&self) -> Vec<String> {
            let folder = format!("{}/", self.folder.path().display());
            check_serve(&self.config, NOW_MS).iter().map(|problem| problem.to_string().replace(&folder, "")).collect()
        }
    }

    fn pair(from_year: i32, to_year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["hooks.example.com".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from_year, 1, 1);
        params.not_after = date_time_ymd(to_year, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_good_pair_may_serve() {
        assert_eq!(Desk::new().told(), Vec::<String>::new());
        let mut config = Config::default();
        config.server.listen.clear();
        assert_eq!(check_serve(&config, NOW_MS), [], "no TLS listener, no certificate needed");
    }

    #[test]
    fn tls_without_a_certificate_says_how_to_get_one() {
        let told = check_serve(&Config::default(), NOW_MS);
        assert_eq!(told.len(), 1);
        let line = told[0].to_string();
        assert!(line.starts_with("server.listen: 127.0.0.1:8443 speaks TLS, and there is no certificate; "), "{line}");
        for way in ["webhookd serve --dev", "server.tls.cert", "server.tls.key", "server.plaintext_listen"] {
            assert!(line.contains(way), "{line}");
        }
    }

    #[test]
    fn a_certificate_outside_its_dates_is_refused() {
        for ((from, to), expected) in [
            ((2020, 2025), "server.tls.cert: the certificate in cert.pem expired at 2025-01-01T00:00:00Z; renew it"),
            ((2030, 2031), "server.tls.cert: the certificate in cert.pem is not valid before 2030-01-01T00:00:00Z"),
        ] {
            let made = Desk::new();
            let (cert, key) = pair(from, to);
            made.write("cert.pem", &cert);
            made.write("key.pem", &key);
            assert_eq!(made.told(), [expected]);
        }
    }

    #[test]
    fn when_the_certificate_expires_can_be_told() {
        let desk = Desk::new();
        let year_2027 = 1_798_761_600_000;
        assert_eq!(certificate_expiry(&desk.config), Some(year_2027));
        assert_eq!(certificate_expiry(&Config::default()), None);
        desk.write("cert.pem", "hello");
        assert_eq!(certificate_expiry(&desk.config), None);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let made = Desk::new();
        made.write("key.pem", &pair(2026, 2027).1);
        assert_eq!(
            made.told(),
            [
                "server.tls.key: key.pem does not belong to the certificate in cert.pem; our own certificate must be the \
              first in its file"
            ]
        );
    }

    #[test]
    fn files_that_are_no_good_are_all_told() {
        let mut made = Desk::new();
        made.write("cert.pem", "hello");
        made.write("key.pem", "-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n");
        made.config.egress.ca_file = Some(made.folder.path().join("gone.pem"));
        let schema = Some(made.write("schema.json", "{"));
        made.config.event_types =
            vec![EventType { name: "a".into(), description: String::new(), omnia_channel: None, schema }];
        assert_eq!(
            made.told(),
            [
                "server.tls.cert: cert.pem can't be used: there is no CERTIFICATE block in it",
                "server.tls.key: key.pem can't be used: it is not valid PEM",
                "egress.ca_file: gone.pem can't be read: No such file or directory (os error 2)",
                SCHEMA_TOLD,
            ]
        );
        made.write("cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        made.write("key.pem", "");
        let told = made.told();
        assert!(told[0].starts_with("server.tls.cert: cert.pem can't be used: "), "{told:#?}");
        assert_eq!(told[1], "server.tls.key: key.pem can't be used: there is no unencrypted PRIVATE KEY block in it");
    }

    #[test]
    fn a_key_that_everybody_can_read_is_refused() {
        let mut made = Desk::new();
        let sealing = made.write("webhookd.key", "x");
        made.config.secrets.key_file = Some(sealing.clone());
        assert_eq!(made.told(), Vec::<String>::new());
        for path in [sealing, made.folder.path().join("key.pem")] {
            fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        }
        let told = made.told();
        assert_eq!(told.len(), 2, "{told:#?}");
        assert!(told[0].starts_with("server.tls.key: key.pem is open to every user (mode 0644); run chmod o="));
        assert!(told[1].starts_with("secrets.key_file: webhookd.key is open to every user (mode 0644); run chmod o="));
    }

    #[test]
    fn what_is_told_has_the_place_of_its_key() {
        let mut loaded = Loaded::from(Config::default());
        let place = Place::File { path: "webhookd.toml".into(), line: 3, column: 1 };
        loaded.origins.insert("server.listen".to_owned(), place.clone());
        assert_eq!(loaded.origin("server.listen"), Origin::Set(place));
        assert!(loaded.check_serve(NOW_MS)[0].to_string().starts_with("webhookd.toml:3:1: server.listen: "));
    }
}
