use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// The definition of a Service, as the API has it. What we don't know in it is written back as it was.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// Such as `svc:db`.
    pub name: String,
    /// Its addresses: chosen by the API, to be repeated by every update.
    #[serde(
        default,
        deserialize_with = "or_nothing",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub addrs: Vec<String>,
    /// For administrators.
    #[serde(
        default,
        deserialize_with = "or_nothing",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// Whose it is, among others.
    #[serde(
        default,
        deserialize_with = "or_nothing",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Such as `tcp:443`: what a host has to serve.
    #[serde(
        default,
        deserialize_with = "or_nothing",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ports: Vec<String>,
    /// What auto-approvers and grants of the policy can name.
    #[serde(
        default,
        deserialize_with = "or_nothing",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub tags: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

fn or_nothing<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
