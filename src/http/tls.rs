//! Our side of TLS: the certificate we show, replaceable while serving, and the authority made on the spot for `--dev`.
//!
//! Invariant: a configuration is whole (chain and key were read, parsed and match) or it is an error that names the file;
//! what is being served stays until its replacement is whole. Handshakes and their time limit are left to `server`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;

use crate::clock::Millis;

/// How long a certificate made for `--dev` is valid; browsers and curl accept up to 398 days.
const DEV_VALID: Duration = Duration::from_secs(365 * 24 * 3_600);
/// One that has less left than this is made anew.
const DEV_RENEW: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Clocks of clients may be this far behind.
const DEV_SKEW: Duration = Duration::from_secs(24 * 3_600);
const DEV_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Why there is no configuration; names the file and what is wrong with it.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: not PEM: {reason}", path.display())]
    Pem { path: PathBuf, reason: String },
    #[error("{}: no certificate in it (a block that begins with `-----BEGIN CERTIFICATE-----`)", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{}: no private key in it (PKCS #8, PKCS #1 or SEC1; an encrypted key must be decrypted first)", path.display())]
    NoKey { path: PathBuf },
    #[error("{} is not the key of the certificate in {}", key.display(), cert.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("{} with {}: {source}", cert.display(), key.display())]
    Refused { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("can't make a certificate for development: {0}")]
    Make(#[from] rcgen::Error),
}

/// Where the three files of the authority for `--dev` are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevAuthority {
    /// What clients have to trust: `curl --cacert`.
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Reads a certificate chain and its key (PEM) into a configuration for TLS 1.2 and 1.3 that offers HTTP/2 and HTTP/1.1.
///
/// # Errors
/// When a file can't be read or parsed, or the two don't belong together.
pub fn load(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let chain = read_chain(cert)?;
    let private = read_key(key)?;
    let refused = |source| match source {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { cert: cert.to_owned(), key: key.to_owned() },
        source => TlsError::Refused { cert: cert.to_owned(), key: key.to_owned(), source },
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(refused)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The same, held so that [`reload`] can replace it.
///
/// # Errors
/// As [`load`].
pub fn shared(cert: &Path, key: &Path) -> Result<Arc<ArcSwap<ServerConfig>>, TlsError> {
    Ok(Arc::new(ArcSwap::from_pointee(load(cert, key)?)))
}

/// Replaces what new handshakes use; open connections go on as they are.
///
/// # Errors
/// As [`load`]; then what was there stays.
pub fn reload(shared: &ArcSwap<ServerConfig>, cert: &Path, key: &Path) -> Result<(), TlsError> {
    shared.store(Arc::new(load(cert, key)?));
    Ok(())
}

/// A certificate authority of this folder alone, and a certificate of it for this machine's own names. What is there is kept
/// while it is whole and has a week left. The authority's own key is not kept: nobody can sign anything else with it.
///
/// # Errors
/// When the folder or a file can't be written.
pub fn dev_authority(dir: &Path, now_ms: Millis) -> Result<DevAuthority, TlsError> {
    let authority = DevAuthority { ca: dir.join("ca.pem"), cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    let now = Duration::from_millis(now_ms);
    if is_usable(&authority, now + DEV_RENEW) {
        return Ok(authority);
    }
    let (not_before, not_after) = (now.saturating_sub(DEV_SKEW), now + DEV_VALID);
    let params = |names: &[&str], title: &str| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        let epoch = date_time_ymd(1970, 1, 1);
        (params.not_before, params.not_after) = (epoch + not_before, epoch + not_after);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, title);
        Ok::<_, rcgen::Error>(params)
    };
    let mut ca = params(&[], &format!("webhookd development authority {now_ms}"))?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_cert = ca.self_signed(&ca_key)?;
    let mut leaf = params(&DEV_NAMES, "webhookd development")?;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let cert = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?;
    fs::create_dir_all(dir).map_err(|source| TlsError::File { path: dir.to_owned(), source })?;
    replace(&authority.key, &key.serialize_pem(), 0o600)?;
    replace(&authority.cert, &cert.pem(), 0o644)?;
    replace(&authority.ca, &ca_cert.pem(), 0o644)?;
    Ok(authority)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fails = |error| pem_error(path, error, || TlsError::NoCertificate { path: path.to_owned() });
    let chain = CertificateDer::pem_file_iter(path).map_err(fails)?.collect::<Result<Vec<_>, _>>().map_err(fails)?;
    if chain.is_empty() { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(chain) }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| pem_error(path, error, || TlsError::NoKey { path: path.to_owned() }))
}

