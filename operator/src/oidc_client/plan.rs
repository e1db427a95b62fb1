//! What has to be written for one client. Pure: the golden files are beside the tests.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use postern_crds::{IdentityProvider, OIDCClient, conditions::reasons};
use postern_proxy_config::clients::{self, Client};
use serde::Serialize;

use crate::{
    model::Problem,
    oidc_client::{
        dereference::{Found, Inputs, Place, secret_name},
        secret::ClientSecret,
    },
};

/// How long a secret is good after another one has taken its place: pods read theirs when they start.
const GRACE: SignedDuration = SignedDuration::from_hours(1);
/// So many bytes of clients fit into a Secret of 1 MiB, with room for what the API server adds.
const ROOM: usize = 900_000;

/// What has to be done.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// What has to be written beside the app.
    pub secret: Option<AppSecret>,
    /// What the provider has to know, and where it is told.
    pub entry: Option<Entry>,
    /// Secrets from which the object's entry has to go.
    pub remove: Vec<String>,
    /// Why there is no Secret beside the app.
    #[serde(skip)]
    pub problem: Option<Problem>,
    /// What has to happen before anything can be written.
    pub waits: Option<&'static str>,
}

/// The Secret beside the app.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AppSecret {
    /// Its name.
    pub name: String,
    /// Which one is changed, by UID and resourceVersion; absent: it is made.
    pub change: Option<(String, String)>,
    /// Entries; without a value they are taken away.
    pub values: BTreeMap<&'static str, Option<String>>,
    /// The value of [`CLIENT_SECRET`]; a public client has none.
    #[serde(serialize_with = "redacted")]
    pub client_secret: Option<ClientSecret>,
}

/// The key of the client's secret.
pub const CLIENT_SECRET: &str = "CLIENT_SECRET";

/// The object's entry among a provider's clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The Secret.
    pub place: String,
    /// The client.
    pub client: Client,
    /// It isn't there yet.
    pub write: bool,
}

/// Plans. `fresh` is taken where the client has no secret yet.
pub fn plan(
    object: &OIDCClient,
    valid: &Result<Client, Problem>,
    inputs: &Inputs,
    fresh: &ClientSecret,
    now: Timestamp,
) -> Plan {
    let client = match valid {
        Ok(client) => client,
        // After a broken change the client goes on as it was; one that isn't let in any more is out.
        Err(problem) if problem.reason == reasons::INVALID => return Plan::default(),
        Err(_) => {
            let place = inputs.place.iter().filter(|place| place.entry.is_some());
            return Plan {
                remove: place
                    .map(|place| place.secret.clone())
                    .chain(inputs.elsewhere.clone())
                    .collect(),
                ..Plan::default()
            };
        }
    };
    let mut plan = Plan {
        remove: inputs.elsewhere.clone(),
        ..Plan::default()
    };
    let issuer = (inputs.provider.as_ref()).and_then(|provider| Some((provider, issuer(provider)?)));
    let (Some((provider, issuer)), Some(place)) = (issuer, &inputs.place) else {
        plan.waits = Some("the IdentityProvider isn't on the tailnet yet, so its issuer isn't known");
        return plan;
    };
    let uid = object.uid().unwrap_or_default();
    let before = place.entry.as_ref().map_or(&[][..], |entry| &entry.secrets);
    let secrets = match current(&uid, inputs, client.public, fresh) {
        Ok((secret, there)) => {
            let secrets = (secret.iter())
                .flat_map(|secret| good(secret.hash(), before, now))
                .collect();
            let values = values(&uid, issuer, back_channel(provider));
            plan.secret = changed(secret_name(object), values, secret, there);
            secrets
        }
        Err(problem) => {
            plan.problem = Some(problem);
            before.to_vec()
        }
    };
    // Without a secret that anybody knows it could not be used.
    if client.public || !secrets.is_empty() {
        let client = Client {
            secrets,
            ..client.clone()
        };
        plan.entry = entry(&uid, place, client, &mut plan.problem);
    }
    plan
}

/// The issuer, once the coordination server has given the name.
pub fn issuer(provider: &IdentityProvider) -> Option<&str> {
    provider.status.as_ref()?.issuer.as_deref()
}

fn back_channel(provider: &IdentityProvider) -> Option<String> {
    provider.status.as_ref()?.back_channel.clone()
}

