//! The one place that writes to the API server. Every call has a deadline: kube's client would retry for
//! minutes and has no read timeout.

use std::{
    collections::HashMap,
    fmt::Debug,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// The owner of the fields that we apply. Never renamed: fields of an old name would stay behind.
const FIELD_MANAGER: &str = "postern/operator";
/// The owner of statuses.
const STATUS_MANAGER: &str = "postern/operator-status";

/// For one call.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// What others change behind our back is put right after this time at the latest.
const REPAIR_AFTER: SignedDuration = SignedDuration::from_mins(4);

/// A write that failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused it or couldn't be reached.
    #[error("{verb} {kind} {name}")]
    Refused {
        /// What was done.
        verb: &'static str,
        /// To what.
        kind: String,
        /// To which.
        name: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer.
    #[error("{verb} {kind} {name}: no answer within {}", .after.as_secs())]
    TimedOut {
        /// What was done.
        verb: &'static str,
        /// To what.
        kind: String,
        /// To which.
        name: String,
        /// For how long.
        after: Duration,
    },
}

/// What every kind here is.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}
impl<K> Kind for K where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

/// Applies an object's fields as ours, unless `current` has them already.
///
/// # Errors
/// [`ApplyError`].
pub async fn apply<K>(client: &Client, object: &K, current: Option<&K>) -> Result<(), ApplyError>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    apply_to(&namespaced(client, object), object, current).await
}

/// [`apply`] for any scope.
///
/// # Errors
/// [`ApplyError`].
pub async fn apply_to<K: Kind>(api: &Api<K>, object: &K, current: Option<&K>) -> Result<(), ApplyError> {
    let mut wanted = serde_json::to_value(object).unwrap_or_default();
    if let Some(current) = current
        && serde_json::to_value(current).is_ok_and(|current| holds(&wanted, &current))
    {
        return Ok(());
    }
    wanted["apiVersion"] = json!(K::api_version(&()));
    wanted["kind"] = json!(K::kind(&()));
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let name = object.name_any();
    call::<K, _>("apply", &name, api.patch(&name, &params, &Patch::Apply(&wanted)))
        .await
        .map(drop)
}

/// Remembers what was applied of kinds that aren't watched, so that a plan which didn't change costs no call.
#[derive(Default)]
pub struct Applied(Mutex<HashMap<String, (u64, Timestamp)>>);

impl Applied {
    /// Applies an object unless the same was applied not long ago.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn apply<K>(&self, client: &Client, object: &K, now: Timestamp) -> Result<(), ApplyError>
    where
        K: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        let key = format!("{}/{}", K::kind(&()), object.name_any());
        let hash = BuildHasherDefault::<DefaultHasher>::new()
            .hash_one(serde_json::to_string(object).unwrap_or_default());
        let fresh = (self.0.lock().get(&key))
            .is_some_and(|(last, at)| *last == hash && now.duration_since(*at) < REPAIR_AFTER);
        if fresh {
            return Ok(());
        }
        apply(client, object, None).await?;
        self.0.lock().insert(key, (hash, now));
        Ok(())
    }
}

/// Makes an object unless there is one of its name.
///
/// # Errors
/// [`ApplyError`].
pub async fn create<K: Kind>(api: &Api<K>, object: &K) -> Result<(), ApplyError> {
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    };
    match call::<K, _>("create", &object.name_any(), api.create(&params, object)).await {
        Err(error) if error.is_status(409) => Ok(()),
        result => result.map(drop),
    }
}

/// Deletes an object; one that is gone already is a success.
///
/// # Errors
/// [`ApplyError`].
pub async fn delete<K: Kind>(api: &Api<K>, name: &str) -> Result<(), ApplyError> {
    match call::<K, _>("delete", name, api.delete(name, &DeleteParams::background())).await {
        Err(error) if error.is_status(404) => Ok(()),
        result => result.map(drop),
    }
}

