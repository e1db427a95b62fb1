//! The keys that open a name on Funnel: the user's Secrets → one of ours that holds hashes alone. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::ResourceExt;
use postern_crds::conditions::reasons;
use postern_proxy_config::{
    keys::{KEYS_KEY, Keys},
    names,
};

use crate::{
    labels::{self, OWNER, OWNER_UID, ROLE_KEYS, SOURCE},
    model::{Claim, Hostname, KeysKind, KeysRef, Problem},
};

/// Keys that an object names, as they were found.
pub type Found = (KeysRef, Result<Secret, Problem>);

/// The Secret for the proxies, and what is wrong. There is none when a Secret can't be read: the keys that were
/// good go on then. A Secret that isn't there has no keys, so nobody gets in with those of old.
pub fn copy(
    namespace: &str,
    claim: &Claim,
    hostname: &Hostname,
    found: Vec<Found>,
) -> (Option<Secret>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut unreadable = false;
    let (mut bearer, mut basic) = (BTreeMap::new(), BTreeMap::new());
    let mut revisions = Vec::new();
    for (wanted, secret) in found {
        match secret {
            Ok(secret) => {
                revisions.push(secret.resource_version().unwrap_or_default());
                let data = secret.data.unwrap_or_default();
                match wanted.kind {
                    KeysKind::Bearer => bearer = data,
                    KeysKind::Basic => basic = data,
                }
            }
            Err(problem) => {
                unreadable |= problem.reason != reasons::SECRET_NOT_FOUND;
                revisions.push("none".to_owned());
                problems.push(problem);
            }
        }
    }
    if unreadable {
        return (None, problems);
    }
    let (keys, errors) = Keys::new(&claim.owner.uid, entries(&bearer), entries(&basic));
    let invalid = |message| Problem::new(reasons::INVALID_SECRET, "spec.funnel.auth", message);
    problems.extend((errors.iter()).map(|error| invalid(format!("{error}; it is left out"))));
    if keys.is_empty() && problems.is_empty() {
        problems.push(invalid(
            "the Secret has no entry: nobody gets in from the internet".to_owned(),
        ));
    }
    let name = names::keys(&claim.group, hostname.as_str());
    let mut metadata = labels::group_meta(namespace, &claim.group, ROLE_KEYS, name);
    metadata
        .labels
        .get_or_insert_default()
        .insert(OWNER_UID.into(), claim.owner.uid.clone());
    let owner = format!(
        "{}/{}/{}",
        claim.owner.kind, claim.owner.namespace, claim.owner.name
    );
    metadata.annotations = Some(BTreeMap::from([
        (OWNER.into(), owner),
        (SOURCE.into(), revisions.join("-")),
    ]));
    let json = serde_json::to_vec(&keys).expect("our own types have string keys and no failing serialisers");
    let secret = Secret {
        metadata,
        data: Some(BTreeMap::from([(KEYS_KEY.to_owned(), ByteString(json))])),
        ..Secret::default()
    };
    (Some(secret), problems)
}

fn entries(data: &BTreeMap<String, ByteString>) -> impl Iterator<Item = (&str, &[u8])> {
    (data.iter()).map(|(name, value)| (name.as_str(), value.0.as_slice()))
}
