//! The YAML of the custom resource definitions, as the chart carries it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, ResourceExt};

use crate::{IdentityProvider, OIDCClient, ProxyClass, ProxyGroup, Tailnet, TailnetIngress, TailnetService};

/// Definitions by the file name that each has.
///
/// # Errors
/// When a definition can't be written as YAML.
pub fn files(
    definitions: Vec<CustomResourceDefinition>,
) -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    definitions
        .into_iter()
        .map(|mut crd| {
            // An upgrade brings new definitions, an uninstall must not take everybody's objects along.
            crd.annotations_mut()
                .insert("helm.sh/resource-policy".into(), "keep".into());
            let file = format!("{}.yaml", crd.spec.names.plural);
            Ok((file, serde_saphyr::to_string(&crd)?))
        })
        .collect()
}

/// Definitions that the chart brings.
pub fn served() -> Vec<CustomResourceDefinition> {
    vec![
        Tailnet::crd(),
        ProxyClass::crd(),
        ProxyGroup::crd(),
        TailnetIngress::crd(),
        TailnetService::crd(),
        IdentityProvider::crd(),
        OIDCClient::crd(),
    ]
}