/// The secret that the client shall have, and the Secret where it stands or stood.
fn current<'a>(
    uid: &str,
    inputs: &'a Inputs,
    public: bool,
    fresh: &ClientSecret,
) -> Result<(Option<ClientSecret>, Option<&'a Secret>), Problem> {
    let there = match &inputs.found {
        Found::Forbidden => return Err(not_writable()),
        Found::Absent => None,
        Found::There(secret) => Some(&**secret),
    };
    if let Some(secret) = there
        && !secret.owner_references().iter().any(|owner| owner.uid == uid)
    {
        let message = format!(
            "Secret {} was made by somebody else and stays as it is: delete it, or choose another name",
            secret.name_any()
        );
        return Err(Problem::new(
            reasons::SECRET_NOT_OWNED,
            "spec.secretName",
            message,
        ));
    }
    let known = there
        .and_then(|secret| secret.data.as_ref()?.get(CLIENT_SECRET))
        .and_then(|value| ClientSecret::parse(&value.0));
    let secret = (!public).then(|| known.unwrap_or_else(|| fresh.clone()));
    Ok((secret, there))
}

/// The operator may not write beside the app.
pub fn not_writable() -> Problem {
    Problem::new(
        reasons::SECRET_NOT_WRITABLE,
        "spec.secretName",
        "the operator may not write Secrets here: add the namespace to the chart's value oidcClientNamespaces, \
         or bind the chart's ClusterRole for it",
    )
}

/// What is good from now on: the newest, and for a while the one before it.
fn good(
    newest: clients::ClientSecret,
    before: &[clients::ClientSecret],
    now: Timestamp,
) -> Vec<clients::ClientSecret> {
    let ends = now.checked_add(GRACE).unwrap_or(now);
    let ends = Timestamp::from_second(ends.as_second()).unwrap_or(ends);
    let old = (before.iter())
        .filter(|old| old.sha256 != newest.sha256)
        .map(|old| clients::ClientSecret {
            sha256: old.sha256.clone(),
            expires: Some(old.expires.map_or(ends, |end| end.min(ends))),
        })
        .find(|old| old.expires.is_some_and(|end| end > now));
    std::iter::once(newest).chain(old).collect()
}

/// What an app wants to know, under the names that it is told in the documentation.
fn values(uid: &str, issuer: &str, back_channel: Option<String>) -> BTreeMap<&'static str, Option<String>> {
    let at = |path: &str| Some(format!("{issuer}{path}"));
    BTreeMap::from([
        ("ISSUER", Some(issuer.to_owned())),
        ("CLIENT_ID", Some(uid.to_owned())),
        ("AUTH_URL", at("/authorize")),
        ("TOKEN_URL", at("/token")),
        ("USERINFO_URL", at("/userinfo")),
        ("JWKS_URL", at("/.well-known/jwks.json")),
        ("DISCOVERY_URL", at("/.well-known/openid-configuration")),
        ("BACK_CHANNEL", back_channel),
    ])
}

/// The Secret, unless it is there as it should be.
fn changed(
    name: String,
    values: BTreeMap<&'static str, Option<String>>,
    client_secret: Option<ClientSecret>,
    there: Option<&Secret>,
) -> Option<AppSecret> {
    let secret = AppSecret {
        name,
        change: there.map(|secret| {
            let version = secret.resource_version().unwrap_or_default();
            (secret.uid().unwrap_or_default(), version)
        }),
        values,
        client_secret,
    };
    let same = there.is_some_and(|there| {
        let data = there.data.as_ref();
        let has = |key: &str| {
            data.and_then(|data| data.get(key))
                .map(|value| value.0.as_slice())
        };
        secret
            .entries()
            .all(|(key, value)| has(key) == value.map(str::as_bytes))
    });
    (!same).then_some(secret)
}

impl AppSecret {
    /// Every key with its value, the client's secret included.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        let secret = self.client_secret.as_ref().map(ClientSecret::expose);
        (self.values.iter())
            .map(|(key, value)| (*key, value.as_deref()))
            .chain([(CLIENT_SECRET, secret)])
    }
}

fn entry(uid: &str, place: &Place, client: Client, problem: &mut Option<Problem>) -> Option<Entry> {
    let write = place.entry.as_ref() != Some(&client);
    if write && place.others + uid.len() + client.json().len() > ROOM {
        let message = "the IdentityProvider has no room for more clients: delete some, or use another one";
        problem
            .get_or_insert_with(|| Problem::new(reasons::NOT_ALLOWED, "spec.identityProviderRef", message));
        return None;
    }
    Some(Entry {
        place: place.secret.clone(),
        client,
        write,
    })
}

fn redacted<S: serde::Serializer>(secret: &Option<ClientSecret>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| "[redacted]").serialize(serializer)
}

#[cfg(test)]
mod tests;
