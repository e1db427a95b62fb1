//! IdentityProvider: a front end whose name is served by the provider itself instead of backends.

pub mod status;
pub mod validate;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, ResourceExt, runtime::controller::Action};
use postern_crds::IdentityProvider;

use crate::{
    apply,
    context::{Context, Error},
    labels::{OWNER_UID, ROLE, ROLE_CLIENTS, ROLE_DOCUMENT, label},
    name, oidc_client,
    stores::Filter,
};

/// Brings one object a step further.
///
/// # Errors
/// When the API server can't be asked or told; faults of the object are conditions.
pub async fn reconcile(object: Arc<IdentityProvider>, context: Arc<Context>) -> Result<Action, Error> {
    let api =
        Api::<IdentityProvider>::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let uid = object.uid().unwrap_or_default();
    let is_gone = context.stores.node_secrets(&Filter::Owner(&uid)).is_empty();
    if object.metadata.deletion_timestamp.is_some() && is_gone {
        remove_documents(&context, &uid).await?;
    }
    oidc_client::apply::sweep(&context, &uid).await?;
    let claim = validate::claim(&object);
    let standing = name::Standing {
        ours: true,
        kept: false,
    };
    let view = name::reconcile(&context, &api, &*object, claim, standing).await?;
    status::tell(&context, &api, &object, &view).await?;
    Ok(name::look_again(&*object, &view))
}

/// The proxy has let the name go, and nobody writes them any more. The object's finalizer waits for it.
async fn remove_documents(context: &Context, uid: &str) -> Result<(), Error> {
    let namespace = &context.settings.namespace;
    let secrets = Api::<Secret>::namespaced(context.client.clone(), namespace);
    for role in [ROLE_DOCUMENT, ROLE_CLIENTS] {
        for secret in context.stores.secrets_of_owner(role, uid) {
            apply::delete(&secrets, &secret.name_any()).await?;
        }
    }
    let documents = context
        .stores
        .config_maps
        .state_filter(|map| label(map, ROLE) == Some(ROLE_DOCUMENT) && label(map, OWNER_UID) == Some(uid));
    let maps = Api::<ConfigMap>::namespaced(context.client.clone(), namespace);
    for map in documents {
        apply::delete(&maps, &map.name_any()).await?;
    }
    Ok(())
}
