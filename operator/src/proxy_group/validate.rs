//! What a group needs to be planned at all. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;
use postern_crds::{Tailnet, conditions::reasons};

use crate::{model::Problem, proxy_group::dereference::Inputs};

/// As the definition of the resource says.
const MOST_REPLICAS: u32 = 16;

/// A group that can be planned.
#[derive(Debug, Clone)]
pub struct Valid {
    /// The group's name.
    pub group: String,
    /// Its UID, for owner references.
    pub uid: String,
    /// Its replicas.
    pub replicas: u32,
    /// Its Tailnet.
    pub tailnet: Arc<Tailnet>,
    /// What its ProxyClass lays over our pods; while that is wrong, the pods stay as they are.
    pub template: Result<Option<PodTemplateSpec>, Problem>,
}

/// Validates.
///
/// # Errors
/// What keeps the group from being planned. Its proxies go on with what they have.
pub fn validate(inputs: &Inputs) -> Result<Valid, Problem> {
    let spec = &inputs.group.spec;
    let Some(tailnet) = inputs.tailnet.clone() else {
        let message = format!(
            "Tailnet {} doesn't exist: make it, with its credentials",
            spec.tailnet_ref.name
        );
        return Err(Problem::new(
            reasons::TAILNET_NOT_FOUND,
            "spec.tailnetRef.name",
            message,
        ));
    };
    let replicas = u32::try_from(spec.replicas)
        .ok()
        .filter(|n| (1..=MOST_REPLICAS).contains(n))
        .ok_or_else(|| Problem::invalid("spec.replicas", format!("must be between 1 and {MOST_REPLICAS}")))?;
    Ok(Valid {
        group: inputs.group.name_any(),
        uid: inputs.group.uid().unwrap_or_default(),
        replicas,
        tailnet,
        template: template(inputs),
    })
}

fn template(inputs: &Inputs) -> Result<Option<PodTemplateSpec>, Problem> {
    let Some(name) = &inputs.group.spec.proxy_class_name else {
        return Ok(None);
    };
    let Some(class) = &inputs.class else {
        let message = format!("ProxyClass {name} doesn't exist; the pods stay as they are");
        return Err(Problem::new(
            reasons::PROXY_CLASS_NOT_FOUND,
            "spec.proxyClassName",
            message,
        ));
    };
    let Some(template) = &class.spec.pod_template else {
        return Ok(None);
    };
    serde_json::from_value(template.clone())
        .map(Some)
        .map_err(|error| {
            let message = format!("spec.podTemplate of ProxyClass {name} is no PodTemplateSpec: {error}");
            Problem::invalid("spec.proxyClassName", message)
        })
}
