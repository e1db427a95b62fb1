//! Reads what decides about a Service's definition, from the stores.

use jiff::Timestamp;
use kube::ResourceExt;
use postern_crds::TailnetService;
use postern_proxy_config::report::ServiceReport;

use crate::{
    config,
    context::Context,
    labels::{self, ROLE_CERTIFICATE},
    model::{Claim, PortSpec, SERVICE_PREFIX},
    name::{claims::Claims, judge},
    report,
    stores::Stores,
    tailnet_api::Api,
    tailnet_service::plan::{Made, Want, Wanted},
};

/// All that decides about a Service's definition.
pub struct Inputs {
    /// What the object's status says was defined.
    pub recorded: Option<Made>,
    /// What the object wants.
    pub want: Want,
    /// The management API of the Tailnet that is recorded, or else wanted; absent while there are no
    /// credentials.
    pub api: Option<Api>,
    /// The recorded Service is still configured for this object.
    pub configured: bool,
    /// A replica that is there still speaks of it.
    pub in_use: bool,
    /// Another object of this cluster has the recorded name now.
    pub succeeded: bool,
    /// Secrets with certificates that were issued for this object.
    pub certificates: Vec<String>,
    /// What the replicas say about it.
    pub reports: Vec<ServiceReport>,
    /// When the object's deletion was asked for.
    pub deleted: Option<Timestamp>,
    /// The time.
    pub now: Timestamp,
}

/// Reads.
pub fn dereference(context: &Context, object: &TailnetService, claim: &Claim, now: Timestamp) -> Inputs {
    let stores = &context.stores;
    let uid = &claim.owner.uid;
    let status = object.status.clone().unwrap_or_default();
    let recorded = status
        .tailnet
        .zip(status.service)
        .map(|(tailnet, service)| Made { tailnet, service });
    let claims = Claims::collect(stores);
    let want = want(object, claim, &claims, stores);
    let tailnet_name = match (&recorded, &want) {
        (Some(made), _) => Some(made.tailnet.clone()),
        (None, Want::Defined(wanted)) => Some(wanted.made.tailnet.clone()),
        (None, Want::Keep | Want::Nothing) => None,
    };
    let service = match (&recorded, &want) {
        (Some(made), _) => made.service.clone(),
        (None, Want::Defined(wanted)) => wanted.made.service.clone(),
        (None, Want::Keep | Want::Nothing) => String::new(),
    };
    let groups: Vec<String> = (stores.proxy_groups.state().iter())
        .map(|group| group.name_any())
        .collect();
    let reports: Vec<_> = groups
        .iter()
        .flat_map(|group| report::reports(stores, group))
        .collect();
    Inputs {
        want,
        api: tailnet_name.as_ref().and_then(|name| api(context, name)),
        configured: groups.iter().any(|group| {
            (config::shards(stores, group).iter())
                .filter_map(|shard| shard.services.get(&service))
                .any(|configured| configured.owner.uid == *uid)
        }),
        in_use: (reports.iter())
            .filter(|report| is_there(stores, &report.replica))
            .filter_map(|report| report.services.get(&service))
            .any(|report| report.owner_uid == *uid),
        succeeded: (recorded.as_ref()).is_some_and(|made| is_anothers(&claims, made, uid)),
        certificates: (stores.secrets_of_owner(ROLE_CERTIFICATE, uid).iter())
            .map(|secret| secret.name_any())
            .collect(),
        reports: report::of_service(&reports, &service, uid),
        deleted: object.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        recorded,
        now,
    }
}

fn want(object: &TailnetService, claim: &Claim, claims: &Claims, stores: &Stores) -> Want {
    if claim.deleting {
        return Want::Nothing;
    }
    match (judge::judge(claim, claims, stores).accepted, &claim.spec) {
        // Without our finalizer the object could go unseen and leave its definition behind.
        (Ok(accepted), Ok(spec)) if claim.held => Want::Defined(Wanted {
            made: Made {
                service: format!("{SERVICE_PREFIX}{}", accepted.hostname),
                tailnet: accepted.tailnet,
            },
            ports: ports(&spec.ports),
            tags: accepted.tags,
            shared: object.spec.shared,
        }),
        _ => Want::Keep,
    }
}

fn ports(ports: &[PortSpec]) -> Vec<String> {
    let mut numbers: Vec<u16> = ports.iter().map(|port| port.port).collect();
    numbers.sort_unstable();
    numbers.iter().map(|number| format!("tcp:{number}")).collect()
}

fn api(context: &Context, tailnet_name: &str) -> Option<Api> {
    let stores = &context.stores;
    let credentials = stores.secret(&labels::credentials(tailnet_name));
    match (stores.tailnet(tailnet_name), credentials) {
        (Some(tailnet), Some(secret)) => Some(context.tailnets.api(tailnet_name, &tailnet, &secret)),
        // Without its Tailnet nothing can be done about a definition that is to go.
        (None, _) => Some(Api::None),
        (Some(_), None) => None,
    }
}

fn is_there(stores: &Stores, pod: &str) -> bool {
    stores.pods.state().iter().any(|known| known.name_any() == pod)
}

fn is_anothers(claims: &Claims, made: &Made, uid: &str) -> bool {
    let label = made.service.strip_prefix(SERVICE_PREFIX).unwrap_or_default();
    label
        .parse()
        .ok()
        .and_then(|label| claims.owner(&made.tailnet, &label))
        .is_some_and(|owner| owner.kind == "TailnetService" && owner.uid != uid)
}