fn pem_error(path: &Path, error: pem::Error, none: impl FnOnce() -> TlsError) -> TlsError {
    match error {
        pem::Error::Io(source) => TlsError::File { path: path.to_owned(), source },
        pem::Error::NoItemsFound => none(),
        other => TlsError::Pem { path: path.to_owned(), reason: other.to_string() },
    }
}

/// Whether a client that trusts the authority would accept the certificate at that time, under each name.
fn is_usable(authority: &DevAuthority, at: Duration) -> bool {
    let (Ok(chain), Ok(cas), Ok(_)) =
        (read_chain(&authority.cert), read_chain(&authority.ca), load(&authority.cert, &authority.key))
    else {
        return false;
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(cas);
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build() else {
        return false;
    };
    let at = UnixTime::since_unix_epoch(at);
    [ServerName::try_from("localhost").ok(), Some(ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST)))].into_iter().all(
        |name| name.is_some_and(|name| verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], at).is_ok()),
    )
}

/// Writes beside and renames, so that a file is there whole or not at all.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let write = || {
        let beside = path.with_extension("pem.new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|source| TlsError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const NOW: Millis = 1_790_000_000_000;
    const DAY: Millis = 24 * 3_600 * 1_000;

    #[test]
    fn a_development_authority_is_made_once_and_renewed_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("dev");
        let made = dev_authority(&dir, NOW).unwrap();
        let first = fs::read(&made.cert).unwrap();
        assert_eq!(fs::metadata(&made.key).unwrap().permissions().mode() & 0o777, 0o600);
        load(&made.cert, &made.key).unwrap();
        assert_eq!(dev_authority(&dir, NOW + 300 * DAY).unwrap(), made);
        assert_eq!(fs::read(&made.cert).unwrap(), first);
        dev_authority(&dir, NOW + 360 * DAY).unwrap();
        assert_ne!(fs::read(&made.cert).unwrap(), first);
        fs::remove_file(&made.ca).unwrap();
        dev_authority(&dir, NOW + 360 * DAY).unwrap();
        assert!(made.ca.exists());
    }

    #[test]
    fn errors_name_the_file_and_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let one = dev_authority(&folder.path().join("one"), NOW).unwrap();
        let two = dev_authority(&folder.path().join("two"), NOW).unwrap();
        let gone = folder.path().join("gone.pem");
        let garbage = folder.path().join("garbage.pem");
        fs::write(&garbage, "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").unwrap();
        let said = |cert: &Path, key: &Path| load(cert, key).unwrap_err().to_string();
        assert!(matches!(load(&one.cert, &two.key).unwrap_err(), TlsError::Mismatch { .. }));
        assert!(said(&gone, &one.key).contains("gone.pem"));
        assert!(said(&one.cert, &gone).contains("gone.pem"));
        assert!(said(&one.key, &one.key).contains("no certificate"));
        assert!(said(&one.cert, &one.cert).contains("no private key"));
        assert!(said(&garbage, &one.key).contains("garbage.pem"));
    }

    #[test]
    fn a_bad_pair_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let one = dev_authority(&folder.path().join("one"), NOW).unwrap();
        let two = dev_authority(&folder.path().join("two"), NOW).unwrap();
        let held = shared(&one.cert, &one.key).unwrap();
        let before = held.load_full();
        reload(&held, &one.cert, &two.key).unwrap_err();
        assert!(Arc::ptr_eq(&before, &held.load_full()));
        reload(&held, &two.cert, &two.key).unwrap();
        assert!(!Arc::ptr_eq(&before, &held.load_full()));
    }
}
