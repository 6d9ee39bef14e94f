//! The configuration room, the only one that names figment: built-in defaults, then the file, then `WEBHOOKD_…` variables.
//!
//! Invariant: `load` returns either a configuration that passed every rule, or all that is wrong with it at once, each with
//! its place. Leaves looking at certificates and key files to `check_serve`, and applying a changed configuration to the
//! daemon. Nothing in here is secret.

mod catalogue;
mod plan;
mod problem;
mod reload;
mod rules;
mod schema;
mod serve;
mod settings;
mod show;
mod source;
mod text;
mod value;
mod walk;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider};

pub use catalogue::SHIPPED;
pub use plan::{JITTER_DEFAULT, Plan, PlanChoice, RETRIES_MAX, STANDARD, VIBE};
pub use problem::{Origin, Place, Problem, Problems};
pub use reload::reload_scope;
pub use serve::{certificate_expiry, check_serve};
pub use settings::{
    AddressHeader, Admin, Catalogue, Circuit, Config, Dialects, Egress, EventType, Lemon, Limits, Log, LogFormat,
    Metrics, Omnia, OneMetric, Retention, Retry, Secrets, Server, Store, Tls,
};
pub use show::Entry;
pub use value::check_log_level;

/// A configuration and where it comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// The file that was read; `None`: there is none, the defaults and variables stand alone.
    pub file: Option<PathBuf>,
    /// Where each key that is not at its default was written; a section or plan is listed beside its keys.
    pub origins: BTreeMap<String, Place>,
    /// Credentials were promised and can't be seen by this process: systemd 252 hides them from the commands of a reload.
    pub credentials_hidden: bool,
}

impl Loaded {
    /// Where the effective value of `key` (dotted) was written. A plan or section of which only parts were written is where
    /// the first of them stands.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        let place = self.origins.get(key).or_else(|| first_below(&self.origins, key));
        place.cloned().map_or(Origin::Default, Origin::Set)
    }

    /// [`check_serve`], with the places of the keys that its problems are about.
    #[must_use]
    pub fn check_serve(&self, now_ms: crate::clock::Millis) -> Vec<Problem> {
        let problems = check_serve(&self.config, now_ms).into_iter();
        problems.map(|problem| Problem { place: self.origins.get(&problem.path).cloned(), ..problem }).collect()
    }

    /// [`Loaded::check_serve`] for a process that serves nothing itself: a missing certificate is none of its business where
    /// credentials are hidden from it.
    #[must_use]
    pub fn check(&self, now_ms: crate::clock::Millis) -> Vec<Problem> {
        let mut problems = self.check_serve(now_ms);
        if self.credentials_hidden && self.config.server.tls.pair().is_none() {
            problems.retain(|problem| problem.path != "server.listen");
        }
        problems
    }
}

/// The process's variables; ones that are not Unicode come with replacement characters, so that ours among them are told of.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, text)| (name.to_string_lossy().into_owned(), text.to_string_lossy().into_owned()))
}

/// Loads the configuration: `path` (from `--config`), else `$WEBHOOKD_CONFIG`, else `./webhookd.toml`, else
/// `/etc/webhookd/webhookd.toml`, else none; then the variables over it.
///
/// # Errors
/// Everything that is wrong, at once: syntax, unknown keys and variables, types, bounds, and rules between keys.
pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, Problems> {
    load_from(path, env, &source::USUAL_FILES)
}

