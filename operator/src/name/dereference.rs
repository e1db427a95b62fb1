//! Reads what an object needs beside the stores: Secrets of its own namespace, by name.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use postern_crds::conditions::reasons;

use crate::{
    apply::{ApplyError, call},
    context::Context,
    model::{Claim, Problem, TlsRef},
};

/// A certificate that an object names, as it was found.
pub type Found = (TlsRef, Result<Secret, Problem>);

/// Gets every Secret that a claim names. The operator may read those of namespaces that let it.
///
/// # Errors
/// When the API server can't be asked; a Secret that is missing or forbidden is a [`Problem`].
pub async fn certificates(context: &Context, claim: &Claim) -> Result<Vec<Found>, ApplyError> {
    let Ok(spec) = &claim.spec else {
        return Ok(Vec::new());
    };
    let namespace = &claim.owner.namespace;
    let api = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let mut found = Vec::new();
    for tls in &spec.tls {
        let name = &tls.secret;
        let result = match call::<Secret, _>("get", name, api.get(name)).await {
            Ok(secret) => Ok(secret),
            Err(error) if error.is_status(403) => Err(Problem::new(
                reasons::SECRET_NOT_READABLE,
                tls.field.clone(),
                format!(
                    "the operator may not read Secret {namespace}/{name}: \
                     add the namespace to the chart's value secretNamespaces"
                ),
            )),
            Err(error) if error.is_status(404) => Err(Problem::new(
                reasons::SECRET_NOT_FOUND,
                tls.field.clone(),
                format!("Secret {namespace}/{name} doesn't exist"),
            )),
            Err(error) => return Err(error),
        };
        found.push((tls.clone(), result));
    }
    Ok(found)
}
