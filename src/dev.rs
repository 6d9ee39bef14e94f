//! `serve --dev`: everything needed to try the daemon out, made on the spot. Owns the scratch folder and the demo tenant.
//!
//! Never to be mistaken for production: state lives in a scratch folder that the next `--dev` wipes, the certificate comes
//! from an authority that nobody trusts, receivers on loopback and over plain HTTP are let in, and the log says so. Invariant: a
//! folder that a process works in is not wiped.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::Running;
use crate::http::tls;
use crate::model::audit::Actor;
use crate::model::id::TenantId;
use crate::model::key::Role;
use crate::service::Asker;
use crate::service::access::NewKey;

/// The file that tells a scratch folder from any other: only a folder that has it is wiped.
const MARKER: &str = "webhookd-dev-scratch";
const DEMO_TENANT: &str = "demo";
const PLAINTEXT_PORT: u16 = 8080;

/// Why there is no scratch folder.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    #[error("the scratch folder {path} can't be used: {source}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("{0} is there but is no scratch folder of yours; move it away, or set TMPDIR")]
    Foreign(PathBuf),
    #[error(
        "webhookd serve --dev runs already, in {0}: use that one, or stop it first (pgrep -af 'webhookd serve --dev' names it)"
    )]
    Running(PathBuf),
    #[error("the development certificate can't be made: {0}")]
    Certificate(#[from] tls::TlsError),
}

/// The scratch folder of one `--dev` run.
pub struct Scratch {
    folder: PathBuf,
    ca: PathBuf,
    plaintext: SocketAddr,
    /// Locked for as long as the process works in the folder.
    _marker: File,
}

impl Scratch {
    /// Makes the folder and bends the configuration to it.
    ///
    /// # Errors
    /// See `DevError`.
    pub fn prepare(config: &mut Config) -> Result<Self, DevError> {
        let folder = std::env::temp_dir().join("webhookd-dev");
        wipe(&folder)?;
        let failed = |source| DevError::Folder { path: folder.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let mut marker = File::create(folder.join(MARKER)).map_err(failed)?;
        marker.write_all(b"made by webhookd serve --dev; the next one wipes it\n").map_err(failed)?;
        lock(&marker, &folder)?;
        let authority = tls::dev_authority(&folder, Clock::system().wall_ms())?;
        if config.server.tls.pair().is_none() {
            config.server.tls.cert = Some(authority.cert);
            config.server.tls.key = Some(authority.key);
        }
        if config.server.plaintext_listen.is_empty() {
            config.server.plaintext_listen = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PLAINTEXT_PORT)];
        }
        config.state_dir = folder.join("state");
        config.secrets.key_file = None;
        config.admin.socket = folder.join("admin.sock");
        loosen(config);
        let plaintext = config.server.plaintext_listen[0];
        Ok(Self { folder, ca: authority.ca, plaintext, _marker: marker })
    }

    /// Makes the demo tenant and its keys, and prints what to paste.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn introduce(&self, running: &Running) -> Result<(), String> {
        let service = &running.service;
        let told = |error: crate::service::Error| error.to_string();
        let by = |action| Asker::of_actor(Actor::Daemon, action);
        let tenant = TenantId::parse(DEMO_TENANT).ok_or("the demo tenant's id does not read")?;
        service.put_tenant(&tenant, None, None, &by("tenant.put")).await.map_err(told)?;
        let publisher = NewKey { role: Role::Publisher, ..NewKey::named("demo publisher") };
        let publisher = service.create_key(publisher, &by("key.create")).await.map_err(told)?;
        let of_tenant = NewKey { tenant: Some(tenant), publish: true, ..NewKey::named("demo tenant") };
        let of_tenant = service.create_key(of_tenant, &by("key.create")).await.map_err(told)?;
        let env = format!(
            "export WEBHOOKD_URL=http://{}\nexport WEBHOOKD_TOKEN={}\nexport DEMO_PUBLISHER_TOKEN={}\n\
             export DEMO_SOCKET={}\nexport DEMO_CA={}\nexport DEMO_FOLDER={}\n",
            self.plaintext,
            of_tenant.token.expose(),
            publisher.token.expose(),
            self.folder.join("admin.sock").display(),
            self.ca.display(),
            self.folder.display(),
        );
        let file = self.folder.join("env");
        write_private(&file, &env).map_err(|error| error.to_string())?;
        tracing::warn!(
            folder = %self.folder.display(),
            "DEVELOPMENT MODE: scratch state, loopback receivers allowed, a certificate nobody trusts; not for production"
        );
        // To standard output, so that it is not mixed with the log. A closed pipe leaves nobody to tell.
        let _ = io::stdout().write_all(self.welcome(&file).as_bytes());
        Ok(())
    }

    fn welcome(&self, env: &Path) -> String {
        format!(
            "\nwebhookd is running in development mode. In another shell, paste:\n\n  \
             . {env}\n  \
             curl -s $WEBHOOKD_URL/v1/webhooks -H \"Authorization: Bearer $WEBHOOKD_TOKEN\" \\\n    \
             -d '{{\"url\":\"http://127.0.0.1:9000/\",\"events\":[\"*\"]}}'\n  \
             curl -s $WEBHOOKD_URL/v1/events -H \"Authorization: Bearer $WEBHOOKD_TOKEN\" \\\n    \
             -d '{{\"type\":\"order.updated\",\"data\":{{\"status\":\"filled\"}}}}'\n\n\
             The README's tour goes on from here. Everything is wiped at the next start of --dev.\n\n",
            env = env.display(),
        )
    }
}

/// On a reload the development settings stay as they were.
pub fn keep(old: &Config, new: &mut Config) {
    new.state_dir.clone_from(&old.state_dir);
    new.secrets.key_file.clone_from(&old.secrets.key_file);
    new.admin.socket.clone_from(&old.admin.socket);
    new.server.tls = old.server.tls.clone();
    new.server.plaintext_listen.clone_from(&old.server.plaintext_listen);
    loosen(new);
}

fn loosen(config: &mut Config) {
    config.egress.require_https = false;
    for network in ["127.0.0.0/8", "::1/128"] {
        if let Ok(network) = network.parse() {
            config.egress.allow.push(network);
        }
    }
}

/// Removes an earlier scratch folder, but nothing else and nobody else's.
fn wipe(folder: &Path) -> Result<(), DevError> {
    let failed = |source| DevError::Folder { path: folder.to_owned(), source };
    let about = match fs::symlink_metadata(folder) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let mine = about.uid() == rustix::process::getuid().as_raw();
    if !about.is_dir() || !mine || !folder.join(MARKER).is_file() {
        return Err(DevError::Foreign(folder.to_owned()));
    }
    let marker = File::open(folder.join(MARKER)).map_err(failed)?;
    lock(&marker, folder)?;
    fs::remove_dir_all(folder).map_err(failed)
}

/// Takes the folder for this process, until the file is dropped.
fn lock(marker: &File, folder: &Path) -> Result<(), DevError> {
    marker.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => DevError::Running(folder.to_owned()),
        TryLockError::Error(source) => DevError::Folder { path: folder.to_owned(), source },
    })
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