/// As [`load`], of a file's text that is at hand; `path` is what it is called in what is told.
///
/// # Errors
/// As [`load`].
pub fn load_text(path: &Path, text: &str, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, Problems> {
    let (config, origins) = merge(source::parse_file(path, text), source::read_variables(env))?;
    Ok(Loaded { config, file: Some(path.to_owned()), origins, credentials_hidden: false })
}

/// Where the administration socket is, by a configuration that may be broken elsewhere: a daemon that runs with an older,
/// good one can still be asked then.
#[must_use]
pub fn admin_socket(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> PathBuf {
    let variables: Vec<(String, String)> = env.collect();
    let file = file_of(path, &variables, &source::USUAL_FILES);
    let file_layer = file.as_deref().map(source::read_file).unwrap_or_default();
    let data = Figment::from(&file_layer).merge(source::read_variables(variables.iter().cloned())).data();
    let values = data.ok().and_then(|mut profiles| profiles.remove(&Profile::Default)).map(Value::from);
    let named = values.and_then(|values| values.find_ref("admin.socket")?.as_str().map(PathBuf::from));
    named.unwrap_or_else(|| Config::default().admin.socket)
}

/// What systemd hands over takes the place of what the configuration does not name: the sealing key, and the certificate with
/// its key, in the folder that `CREDENTIALS_DIRECTORY` names (systemd.exec(5), `LoadCredential=`).
fn take_credentials(loaded: &mut Loaded, variables: &[(String, String)]) {
    let folder = variables.iter().find(|(name, text)| name == source::CREDENTIALS_VARIABLE && !text.is_empty());
    let Some((_, folder)) = folder else { return };
    loaded.credentials_hidden = std::fs::read_dir(folder).is_err();
    let file = |name: &str| Some(Path::new(folder).join(name)).filter(|file| file.exists());
    let mut taken = Vec::new();
    if loaded.config.secrets.key_file.is_none() {
        loaded.config.secrets.key_file = file(settings::KEY_FILE);
        taken.extend(loaded.config.secrets.key_file.as_ref().map(|_| "secrets.key_file"));
    }
    let tls = &mut loaded.config.server.tls;
    if let (None, None, Some(pair)) = (&tls.cert, &tls.key, file(settings::CERT).zip(file(settings::CERT_KEY))) {
        (tls.cert, tls.key) = (Some(pair.0), Some(pair.1));
        taken.extend(["server.tls.cert", "server.tls.key"]);
    }
    let place = Place::Variable(source::CREDENTIALS_VARIABLE.to_owned());
    loaded.origins.extend(taken.into_iter().map(|key| (key.to_owned(), place.clone())));
}

/// The file that is read.
fn file_of(path: Option<&Path>, variables: &[(String, String)], usual: &[&str]) -> Option<PathBuf> {
    let named = variables.iter().find(|(name, text)| name == source::FILE_VARIABLE && !text.is_empty());
    let file = path.map(Path::to_owned).or_else(|| named.map(|(_, text)| PathBuf::from(text)));
    file.or_else(|| source::find(usual))
}

fn load_from(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    usual: &[&str],
) -> Result<Loaded, Problems> {
    let variables: Vec<(String, String)> = env.collect();
    let file = file_of(path, &variables, usual);
    let file_layer = file.as_deref().map(source::read_file).unwrap_or_default();
    let (config, origins) = merge(file_layer, source::read_variables(variables.iter().cloned()))?;
    let mut loaded = Loaded { config, file, origins, credentials_hidden: false };
    take_credentials(&mut loaded, &variables);
    Ok(loaded)
}

/// Lays the variables over the file and both over the defaults, and applies the rules between keys.
fn merge(file: walk::Layer, variables: walk::Layer) -> Result<(Config, BTreeMap<String, Place>), Problems> {
    let data = Figment::from(&file).merge(&variables).data();
    let is_broken = file.is_broken || variables.is_broken;
    let mut origins = file.places;
    origins.extend(variables.places);
    let mut problems = file.problems;
    problems.extend(variables.problems);
    let mut data = match data {
        Ok(mut profiles) => profiles.remove(&Profile::Default).unwrap_or_default(),
        Err(error) => {
            problems.push(Problem::new("", error.to_string()));
            Dict::new()
        }
    };
    let mut rules = rules::Rules { origins: &origins, problems, is_broken };
    rules.settle(&mut data);
    let config = Value::from(data).deserialize::<Config>();
    match &config {
        Ok(config) => rules.check(config),
        Err(error) => rules.problems.push(Problem::new(error.path.join("."), error.kind.to_string())),
    }
    Problems(rules.problems).into_result()?;
    config.map(|config| (config, origins)).map_err(|_| Problems::default())
}

/// The first place below a section or plan.
fn first_below<'p>(places: &'p BTreeMap<String, Place>, key: &str) -> Option<&'p Place> {
    let below = format!("{key}.");
    places.range(below.clone()..).next().filter(|(path, _)| path.starts_with(&below)).map(|(_, place)| place)
}
