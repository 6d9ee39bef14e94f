//! `tenants` and `keys`: who may ask the daemon for what. Owns that a token is shown once, on standard output.

use clap::{Args, Subcommand, ValueEnum};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::Failure;
use super::client::{Target, segment};
use super::jobs;
use super::print::{self, text};
use crate::model::event::OPERATOR;

#[derive(Subcommand)]
pub(super) enum Tenants {
    /// List all tenants.
    List(List),
    /// Show one tenant.
    Get(One),
    /// Make a tenant, or change one.
    Put(Put),
    /// Delete a tenant and erase everything it has: webhooks, keys, events, what became of them. There is no way back.
    Delete(Delete),
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct One {
    /// Its id.
    id: String,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Put {
    /// Its id: 1 to 64 of a-z, 0-9, `_` and `-`.
    id: String,
    /// What it is called; "" takes the name away.
    #[arg(long)]
    name: Option<String>,
    /// The retry plan of its webhooks, a name below [plans]; "" takes it away.
    #[arg(long)]
    plan: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Delete {
    /// Its id.
    id: String,
    /// That it is meant: its id once more.
    #[arg(long, value_name = "ID")]
    confirm: String,
    /// Wait until everything is erased, and tell how it goes; exit code 1 unless it is then.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Tenants {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match self {
            Self::List(list) => {
                let all = list.target.client()?.get("/admin/tenants")?;
                let shown = all["data"].as_array().map_or(&[][..], Vec::as_slice);
                if list.json { print::json(&all["data"]) } else { tenants(shown) }
            }
            Self::Get(one) => {
                let tenant = one.target.client()?.get(&format!("/admin/tenants/{}", segment(&one.id)))?;
                if one.json { print::json(&tenant) } else { tenants(&[tenant]) }
            }
            Self::Put(put) => put.run(),
            Self::Delete(delete) => delete.run(),
        }
    }
}

impl Put {
    fn run(&self) -> Result<(), Failure> {
        let mut body = Map::new();
        for (member, given) in [("name", &self.name), ("plan", &self.plan)] {
            if let Some(given) = given {
                body.insert(member.to_owned(), if given.is_empty() { Value::Null } else { json!(given) });
            }
        }
        let path = format!("/admin/tenants/{}", segment(&self.id));
        let answer = self.target.client()?.ask(Method::PUT, &path, Value::from(body).to_string(), &[])?;
        let tenant = answer.json()?;
        if self.json { print::json(&tenant) } else { tenants(&[tenant]) }
    }
}

impl Delete {
    fn run(&self) -> Result<(), Failure> {
        if self.confirm != self.id {
            return Err(Failure::usage("--confirm must repeat the tenant's id: what is erased does not come back"));
        }
        let client = self.target.client()?;
        let answer = client.ask(Method::DELETE, &format!("/admin/tenants/{}", segment(&self.id)), "", &[])?;
        if answer.status == StatusCode::NO_CONTENT {
            return print::line(&format!("there is no tenant {}, and nothing left of one", self.id));
        }
        jobs::began(&client, answer.json()?["job"].take(), self.wait, self.json)
    }
}

fn tenants(shown: &[Value]) -> Result<(), Failure> {
    let row = |tenant: &Value| ["id", "name", "plan", "created_at"].map(|name| text(&tenant[name])).to_vec();
    // The operator is in every store and nobody's customer.
    let rows: Vec<_> = shown.iter().filter(|tenant| tenant["id"] != OPERATOR).map(row).collect();
    print::table(&["TENANT", "NAME", "PLAN", "CREATED"], &rows, "no tenants; make one with webhookd tenants put ID")
}

#[derive(Subcommand)]
pub(super) enum Keys {
    /// List all keys, without what opens them.
    List(List),
    /// Make a key and print its token, which is shown this once.
    Create(Create),
    /// Take a key back, at once.
    Revoke(Revoke),
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Admin,
    Publisher,
    Tenant,
}

#[derive(Args)]
pub(super) struct Create {
    /// Whose key: an admin's (everything), a publisher's (publishes for any tenant) or a tenant's.
    #[arg(long, value_enum)]
    role: Role,
    /// The tenant, for the role tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// What it is called in lists.
    #[arg(long)]
    name: Option<String>,
    /// Let the tenant publish for itself.
    #[arg(long)]
    publish: bool,
    /// When it ends, such as 2030-01-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// A network that it may be used from; may be given several times.
    #[arg(long, value_name = "NETWORK")]
    cidr: Vec<String>,
    #[command(flatten)]
    target: Target,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Revoke {
    /// Its id, `key_…`, as `webhookd keys list` shows it; not its token.
    id: String,
    #[command(flatten)]
    target: Target,
}

impl Keys {
    pub(super) fn run(&self) -> Result<(), Failure> {
        match self {
            Self::List(list) => {
                let all = list.target.client()?.get("/admin/keys")?;
                if list.json { print::json(&all["data"]) } else { keys(&all["data"]) }
            }
            Self::Create(create) => create.run(),
            Self::Revoke(revoke) => {
                // What is no id may be a token that was pasted in its place: it must not travel in a path, which is logged.
                if crate::model::id::KeyId::parse(&revoke.id).is_none() {
                    return Err(Failure::usage("a key's id is key_ and 16 hex digits, as webhookd keys list shows it"));
                }
                let path = format!("/admin/keys/{}", segment(&revoke.id));
                revoke.target.client()?.ask(Method::DELETE, &path, "", &[])?;
                print::line(&format!("{} is revoked", revoke.id))
            }
        }
    }
}

impl Create {
    fn run(&self) -> Result<(), Failure> {
        let role = match self.role {
            Role::Admin => "admin",
            Role::Publisher => "publisher",
            Role::Tenant => "tenant",
        };
        let mut body = Map::from_iter([("role".to_owned(), json!(role))]);
        let members = [("tenant", &self.tenant), ("name", &self.name), ("expires_at", &self.expires_at)];
        for (member, given) in members {
            body.extend(given.as_ref().map(|given| (member.to_owned(), json!(given))));
        }
        if self.publish {
            body.insert("publish".to_owned(), json!(true));
        }
        if !self.cidr.is_empty() {
            body.insert("cidrs".to_owned(), json!(self.cidr));
        }
        let answer = self.target.client()?.ask(Method::POST, "/admin/keys", Value::from(body).to_string(), &[])?;
        let key = answer.json()?;
        if self.json {
            return print::json(&key);
        }
        for (name, member) in [("id", "id"), ("token", "token"), ("secret key", "secret_key")] {
            print::line(&format!("{name:12}{}", text(&key[member])))?;
        }
        print::line("The token and the secret key are not shown again.")
    }
}

fn keys(all: &Value) -> Result<(), Failure> {
    let row = |key: &Value| {
        let ends = if key["revoked_at"].is_null() {
            text(&key["expires_at"])
        } else {
            format!("revoked {}", text(&key["revoked_at"]))
        };
        let publish = if key["publish"] == true { "yes" } else { "no" };
        let [id, role, tenant, name, cidrs] =
            ["id", "role", "tenant", "name", "cidrs"].map(|member| text(&key[member]));
        vec![id, role, tenant, name, publish.to_owned(), ends, cidrs]
    };
    let rows: Vec<_> = all.as_array().into_iter().flatten().map(row).collect();
    let headings = ["KEY", "ROLE", "TENANT", "NAME", "PUBLISHES", "ENDS", "FROM"];
    print::table(&headings, &rows, "no keys; make one with webhookd keys create --role publisher")
}