/// Merges fields into an object; one that is gone already is a success.
///
/// # Errors
/// [`ApplyError`].
pub async fn merge<K: Kind>(api: &Api<K>, name: &str, patch: Value) -> Result<(), ApplyError> {
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    match call::<K, _>("patch", name, api.patch(name, &params, &Patch::Merge(&patch))).await {
        Err(error) if error.is_status(404) => Ok(()),
        result => result.map(drop),
    }
}

/// Writes the whole status; an object that is gone already is a success.
///
/// # Errors
/// [`ApplyError`].
pub async fn status<K: Kind>(api: &Api<K>, name: &str, status: &impl Serialize) -> Result<(), ApplyError> {
    let patch = json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "status": status});
    let params = PatchParams::apply(STATUS_MANAGER).force();
    match call::<K, _>(
        "write status of",
        name,
        api.patch_status(name, &params, &Patch::Apply(&patch)),
    )
    .await
    {
        Err(error) if error.is_status(404) => Ok(()),
        result => result.map(drop),
    }
}

/// Sets or takes away a finalizer. The resourceVersion makes sure that no other's finalizer is lost.
///
/// # Errors
/// [`ApplyError`].
pub async fn finalizer<K: Kind>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
    set: bool,
) -> Result<(), ApplyError> {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|f| f != finalizer);
    if set {
        finalizers.push(finalizer.to_owned());
    }
    if finalizers == object.finalizers() {
        return Ok(());
    }
    let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": finalizers}});
    merge(api, &object.name_any(), patch).await
}

/// Runs one call with its deadline.
///
/// # Errors
/// [`ApplyError`].
pub async fn call<K, T>(
    verb: &'static str,
    name: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApplyError>
where
    K: Resource<DynamicType = ()>,
{
    let (kind, name) = (K::kind(&()).into_owned(), name.to_owned());
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(ApplyError::Refused {
            verb,
            kind,
            name,
            source: Box::new(source),
        }),
        Err(_) => Err(ApplyError::TimedOut {
            verb,
            kind,
            name,
            after: TIMEOUT,
        }),
    }
}

impl ApplyError {
    /// Whether the API server answered with this HTTP status.
    pub fn is_status(&self, code: u16) -> bool {
        match self {
            Self::Refused { source, .. } => match &**source {
                kube::Error::Api(response) => response.code == code,
                _ => false,
            },
            Self::TimedOut { .. } => false,
        }
    }
}

fn namespaced<K>(client: &Client, object: &K) -> Api<K>
where
    K: Kind + Resource<Scope = NamespaceResourceScope>,
{
    match object.namespace() {
        Some(namespace) => Api::namespaced(client.clone(), &namespace),
        None => Api::default_namespaced(client.clone()),
    }
}

/// Whether everything that is wanted is there. Lists have to be equal in length: ours are wholly ours.
fn holds(wanted: &Value, current: &Value) -> bool {
    match (wanted, current) {
        (Value::Object(wanted), Value::Object(current)) => (wanted.iter()).all(|(key, wanted)| {
            current
                .get(key)
                .map_or_else(|| is_nothing(wanted), |current| holds(wanted, current))
        }),
        (Value::Array(wanted), Value::Array(current)) => {
            wanted.len() == current.len() && wanted.iter().zip(current).all(|(w, c)| holds(w, c))
        }
        _ => wanted == current,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_nothing),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_spared_only_when_nothing_is_missing() {
        let current = json!({"a": {"b": 1, "server": "default"}, "l": [{"x": 1, "y": 2}], "n": 1});
        assert!(holds(
            &json!({"a": {"b": 1}, "l": [{"x": 1}], "empty": {}, "null": null}),
            &current
        ));
        assert!(!holds(&json!({"a": {"b": 2}}), &current));
        assert!(!holds(&json!({"l": []}), &current));
        assert!(!holds(&json!({"l": [{"x": 1}, {"x": 2}]}), &current));
        assert!(!holds(&json!({"new": "value"}), &current));
    }
}
