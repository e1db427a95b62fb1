//! What a Tailnet needs. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;

use crate::{
    labels::{self, MANAGED_BY, POSTERN, ROLE, ROLE_CREDENTIALS, SOURCE},
    tailnet::{dereference::Inputs, validate::Valid},
};

/// What has to be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Set (true) or take away (false) the finalizer.
    pub finalizer: Option<bool>,
    /// The copy of the credentials to apply.
    pub copy: Option<Secret>,
    /// A copy to delete.
    pub prune: Option<String>,
}

/// Plans. While the credentials are wrong, the copy stays as it was: devices may still have to go by it.
pub fn plan(namespace: &str, inputs: &Inputs, valid: Option<&Valid>) -> Plan {
    let name = inputs.tailnet.name_any();
    if inputs.tailnet.metadata.deletion_timestamp.is_some() && inputs.groups.is_empty() {
        return Plan {
            finalizer: Some(false),
            copy: None,
            prune: inputs.has_copy.then(|| labels::credentials(&name)),
        };
    }
    Plan {
        finalizer: Some(true).filter(|_| inputs.tailnet.metadata.deletion_timestamp.is_none()),
        copy: valid.map(|valid| Secret {
            metadata: ObjectMeta {
                name: Some(labels::credentials(&name)),
                namespace: Some(namespace.to_owned()),
                labels: Some(BTreeMap::from([
                    (MANAGED_BY.into(), POSTERN.into()),
                    (ROLE.into(), ROLE_CREDENTIALS.into()),
                ])),
                annotations: Some(BTreeMap::from([(SOURCE.into(), valid.source.trim().to_owned())])),
                ..ObjectMeta::default()
            },
            data: Some(valid.data.clone()),
            ..Secret::default()
        }),
        prune: None,
    }
}
