use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Overrides for the pods of a ProxyGroup.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "postern.dev",
    version = "v1alpha1",
    kind = "ProxyClass",
    derive = "PartialEq",
    category = "postern",
    doc = "Overrides for the pods of a ProxyGroup.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ProxyClassSpec {
    /// A PodTemplateSpec that is merged over ours as a strategic merge does it: containers, volumes, ports
    /// and variables by their keys (our container is `proxy`), other lists and values replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub pod_template: Option<serde_json::Value>,
}

// A PodTemplateSpec's schema is half a megabyte; what doesn't fit is said by the ProxyGroup that uses it.
fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "description": "A PodTemplateSpec that is merged over ours: containers (ours is `proxy`), volumes, ports and variables by their keys, other values replaced.",
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}
