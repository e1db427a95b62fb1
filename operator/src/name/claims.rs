//! Whose a name is: the oldest object that claims it, over all front ends and groups of a tailnet.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{
    ResourceExt,
    core::{Selector, SelectorExt},
};
use postern_crds::{NamespacesFrom, ProxyGroup, ProxyGroupSpec};
use postern_proxy_config::group::Owner;

use crate::{
    identity_provider, ingress,
    model::{Hostname, Problem},
    name::{created, owner_of},
    stores::Stores,
    tailnet_ingress, tailnet_service,
};
use postern_crds::conditions::reasons;

/// Owners of all names.
#[derive(Debug, Default)]
pub struct Claims(BTreeMap<(String, Hostname), Candidate>);

/// An object that claims a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The Tailnet.
    pub tailnet: String,
    /// The name.
    pub hostname: Hostname,
    /// When the object was made.
    pub created: Timestamp,
    /// The object.
    pub owner: Owner,
}

impl Claims {
    /// Decides every name. The UID breaks ties, so that all who decide agree.
    pub fn decide(candidates: impl IntoIterator<Item = Candidate>) -> Self {
        let mut winners = BTreeMap::<_, Candidate>::new();
        for candidate in candidates {
            let key = (candidate.tailnet.clone(), candidate.hostname.clone());
            match winners.get(&key) {
                Some(best)
                    if (best.created, &best.owner.uid) <= (candidate.created, &candidate.owner.uid) => {}
                _ => {
                    winners.insert(key, candidate);
                }
            }
        }
        Self(winners)
    }

    /// Decides from what the stores hold. A claim that its group doesn't allow counts for nothing, else
    /// whoever may not use a name could still block it.
    pub fn collect(stores: &Stores) -> Self {
        let of_tailnet_ingresses = stores.tailnet_ingresses.state().into_iter().filter_map(|object| {
            let text = tailnet_ingress::validate::hostname_text(&object);
            let group = tailnet_ingress::validate::group(&object);
            candidate(stores, &*object, &group, &text)
        });
        let of_ingresses = stores.our_ingresses().into_iter().filter_map(|object| {
            let (_, text) = ingress::validate::hostname_text(&object);
            candidate(stores, &*object, &ingress::validate::group(&object), &text)
        });
        let of_services = stores.tailnet_services.state().into_iter().filter_map(|object| {
            let group = tailnet_service::validate::group(&object);
            candidate(
                stores,
                &*object,
                &group,
                &tailnet_service::validate::label_text(&object),
            )
        });
        let of_providers = stores
            .identity_providers
            .state()
            .into_iter()
            .filter_map(|object| {
                let group = identity_provider::validate::group(&object);
                let text = identity_provider::validate::hostname_text(&object);
                candidate(stores, &*object, &group, &text)
            });
        Self::decide(
            of_tailnet_ingresses
                .chain(of_ingresses)
                .chain(of_services)
                .chain(of_providers),
        )
    }

    /// Who has a name.
    pub fn owner(&self, tailnet: &str, hostname: &Hostname) -> Option<&Owner> {
        Some(&self.0.get(&(tailnet.to_owned(), hostname.clone()))?.owner)
    }
}

/// Whether a group's allow lists let an object in.
///
/// # Errors
/// A [`Problem`] that names the list.
pub fn permit(
    stores: &Stores,
    group: &ProxyGroup,
    namespace: &str,
    hostname: &Hostname,
) -> Result<(), Problem> {
    let ProxyGroupSpec {
        allowed_namespaces,
        allowed_hostnames,
        ..
    } = &group.spec;
    let name = group.name_any();
    let refuse = |field: &str, message: String| Err(Problem::new(reasons::NOT_ALLOWED, field, message));
    if allowed_namespaces.from == NamespacesFrom::Selector {
        let selector = allowed_namespaces
            .selector
            .clone()
            .and_then(|s| Selector::try_from(s).ok());
        let mut known = stores.namespace_labels(namespace);
        // The API server sets it on every namespace; a namespace that we haven't seen yet has it too.
        known.insert("kubernetes.io/metadata.name".into(), namespace.to_owned());
        if !selector.is_some_and(|s| s.matches(&known)) {
            return refuse(
                "metadata.namespace",
                format!("ProxyGroup {name} doesn't allow this namespace (spec.allowedNamespaces)"),
            );
        }
    }
    if let Some(patterns) = allowed_hostnames
        && !patterns.iter().any(|pattern| matches(pattern, hostname.as_str()))
    {
        return refuse(
            "spec.hostname",
            format!("ProxyGroup {name} doesn't allow the name {hostname} (spec.allowedHostnames)"),
        );
    }
    Ok(())
}

fn candidate<K>(stores: &Stores, object: &K, group: &str, hostname: &str) -> Option<Candidate>
where
    K: kube::Resource<DynamicType = ()>,
{
    let hostname = hostname.parse::<Hostname>().ok()?;
    let owner = owner_of(object);
    let group = stores.proxy_group(group)?;
    permit(stores, &group, &owner.namespace, &hostname).ok()?;
    Some(Candidate {
        tailnet: group.spec.tailnet_ref.name.clone(),
        hostname,
        created: created(object),
        owner,
    })
}

/// Matches `*` with any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|tail| {
            (0..=tail.len()).any(|i| tail.is_char_boundary(i) && matches(rest, &tail[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(uid: &str, created: i64) -> Candidate {
        Candidate {
            tailnet: "default".into(),
            hostname: "grafana".parse().unwrap(),
            created: Timestamp::from_second(created).unwrap(),
            owner: Owner {
                kind: "Ingress".into(),
                namespace: "a".into(),
                name: uid.into(),
                uid: uid.into(),
            },
        }
    }

    fn winner(candidates: Vec<Candidate>) -> String {
        let claims = Claims::decide(candidates);
        claims
            .owner("default", &"grafana".parse().unwrap())
            .unwrap()
            .uid
            .clone()
    }

    #[test]
    fn the_oldest_has_the_name_and_the_uid_breaks_ties() {
        assert_eq!(winner(vec![candidate("a", 2), candidate("b", 1)]), "b");
        assert_eq!(winner(vec![candidate("b", 1), candidate("a", 1)]), "a");
        let mut elsewhere = candidate("old", 0);
        elsewhere.tailnet = "other".into();
        assert_eq!(winner(vec![elsewhere, candidate("a", 5)]), "a");
    }

    proptest! {
        #[test]
        fn order_of_seeing_them_does_not_matter(times in proptest::collection::vec(0_i64..4, 1..6), turn in 0_usize..6) {
            let mut all: Vec<_> = times.iter().enumerate().map(|(i, t)| candidate(&format!("u{i}"), *t)).collect();
            let expected = winner(all.clone());
            let turn = turn % all.len();
            all.rotate_left(turn);
            prop_assert_eq!(winner(all), expected);
        }
    }

    #[test]
    fn patterns() {
        assert!(
            matches("*", "x") && matches("a-*", "a-b") && matches("*-dev", "x-dev") && matches("a*c", "abc")
        );
        assert!(!matches("a-*", "b-a") && !matches("a", "ab") && !matches("*-dev", "dev"));
    }
}
