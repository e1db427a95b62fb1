//! A group's pods, and what is laid around them.

use std::collections::BTreeMap;

use k8s_openapi::{
    DeepMerge,
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::{
            Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector,
            PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
            SecurityContext, Service, ServicePort, ServiceSpec,
        },
        networking::v1::{
            NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use postern_proxy_config::{
    assignment::REPLICA_LINK_PORT,
    names::{ADMIN_PORT, BACK_CHANNEL_PORT},
};

use crate::{
    context::Settings,
    labels::{GROUP, MANAGED_BY, POSTERN, account},
    proxy_group::validate::Valid,
};

/// The user of our images; any other works as well.
const USER: i64 = 65_532;
/// The proxy drains within it.
const GRACE_SECONDS: i64 = 30;

pub(super) fn stateful_set(
    settings: &Settings,
    valid: &Valid,
    overrides: Option<&PodTemplateSpec>,
    meta: &dyn Fn(String) -> ObjectMeta,
) -> StatefulSet {
    let mut template = template(settings, valid);
    if let Some(overrides) = overrides {
        template.merge_from(overrides.clone());
        // The workload finds its pods by these.
        let labels = template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default();
        labels.extend(selector(&valid.group));
    }
    StatefulSet {
        metadata: meta(valid.group.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(i32::try_from(valid.replicas).unwrap_or(1)),
            service_name: Some(valid.group.clone()),
            pod_management_policy: Some("Parallel".into()),
            selector: LabelSelector {
                match_labels: Some(selector(&valid.group)),
                ..LabelSelector::default()
            },
            template,
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

pub(super) fn budget(group: &str, meta: &dyn Fn(String) -> ObjectMeta) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: meta(account(group)),
        spec: Some(PodDisruptionBudgetSpec {
            // With one replica a minimum would forbid every drain of its node.
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector(group)),
                ..LabelSelector::default()
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// WireGuard comes from anywhere on a port that nobody knows beforehand; the admin port is for this
/// namespace and the replica link for the group.
pub(super) fn network_policy(
    group: &str,
    back_channel: bool,
    meta: &dyn Fn(String) -> ObjectMeta,
) -> NetworkPolicy {
    let port = |protocol: &str, port: u16| NetworkPolicyPort {
        protocol: Some(protocol.into()),
        port: Some(IntOrString::Int(port.into())),
        end_port: None,
    };
    let any_udp = NetworkPolicyPort {
        protocol: Some("UDP".into()),
        ..NetworkPolicyPort::default()
    };
    let from = |labels: BTreeMap<String, String>| {
        Some(vec![NetworkPolicyPeer {
            pod_selector: Some(LabelSelector {
                match_labels: Some(labels),
                ..LabelSelector::default()
            }),
            ..NetworkPolicyPeer::default()
        }])
    };
    // Applications are anywhere, and authenticate themselves.
    let back_channel = back_channel.then(|| NetworkPolicyIngressRule {
        ports: Some(vec![port("TCP", BACK_CHANNEL_PORT)]),
        from: None,
    });
    let rules = vec![
        NetworkPolicyIngressRule {
            ports: Some(vec![any_udp]),
            from: None,
        },
        NetworkPolicyIngressRule {
            ports: Some(vec![port("TCP", ADMIN_PORT)]),
            from: from(BTreeMap::new()),
        },
        NetworkPolicyIngressRule {
            ports: Some(vec![port("TCP", REPLICA_LINK_PORT)]),
            from: from(selector(group)),
        },
    ];
    NetworkPolicy {
        metadata: meta(account(group)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(selector(group)),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(rules.into_iter().chain(back_channel).collect()),
            egress: None,
        }),
    }
}

/// An identity provider's way in from inside of the cluster, at HTTPS's own port: the issuer names none.
pub(super) fn back_channel(group: &str, metadata: ObjectMeta) -> Service {
    Service {
        metadata,
        spec: Some(ServiceSpec {
            selector: Some(selector(group)),
            ports: Some(vec![ServicePort {
                name: Some("https".into()),
                port: 443,
                target_port: Some(IntOrString::Int(BACK_CHANNEL_PORT.into())),
                protocol: Some("TCP".into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn template(settings: &Settings, valid: &Valid) -> PodTemplateSpec {
    let group = &valid.group;
    let arguments = [
        "run",
        "--group",
        group,
        "--namespace",
        &settings.namespace,
        "--pod",
        "$(POD_NAME)",
    ];
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(selector(group)),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(account(group)),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".into(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            containers: vec![Container {
                name: "proxy".into(),
                image: Some(settings.proxy_image.clone()),
                image_pull_policy: Some(settings.pull_policy.clone()),
                args: Some(arguments.iter().map(|a| (*a).to_owned()).collect()),
                env: Some(vec![
                    EnvVar {
                        name: "POD_NAME".into(),
                        value_from: Some(EnvVarSource {
                            field_ref: Some(ObjectFieldSelector {
                                field_path: "metadata.name".into(),
                                api_version: Some("v1".into()),
                            }),
                            ..EnvVarSource::default()
                        }),
                        value: None,
                    },
                    EnvVar {
                        name: "RUST_LOG".into(),
                        value: Some(settings.proxy_log.clone()),
                        value_from: None,
                    },
                ]),
                ports: Some(vec![ContainerPort {
                    name: Some("admin".into()),
                    container_port: ADMIN_PORT.into(),
                    protocol: Some("TCP".into()),
                    ..ContainerPort::default()
                }]),
                liveness_probe: Some(Probe {
                    initial_delay_seconds: Some(5),
                    period_seconds: Some(10),
                    timeout_seconds: Some(5),
                    failure_threshold: Some(6),
                    ..probe("/healthz")
                }),
                readiness_probe: Some(Probe {
                    period_seconds: Some(2),
                    timeout_seconds: Some(2),
                    failure_threshold: Some(3),
                    ..probe("/readyz")
                }),
                resources: Some(ResourceRequirements {
                    requests: Some(quantities(&[("cpu", "50m"), ("memory", "64Mi")])),
                    limits: Some(quantities(&[("memory", "512Mi")])),
                    claims: None,
                }),
                security_context: Some(SecurityContext {
                    allow_privilege_escalation: Some(false),
                    read_only_root_filesystem: Some(true),
                    run_as_non_root: Some(true),
                    capabilities: Some(Capabilities {
                        drop: Some(vec!["ALL".into()]),
                        add: None,
                    }),
                    ..SecurityContext::default()
                }),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
    }
}

fn selector(group: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".into(), "postern-proxy".into()),
        (MANAGED_BY.into(), POSTERN.into()),
        (GROUP.into(), group.to_owned()),
    ])
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("admin".into()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs
        .iter()
        .map(|(name, amount)| ((*name).to_owned(), Quantity((*amount).to_owned())))
        .collect()
}
