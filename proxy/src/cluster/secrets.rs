//! Secrets by name, and an identity provider's documents: `get` and `patch`, nothing else.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use postern_node::{
    credential::Credential,
    state::{StateError, StateStore, StoreFuture},
};
use postern_proxy_config::{
    clients::Clients,
    group::{IdentityProvider, NodeConfig, SecretRef},
    keys::{KEYS_KEY, Keys},
    names,
};

use super::{REQUEST_TIMEOUT, documents::Documents};
use crate::serve::{PemPair, SecretError, Secrets};

/// All Secrets that the group may read.
#[derive(Debug, Clone)]
pub(super) struct Kubernetes {
    api: Api<Secret>,
    group: String,
    config_maps: Api<ConfigMap>,
    acme_account: String,
}

const ACME_ACCOUNT_KEY: &str = "acme-account.key.pem";

impl Kubernetes {
    pub(super) fn new(api: Api<Secret>, config_maps: Api<ConfigMap>, group: &str) -> Self {
        Self {
            api,
            group: group.to_owned(),
            config_maps,
            acme_account: names::acme_account(group),
        }
    }

    async fn values(&self, name: &str) -> Result<BTreeMap<String, ByteString>, String> {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.api.get(name)).await {
            Ok(Ok(secret)) => Ok(secret.data.unwrap_or_default()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// A key's value; Secrets of type `kubernetes.io/tls` are made with empty ones.
    async fn value(&self, name: &str, key: &str) -> Result<Option<Vec<u8>>, String> {
        let mut values = self.values(name).await?;
        Ok(values.remove(key).map(|v| v.0).filter(|v| !v.is_empty()))
    }

    /// Replaces keys; `None` removes one.
    async fn set(&self, name: &str, values: BTreeMap<&str, Option<ByteString>>) -> Result<(), String> {
        let patch = Patch::Merge(serde_json::json!({ "data": values }));
        let params = PatchParams::default();
        match tokio::time::timeout(REQUEST_TIMEOUT, self.api.patch(name, &params, &patch)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

impl Secrets for Kubernetes {
    fn store(&self, node: &NodeConfig) -> Result<Arc<dyn StateStore>, StateError> {
        Ok(Arc::new(Store {
            secrets: self.clone(),
            state: node.state.name.clone(),
            certificates: Certificates::OfName(node.certificate.as_ref().map(|c| c.name.clone())),
        }))
    }

    fn host_store(&self, node: &NodeConfig) -> Result<Arc<dyn StateStore>, StateError> {
        Ok(Arc::new(Store {
            secrets: self.clone(),
            state: node.state.name.clone(),
            certificates: Certificates::OfServices,
        }))
    }

    fn credential<'a>(
        &'a self,
        node: &'a NodeConfig,
    ) -> BoxFuture<'a, Result<Option<Credential>, SecretError>> {
        Box::pin(async move {
            let name = &node.state.name;
            let refuse = |reason| SecretError::Read {
                name: name.clone(),
                reason,
            };
            let Some(key) = self.value(name, names::AUTH_KEY).await.map_err(refuse)? else {
                return Ok(None);
            };
            let key =
                std::str::from_utf8(&key).map_err(|_| refuse(format!("{} is not text", names::AUTH_KEY)))?;
            Credential::key(key.trim())
                .map(Some)
                .map_err(|error| refuse(format!("{}: {error}", names::AUTH_KEY)))
        })
    }

    fn certificate<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<PemPair, SecretError>> {
        Box::pin(async move {
            let name = &secret.name;
            let mut values = self.values(name).await.map_err(|reason| SecretError::Read {
                name: name.clone(),
                reason,
            })?;
            let mut value = |key: &'static str| {
                values
                    .remove(key)
                    .map(|v| v.0)
                    .filter(|v| !v.is_empty())
                    .ok_or_else(|| SecretError::Missing {
                        name: name.clone(),
                        missing: key,
                    })
            };
            Ok(PemPair {
                chain: value("tls.crt")?,
                key: value("tls.key")?,
            })
        })
    }

    fn keys<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<Keys, SecretError>> {
        Box::pin(async move {
            let name = || secret.name.clone();
            let failed = |reason| SecretError::Read { name: name(), reason };
            let json = self.value(&secret.name, KEYS_KEY).await.map_err(failed)?;
            let json = json.ok_or_else(|| SecretError::Missing {
                name: name(),
                missing: KEYS_KEY,
            })?;
            Keys::parse(&json).map_err(failed)
        })
    }

    fn clients<'a>(&'a self, secret: &'a SecretRef) -> BoxFuture<'a, Result<Clients, SecretError>> {
        Box::pin(async move {
            let entries = self
                .values(&secret.name)
                .await
                .map_err(|reason| SecretError::Read {
                    name: secret.name.clone(),
                    reason,
                })?;
            Ok(Clients::read(
                entries.iter().map(|(id, json)| (id.as_str(), json.0.as_slice())),
            ))
        })
    }

    fn documents(&self, provider: &IdentityProvider) -> Option<Arc<dyn postern_idp::Store>> {
        Some(Arc::new(Documents {
            config_maps: self.config_maps.clone(),
            secrets: self.api.clone(),
            names: provider.documents.clone(),
        }))
    }
}

/// One name's part of the Secrets.
#[derive(Debug)]
struct Store {
    secrets: Kubernetes,
    state: String,
    certificates: Certificates,
}

/// Where certificates are.
#[derive(Debug)]
enum Certificates {
    /// The one of the name, if it has any.
    OfName(Option<String>),
    /// One for each Service of the group.
    OfServices,
}

impl Store {
    /// The Secret and key where a key of the store is.
    fn place<'a>(&'a self, key: &'a str) -> Result<(Cow<'a, str>, &'a str), StateError> {
        let tls = if key.ends_with(".crt") {
            "tls.crt"
        } else if key.ends_with(".key") {
            "tls.key"
        } else if key == ACME_ACCOUNT_KEY {
            return Ok((Cow::Borrowed(&self.secrets.acme_account), key));
        } else {
            return Ok((Cow::Borrowed(&self.state), key));
        };
        match &self.certificates {
            Certificates::OfName(Some(secret)) => Ok((Cow::Borrowed(secret), tls)),
            Certificates::OfName(None) => Err(StateError::Invalid {
                what: key.to_owned(),
                reason: "the name has no Secret for certificates".to_owned(),
            }),
            Certificates::OfServices => {
                let label = key.split('.').next().unwrap_or_default();
                Ok((
                    Cow::Owned(names::service_certificate(&self.secrets.group, label)),
                    tls,
                ))
            }
        }
    }
}

impl StateStore for Store {
    fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let (secret, place) = self.place(key)?;
            self.secrets
                .value(&secret, place)
                .await
                .map_err(|e| failed("read", &secret, e))
        })
    }

    fn write(&self, values: BTreeMap<String, Vec<u8>>) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let mut by_secret: BTreeMap<Cow<'_, str>, BTreeMap<&str, Option<ByteString>>> = BTreeMap::new();
            for (key, value) in &values {
                let (secret, place) = self.place(key)?;
                by_secret
                    .entry(secret)
                    .or_default()
                    .insert(place, Some(ByteString(value.clone())));
            }
            for (secret, values) in by_secret {
                self.secrets
                    .set(&secret, values)
                    .await
                    .map_err(|e| failed("write", &secret, e))?;
            }
            Ok(())
        })
    }

    fn clear(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.secrets
                .set(
                    &self.state,
                    BTreeMap::from([("state", None), (names::AUTH_KEY, None)]),
                )
                .await
                .map_err(|e| failed("clear", &self.state, e))?;
            if let Certificates::OfName(Some(secret)) = &self.certificates {
                // The type of the Secret demands both keys.
                let empty = || Some(ByteString::default());
                self.secrets
                    .set(
                        secret,
                        BTreeMap::from([("tls.crt", empty()), ("tls.key", empty())]),
                    )
                    .await
                    .map_err(|e| failed("clear", secret, e))?;
            }
            Ok(())
        })
    }
}

fn failed(action: &'static str, secret: &str, reason: String) -> StateError {
    StateError::Io {
        action,
        what: format!("secret {secret}"),
        source: reason.into(),
    }
}
