//! Reads what an object needs beside the stores: Secrets of its own namespace, by name.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use postern_crds::conditions::reasons;

use crate::{
    apply::{ApplyError, call},
    context::Context,
    model::{Claim, Problem, TlsRef},
    name::keys,
};

/// A certificate that an object names, as it was found.
pub type Found = (TlsRef, Result<Secret, Problem>);

/// Gets every certificate that a claim names. The operator may read Secrets of namespaces that let it.
///
/// # Errors
/// When the API server can't be asked; a Secret that is missing or forbidden is a [`Problem`].
pub async fn certificates(context: &Context, claim: &Claim) -> Result<Vec<Found>, ApplyError> {
    let mut found = Vec::new();
    for tls in claim.spec.iter().flat_map(|spec| &spec.tls) {
        let secret = secret(context, claim, &tls.secret, &tls.field).await?;
        found.push((tls.clone(), secret));
    }
    Ok(found)
}

/// The same for keys.
///
/// # Errors
/// As [`certificates`].
pub async fn keys(context: &Context, claim: &Claim) -> Result<Vec<keys::Found>, ApplyError> {
    let mut found = Vec::new();
    for wanted in claim.spec.iter().flat_map(|spec| spec.keys()) {
        let secret = secret(context, claim, &wanted.secret, &wanted.field).await?;
        found.push((wanted.clone(), secret));
    }
    Ok(found)
}

async fn secret(
    context: &Context,
    claim: &Claim,
    name: &str,
    field: &str,
) -> Result<Result<Secret, Problem>, ApplyError> {
    let namespace = &claim.owner.namespace;
    let api = Api::<Secret>::namespaced(context.client.clone(), namespace);
    match call::<Secret, _>("get", name, api.get(name)).await {
        Ok(secret) => Ok(Ok(secret)),
        Err(error) if error.is_status(403) => Ok(Err(Problem::new(
            reasons::SECRET_NOT_READABLE,
            field,
            format!(
                "the operator may not read Secret {namespace}/{name}: \
                 add the namespace to the chart's value secretNamespaces"
            ),
        ))),
        Err(error) if error.is_status(404) => Ok(Err(Problem::new(
            reasons::SECRET_NOT_FOUND,
            field,
            format!("Secret {namespace}/{name} doesn't exist"),
        ))),
        Err(error) => Err(error),
    }
}
