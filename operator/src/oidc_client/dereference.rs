//! Reads what decides about a client: stores, and the Secret beside the app by its name.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};
use postern_crds::{IdentityProvider, OIDCClient};
use postern_proxy_config::{clients::Client, names, report::NameReport};

use crate::{
    apply::{ApplyError, call},
    context::Context,
    identity_provider,
    labels::{ROLE, ROLE_CLIENTS, label},
    report,
    stores::Stores,
};

/// All that decides about a client.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The IdentityProvider that it names.
    pub provider: Option<Arc<IdentityProvider>>,
    /// Labels of its namespace.
    pub namespace: BTreeMap<String, String>,
    /// The Secret beside the app.
    pub found: Found,
    /// Where the provider's clients stand; absent: not made yet.
    pub place: Option<Place>,
    /// Other Secrets with an entry of this object.
    pub elsewhere: Vec<String>,
    /// What the proxies say about the provider.
    pub report: Option<NameReport>,
    /// Why a proxy refused the provider's newest configuration.
    pub refused: Option<String>,
}

/// The Secret with a provider's clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub secret: String,
    /// The object's entry.
    pub entry: Option<Client>,
    /// Bytes that those of others take.
    pub others: usize,
}

/// What is there under the name of the Secret beside the app.
#[derive(Clone)]
pub enum Found {
    /// Nothing.
    Absent,
    /// A Secret.
    There(Box<Secret>),
    /// The operator may not look.
    Forbidden,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::There(_) => "There",
            Self::Forbidden => "Forbidden",
        })
    }
}

/// Reads.
///
/// # Errors
/// When the API server can't be asked.
pub async fn dereference(context: &Context, object: &OIDCClient) -> Result<Inputs, ApplyError> {
    let found = found(context, object).await?;
    Ok(of_stores(&context.stores, object, found))
}

/// The Secret's name.
pub fn secret_name(object: &OIDCClient) -> String {
    (object.spec.secret_name.clone()).unwrap_or_else(|| format!("{}-oidc", object.name_any()))
}

/// Namespace and name of the IdentityProvider.
pub fn provider_of(object: &OIDCClient) -> (String, String) {
    let wanted = &object.spec.identity_provider_ref;
    let namespace = (wanted.namespace.clone()).or_else(|| object.namespace());
    (namespace.unwrap_or_default(), wanted.name.clone())
}

async fn found(context: &Context, object: &OIDCClient) -> Result<Found, ApplyError> {
    let namespace = object.namespace().unwrap_or_default();
    let api = Api::<Secret>::namespaced(context.client.clone(), &namespace);
    let name = secret_name(object);
    match call::<Secret, _>("get", &name, api.get_opt(&name)).await {
        Ok(Some(secret)) => Ok(Found::There(Box::new(secret))),
        Ok(None) => Ok(Found::Absent),
        Err(error) if error.is_status(403) => Ok(Found::Forbidden),
        Err(error) => Err(error),
    }
}

/// What the stores say, beside the Secret that was found.
pub fn of_stores(stores: &Stores, object: &OIDCClient, found: Found) -> Inputs {
    let uid = object.uid().unwrap_or_default();
    let own_namespace = object.namespace().unwrap_or_default();
    let (namespace, name) = provider_of(object);
    let provider = stores
        .identity_providers
        .get(&ObjectRef::new(&name).within(&namespace));
    let mut inputs = Inputs {
        provider: provider.clone(),
        namespace: stores.namespace_labels(&own_namespace),
        found,
        place: None,
        elsewhere: Vec::new(),
        report: None,
        refused: None,
    };
    // The API server sets it on every namespace; a namespace that we haven't seen yet has it too.
    (inputs.namespace).insert("kubernetes.io/metadata.name".into(), own_namespace);
    let mut wanted = None;
    if let Some(provider) = &provider {
        let group = identity_provider::validate::group(provider);
        let hostname = identity_provider::validate::hostname_text(provider);
        let reports = report::reports(stores, &group);
        inputs.report = report::of_name(&reports, &hostname, &provider.uid().unwrap_or_default());
        inputs.refused = report::refused(&reports);
        wanted = Some(names::declared_clients(&names::documents(&group, &hostname)));
    }
    for secret in (stores.secrets).state_filter(|secret| label(secret, ROLE) == Some(ROLE_CLIENTS)) {
        let data = secret.data.iter().flatten();
        let entry = secret.data.as_ref().and_then(|data| data.get(&uid));
        if Some(secret.name_any()) == wanted {
            inputs.place = Some(Place {
                secret: secret.name_any(),
                entry: entry.and_then(|json| Client::parse(&json.0).ok()),
                others: (data.filter(|(id, _)| **id != uid))
                    .map(|(id, json)| id.len() + json.0.len())
                    .sum(),
            });
        } else if entry.is_some() {
            inputs.elsewhere.push(secret.name_any());
        }
    }
    inputs.elsewhere.sort();
    inputs
}
