//! An identity provider's documents: ConfigMaps, and a Secret for the one that is secret. Replicas change them by
//! compare-and-swap on the object's version, which the API server judges.

use std::{collections::BTreeMap, fmt::Debug};

use futures::future::{BoxFuture, FutureExt as _};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use postern_idp::{Document, Key, Store, StoreError, Swap, Version};
use postern_proxy_config::names::{self, DOCUMENT_KEY};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::REQUEST_TIMEOUT;

/// See the module. The operator has made every object; one that is still empty is no document yet.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    pub(super) config_maps: Api<ConfigMap>,
    pub(super) secrets: Api<Secret>,
    /// What their names begin with.
    pub(super) names: String,
}

/// An object as it was read.
struct Object {
    version: Version,
    bytes: Option<Zeroizing<Vec<u8>>>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Store for Documents {
    fn read(&self, key: Key) -> BoxFuture<'_, Result<Option<Document>, StoreError>> {
        async move {
            let Object { version, bytes } = self.get(key).await.map_err(failed("read", key))?;
            Ok(bytes.map(|bytes| Document { bytes, version }))
        }
        .boxed()
    }

    fn swap<'a>(
        &'a self,
        key: Key,
        read: Option<&'a Version>,
        bytes: Zeroizing<Vec<u8>>,
    ) -> BoxFuture<'a, Result<Swap, StoreError>> {
        async move {
            let version = match read {
                Some(version) => version.clone(),
                // What was not there is there now if it was written between: then another was first.
                None => match self.get(key).await.map_err(failed("read", key))? {
                    Object { bytes: Some(_), .. } => return Ok(Swap::Conflict),
                    Object { version, .. } => version,
                },
            };
            self.replace(key, &version, &bytes)
                .await
                .map_err(failed("write", key))
        }
        .boxed()
    }
}

impl Documents {
    async fn get(&self, key: Key) -> Result<Object, Failure> {
        let name = names::document(&self.names, &key.to_string());
        if key.is_secret() {
            let secret = in_time(self.secrets.get(&name)).await??;
            let version = Version(secret.resource_version().unwrap_or_default());
            let value = secret.data.unwrap_or_default().remove(DOCUMENT_KEY);
            let bytes = value.map(|ByteString(bytes)| Zeroizing::new(bytes));
            return Ok(Object { version, bytes });
        }
        let map = in_time(self.config_maps.get(&name)).await??;
        let version = Version(map.resource_version().unwrap_or_default());
        let value = map.data.unwrap_or_default().remove(DOCUMENT_KEY);
        let bytes = value.map(|text| Zeroizing::new(text.into_bytes()));
        Ok(Object { version, bytes })
    }

    async fn replace(&self, key: Key, version: &Version, bytes: &[u8]) -> Result<Swap, Failure> {
        let name = names::document(&self.names, &key.to_string());
        if key.is_secret() {
            let data = BTreeMap::from([(DOCUMENT_KEY, ByteString(bytes.to_vec()))]);
            return patch(&self.secrets, &name, version, json!(data)).await;
        }
        let data = BTreeMap::from([(DOCUMENT_KEY, std::str::from_utf8(bytes)?)]);
        patch(&self.config_maps, &name, version, json!(data)).await
    }
}

/// Only if the object is still of that version.
async fn patch<K>(api: &Api<K>, name: &str, version: &Version, data: Value) -> Result<Swap, Failure>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug,
{
    let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": version.0 }, "data": data }));
    match in_time(api.patch(name, &PatchParams::default(), &patch)).await? {
        Ok(object) => {
            let version = object.meta().resource_version.clone().unwrap_or_default();
            Ok(Swap::Done(Version(version)))
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Swap::Conflict),
        Err(error) => Err(error.into()),
    }
}

async fn in_time<T>(request: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(REQUEST_TIMEOUT, request)
        .await
        .map_err(|_| "no answer in time".into())
}

fn failed(action: &'static str, key: Key) -> impl FnOnce(Failure) -> StoreError {
    move |source| StoreError::Io {
        action,
        document: key.to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use postern_idp::Shard;

    use super::*;

    #[test]
    fn the_operator_makes_a_place_for_every_document() {
        let open =
            Shard::all().flat_map(|shard| [Key::Clients(shard), Key::Consents(shard), Key::Sessions(shard)]);
        let open: BTreeSet<String> = open.map(|key| key.to_string()).collect();
        assert_eq!(open, names::open_documents().collect());
        assert_eq!(Key::Keys.to_string(), names::SECRET_DOCUMENT);
    }
}
