//! What the watched objects say together. Pure.

use std::{collections::BTreeMap, sync::Arc};

use postern_proxy_config::{
    assignment::{ASSIGNMENT_KEY, Assignment},
    endpoints::{ENDPOINTS_KEY, Endpoints},
    group::{CONFIG_KEY, Shard},
    names,
    parse::{self, Parsed},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::serve::{Desired, HostSpec, Services, Spec};

/// A watched object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    Shard(usize),
    Endpoints,
    Assignment,
}

impl Object {
    /// The key of its ConfigMap.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Shard(_) => CONFIG_KEY,
            Self::Endpoints => ENDPOINTS_KEY,
            Self::Assignment => ASSIGNMENT_KEY,
        }
    }
}

/// The last good value of each object, and what is wrong with the newest.
#[derive(Debug)]
pub(super) struct View {
    pod: String,
    shards: Vec<Option<Shard>>,
    endpoints: Option<Endpoints>,
    endpoints_changed: bool,
    assignment: Option<Assignment>,
    problems: BTreeMap<Object, Problems>,
}

#[derive(Debug, Default)]
struct Problems {
    unknown: Vec<String>,
    refused: Option<String>,
}

impl View {
    pub(super) fn new(pod: &str) -> Self {
        Self {
            pod: pod.to_owned(),
            shards: vec![None; names::SHARDS],
            endpoints: None,
            endpoints_changed: false,
            assignment: None,
            problems: BTreeMap::new(),
        }
    }

    /// An object is now so; `None`: it, or its key, isn't there. What was good stays when it vanishes:
    /// the operator takes names away by leaving them out, not by deleting objects.
    pub(super) fn update(&mut self, object: Object, name: &str, text: Option<&str>) {
        let problems = match object {
            Object::Shard(index) => take(name, text, &mut self.shards[index], || Shard {
                format: postern_proxy_config::FORMAT,
                tailnet: postern_proxy_config::group::Tailnet {
                    control_url: String::new(),
                    ca_bundle: None,
                    acme_directory: None,
                    derp_only: false,
                },
                names: BTreeMap::new(),
                services: BTreeMap::new(),
                hosts: BTreeMap::new(),
            }),
            Object::Endpoints => {
                self.endpoints_changed = true;
                take(name, text, &mut self.endpoints, Endpoints::default)
            }
            Object::Assignment => take(name, text, &mut self.assignment, Assignment::default),
        };
        if let Some(reason) = &problems.refused {
            tracing::error!(
                object = name,
                reason,
                "Configuration refused, the one before goes on"
            );
        }
        self.problems.insert(object, problems);
    }

    /// The backends, when they may have changed.
    pub(super) fn take_endpoints(&mut self) -> Option<Endpoints> {
        std::mem::take(&mut self.endpoints_changed)
            .then(|| self.endpoints.clone())
            .flatten()
    }

    /// Everything that this replica should serve, once every object is known. Endpoints are waited for too:
    /// without them every request would be refused for a moment.
    pub(super) fn desired(&self) -> Option<Desired> {
        let assignment = self.assignment.as_ref()?;
        self.endpoints.as_ref()?;
        let (mut names, mut hosts, mut services) = (BTreeMap::new(), BTreeMap::new(), Services::new());
        for shard in &self.shards {
            let shard = shard.as_ref()?;
            for (key, name) in &shard.names {
                if owns(assignment, key, &self.pod) {
                    let spec = Spec {
                        tailnet: shard.tailnet.clone(),
                        name: name.clone(),
                        services: Services::new(),
                    };
                    names.insert(key.clone(), Arc::new(spec));
                }
            }
            for (key, service) in &shard.services {
                services.insert(key.clone(), Arc::new(service.clone()));
            }
            if let Some(host) = shard.hosts.get(&self.pod) {
                let spec = HostSpec {
                    tailnet: shard.tailnet.clone(),
                    host: host.clone(),
                    leads: is_first(&self.pod),
                };
                hosts.insert(host.node.hostname.clone(), Arc::new(spec));
            }
        }
        Some(Desired {
            names,
            hosts,
            services: Arc::new(services),
        })
    }

    pub(super) fn unknown_fields(&self) -> Vec<String> {
        let mut all: Vec<String> = self.problems.values().flat_map(|p| p.unknown.clone()).collect();
        all.sort();
        all.dedup();
        all
    }

