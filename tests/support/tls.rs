//! A private authority and the certificates, good and bad, that receivers show.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// What is right or wrong with a receiver's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    Good,
    Expired,
    /// For a name that nobody asks for.
    WrongName,
    /// By its own key.
    SelfSigned,
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A name of its own: a leaf of the same name would look self-signed to some verifiers.
        parameters.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("a key");
        let pem = parameters.self_signed(&key).expect("an authority").pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes its own certificate to a file, for `egress.ca_file`.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, &self.pem).expect("writing the authority");
    }

    /// A certificate with its chain and its key, as PEM, for 127.0.0.1, localhost and hooks.example.com where it is good.
    pub fn issue(&self, certificate: Certificate) -> (String, String) {
        let names = match certificate {
            Certificate::Good | Certificate::Expired | Certificate::SelfSigned => {
                ["127.0.0.1", "localhost", "hooks.example.com"].map(str::to_owned).to_vec()
            }
            Certificate::WrongName => vec!["elsewhere.example".to_owned()],
        };
        let mut parameters = CertificateParams::new(names).expect("names");
        parameters.distinguished_name.push(DnType::CommonName, "test receiver");
        if certificate == Certificate::Expired {
            parameters.not_before = date_time_ymd(2020, 1, 1);
            parameters.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        if certificate == Certificate::SelfSigned {
            return (parameters.self_signed(&key).expect("a certificate").pem(), key.serialize_pem());
        }
        let leaf = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        (leaf.pem() + &self.pem, key.serialize_pem())
    }

    pub fn server_config(&self, certificate: Certificate) -> Arc<ServerConfig> {
        let (chain, key) = self.issue(certificate);
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().expect("a chain");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(chain, key);
        Arc::new(config.expect("a certificate that fits its key"))
    }

    /// For a client that offers these protocols.
    pub fn client_for(&self, protocols: &[&[u8]]) -> ClientConfig {
        let mut config = ClientConfig::clone(&self.client());
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("an authority"))
            .expect("a good authority");
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}
