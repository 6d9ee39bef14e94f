//! A private authority for `--tls`: made afresh for each run, in the run's temporary folder.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub const AUTHORITY: &str = "authority.pem";
pub const CERTIFICATE: &str = "certificate.pem";
pub const KEY: &str = "key.pem";

/// Writes the authority and a certificate for 127.0.0.1 into `folder`.
pub fn make(folder: &Path) {
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // A name of its own: a leaf of the same name would look self-signed to some verifiers.
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "benchmark authority");
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let authority = parameters.self_signed(&authority_key).expect("an authority");
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let leaf_key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    let leaf = leaf.signed_by(&leaf_key, &issuer).expect("a certificate");
    for (name, text) in [(AUTHORITY, authority.pem()), (CERTIFICATE, leaf.pem()), (KEY, leaf_key.serialize_pem())] {
        // The daemon refuses a key that others may read.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(name));
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("writing a PEM file");
    }
}

pub fn server(folder: &Path) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(folder.join(CERTIFICATE)).expect("the certificate")];
    let key = PrivateKeyDer::from_pem_file(folder.join(KEY)).expect("the key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(chain, key);
    Arc::new(config.expect("a certificate that fits its key"))
}

pub fn client(folder: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join(AUTHORITY)).expect("the authority")).expect("a good authority");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}
