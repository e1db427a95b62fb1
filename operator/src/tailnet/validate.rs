//! Whether a Tailnet can be used. Pure.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::ResourceExt;
use postern_crds::conditions::reasons;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    model::Problem,
    tailnet::dereference::Inputs,
    tailnet_api::{API_KEY, AUTH_KEY, CLIENT_ID, CLIENT_SECRET},
};

/// Credentials that are complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Valid {
    /// What the operator's copy holds.
    pub data: BTreeMap<String, ByteString>,
    /// What it was made of.
    pub source: String,
}

/// Validates.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(inputs: &Inputs) -> Result<Valid, Problem> {
    let spec = &inputs.tailnet.spec;
    if let Some(bundle) = &spec.ca_bundle {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect();
        if certificates.is_ok_and(|list| list.is_empty())
            || CertificateDer::pem_slice_iter(bundle.as_bytes()).any(|c| c.is_err())
        {
            return Err(Problem::invalid(
                "spec.caBundle",
                "holds no PEM certificates that can be read",
            ));
        }
    }
    let credentials = &spec.credentials;
    let mut valid = Valid {
        data: BTreeMap::new(),
        source: String::new(),
    };
    let mut take = |field: &str, secret: &str, keys: &[&str]| {
        take(
            &inputs.sources,
            &format!("spec.credentials.{field}.secretRef"),
            secret,
            keys,
            &mut valid,
        )
    };
    if let Some(oauth) = &credentials.oauth_client {
        take("oauthClient", &oauth.secret_ref.name, &[CLIENT_ID, CLIENT_SECRET])?;
    }
    if let Some(auth_key) = &credentials.auth_key {
        take("authKey", &auth_key.secret_ref.name, &[AUTH_KEY])?;
    }
    if let Some(api_key) = &credentials.headscale_api_key {
        take("headscaleAPIKey", &api_key.secret_ref.name, &[API_KEY])?;
    }
    if credentials.oauth_client.is_some() && spec.tags.is_empty() {
        let message = "an OAuth client makes keys for tagged nodes only: name the tags that it owns";
        return Err(Problem::invalid("spec.tags", message));
    }
    Ok(valid)
}

fn take(
    sources: &[Arc<Secret>],
    field: &str,
    name: &str,
    keys: &[&str],
    valid: &mut Valid,
) -> Result<(), Problem> {
    let Some(secret) = sources.iter().find(|secret| secret.name_any() == name) else {
        let message = format!("Secret {name} doesn't exist in the operator's namespace");
        return Err(Problem::new(reasons::SECRET_NOT_FOUND, field, message));
    };
    for key in keys {
        let value = secret
            .data
            .as_ref()
            .and_then(|data| data.get(*key))
            .filter(|value| !value.0.is_empty());
        let Some(value) = value else {
            let message = format!("Secret {name} lacks the key {key}");
            return Err(Problem::new(reasons::INVALID_SECRET, field, message));
        };
        valid.data.insert((*key).to_owned(), value.clone());
    }
    valid.source = format!(
        "{}{name}@{} ",
        valid.source,
        secret.resource_version().unwrap_or_default()
    );
    Ok(())
}
