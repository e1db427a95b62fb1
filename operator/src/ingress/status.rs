//! Tells a native Ingress's status. It has no conditions: what one would say is an Event, and the `error`
//! of a port that still serves what it served before.

use k8s_openapi::api::networking::v1::{
    Ingress, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressPortStatus, IngressStatus,
};
use kube::{Api, ResourceExt};
use postern_proxy_config::report::Phase;

use crate::{
    apply::{self, ApplyError},
    conditions::{Said, Status},
    context::{Context, reference},
    events::Remark,
    name::status::{View, conditions, is_progress, remark, summary},
};

const HTTPS: i32 = 443;
const HTTP: i32 = 80;

/// Writes the status if it changed, and says what changed.
///
/// # Errors
/// When it can't be written.
pub async fn tell(
    context: &Context,
    api: &Api<Ingress>,
    object: &Ingress,
    view: &View,
    ours: bool,
) -> Result<(), ApplyError> {
    let said = conditions(view);
    let status = IngressStatus {
        load_balancer: Some(IngressLoadBalancerStatus {
            ingress: if ours { load_balancer(view, &said) } else { None },
        }),
    };
    let before = object.status.clone().unwrap_or_default();
    let entries = |status: &IngressStatus| {
        status
            .load_balancer
            .clone()
            .unwrap_or_default()
            .ingress
            .unwrap_or_default()
    };
    if entries(&status) != entries(&before) {
        apply::status(api, &object.name_any(), &status).await?;
        context.metrics.status_patch("Ingress");
    }
    if ours && !view.claim.deleting {
        context
            .events
            .say(&reference(object), &remarks(view, &said))
            .await;
    }
    Ok(())
}

/// What clients can reach now, also while the newest generation is wrong.
fn load_balancer(view: &View, said: &[Said]) -> Option<Vec<IngressLoadBalancerIngress>> {
    let report = view
        .report
        .as_ref()
        .filter(|report| report.phase == Phase::Serving)?;
    let error = summary(said).filter(|ready| ready.status == Status::False && !is_progress(ready.reason));
    let port = |port| IngressPortStatus {
        port,
        protocol: "TCP".into(),
        error: error.map(|ready| ready.reason.to_owned()),
    };
    let mut ports = vec![port(HTTPS)];
    if view.claim.spec.as_ref().is_ok_and(|spec| spec.redirects()) {
        ports.push(port(HTTP));
    }
    Some(vec![IngressLoadBalancerIngress {
        hostname: report.assigned_name.clone(),
        ip: None,
        ports: Some(ports),
    }])
}

fn remarks(view: &View, said: &[Said]) -> Vec<Remark> {
    let mut remarks: Vec<_> = (view.claim.warnings.iter())
        .map(|problem| Remark {
            topic: problem.field.clone(),
            warning: true,
            reason: problem.reason.into(),
            note: problem.to_string(),
        })
        .collect();
    remarks.extend(remark(said));
    remarks
}