    pub(super) fn refused(&self) -> Option<String> {
        let all: Vec<&str> = self
            .problems
            .values()
            .filter_map(|p| p.refused.as_deref())
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// The assigned replica serves a name; one that nobody has assigned yet is the first replica's.
fn owns(assignment: &Assignment, key: &str, pod: &str) -> bool {
    match assignment.names.get(key) {
        Some(owned) => owned.replica == pod,
        None => is_first(pod),
    }
}

/// The first replica leads the group.
fn is_first(pod: &str) -> bool {
    pod.ends_with("-0")
}

fn take<T: DeserializeOwned + Serialize>(
    name: &str,
    text: Option<&str>,
    current: &mut Option<T>,
    empty: impl FnOnce() -> T,
) -> Problems {
    let Some(text) = text else {
        if current.is_none() {
            *current = Some(empty());
        }
        return Problems::default();
    };
    match parse::parse(text) {
        Ok(Parsed { value, unknown }) => {
            *current = Some(value);
            let unknown = unknown.into_iter().map(|path| format!("{name}{path}")).collect();
            Problems {
                unknown,
                refused: None,
            }
        }
        Err(error) => Problems {
            unknown: Vec::new(),
            refused: Some(format!("{name}: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: &str = r#"{"format":1,"tailnet":{"controlUrl":"http://c"},"names":{"app":{
        "owner":{"kind":"Ingress","namespace":"a","name":"b","uid":"u"},"generation":1,
        "node":{"hostname":"app","state":{"name":"g-app-node"}},"listeners":[],"surprise":1}}}"#;

    fn complete(pod: &str) -> View {
        let mut view = View::new(pod);
        for index in 1..names::SHARDS {
            view.update(Object::Shard(index), "s", None);
        }
        view.update(Object::Endpoints, "e", None);
        view.update(Object::Assignment, "a", None);
        view.update(Object::Shard(0), "g-config-0", Some(SHARD));
        view
    }

    #[test]
    fn nothing_is_known_before_everything_is() {
        let mut view = View::new("g-0");
        view.update(Object::Shard(0), "s", Some(SHARD));
        assert!(view.desired().is_none());
        assert_eq!(complete("g-0").desired().unwrap().names.len(), 1);
    }

    #[test]
    fn the_last_good_value_stays_and_says_why() {
        let mut view = complete("g-0");
        assert_eq!(view.unknown_fields(), ["g-config-0.names.app.surprise"]);
        for bad in ["{", r#"{"format":2}"#, r#"{"format":1}"#] {
            view.update(Object::Shard(0), "g-config-0", Some(bad));
            assert_eq!(view.desired().unwrap().names.len(), 1);
            assert!(view.refused().unwrap().starts_with("g-config-0: "), "{bad}");
        }
        view.update(Object::Shard(0), "g-config-0", None);
        assert_eq!(view.desired().unwrap().names.len(), 1);
        assert_eq!(view.refused(), None);
    }

    #[test]
    fn every_replica_hosts_every_service_with_a_node_of_its_own() {
        let service = r#"{"owner":{"kind":"TailnetService","namespace":"a","name":"b","uid":"u"},"generation":1,"listeners":[]}"#;
        let host = |pod: &str| {
            format!(
                r#""{pod}":{{"owner":{{"kind":"ProxyGroup","namespace":"","name":"g","uid":"u"}},"node":{{"hostname":"{pod}-x","state":{{"name":"s"}}}}}}"#
            )
        };
        let shard = format!(
            r#"{{"format":1,"tailnet":{{"controlUrl":"http://c"}},"services":{{"svc:db":{service}}},"hosts":{{{},{}}}}}"#,
            host("g-0"),
            host("g-1")
        );
        for (pod, leads) in [("g-0", true), ("g-1", false)] {
            let mut view = complete(pod);
            view.update(Object::Shard(1), "g-config-1", Some(&shard));
            let desired = view.desired().unwrap();
            assert_eq!(desired.services.keys().collect::<Vec<_>>(), ["svc:db"]);
            let hosts: Vec<_> = desired
                .hosts
                .iter()
                .map(|(key, host)| (key.as_str(), host.leads))
                .collect();
            assert_eq!(hosts, [(format!("{pod}-x").as_str(), leads)]);
        }
        let mut leaving = complete("g-2");
        leaving.update(Object::Shard(1), "g-config-1", Some(&shard));
        assert!(leaving.desired().unwrap().hosts.is_empty());
    }

    #[test]
    fn names_are_served_by_their_owner_alone() {
        let mut view = complete("g-1");
        assert!(view.desired().unwrap().names.is_empty());
        view.update(
            Object::Assignment,
            "a",
            Some(r#"{"format":1,"names":{"app":{"replica":"g-1","epoch":1}}}"#),
        );
        assert_eq!(view.desired().unwrap().names.len(), 1);
        // An assignment that can't be read is no assignment to another.
        view.update(Object::Assignment, "a", Some("{"));
        assert_eq!(view.desired().unwrap().names.len(), 1);
    }
}
