//! Tells a Tailnet's status.

use kube::{Api, ResourceExt};
use postern_crds::{
    Tailnet, TailnetStatus,
    conditions::{FUNNEL_AVAILABLE, HTTPS_AVAILABLE, READY, SERVICES_AVAILABLE, reasons},
};
use postern_proxy_config::report::{FunnelAccess, Phase};

use crate::{
    apply::{self, ApplyError},
    conditions::{self, Said},
    context::{Context, reference},
    events::Remark,
    model::Problem,
    name::judge::{issues_certificates, offers_services},
    tailnet::{dereference::Inputs, validate::Valid},
    tailnet_api::Error,
};

/// What the management API says to the credentials.
pub struct Probe {
    /// Whether they are taken.
    pub credentials: Result<(), Error>,
    /// Whether Services can be defined with them.
    pub services: Result<bool, Error>,
}

/// Writes the status if it changed, and says when the summary did.
///
/// # Errors
/// When it can't be written.
pub async fn tell(
    context: &Context,
    api: &Api<Tailnet>,
    inputs: &Inputs,
    valid: Result<&Valid, &Problem>,
    probe: Option<Probe>,
) -> Result<(), ApplyError> {
    let tailnet = &inputs.tailnet;
    let services = services(inputs, probe.as_ref());
    let credentials = probe.map(|probe| probe.credentials);
    let said = [
        ready(inputs, valid, credentials),
        https(inputs),
        funnel(inputs),
        services,
    ];
    let before = tailnet.status.clone().unwrap_or_default();
    let generation = tailnet.metadata.generation.unwrap_or_default();
    let status = TailnetStatus {
        conditions: conditions::merge(&before.conditions, &said, generation, (context.clock)()),
        proxy_groups: inputs.groups.clone(),
    };
    if status == before {
        return Ok(());
    }
    apply::status(api, &tailnet.name_any(), &status).await?;
    context.metrics.status_patch("Tailnet");
    let [ready, ..] = said;
    let remark = Remark {
        topic: READY.into(),
        warning: !ready.holds() && ready.reason != reasons::PENDING,
        reason: ready.reason.into(),
        note: ready.message,
    };
    context.events.say(&reference(&**tailnet), &[remark]).await;
    Ok(())
}

fn ready(inputs: &Inputs, valid: Result<&Valid, &Problem>, probe: Option<Result<(), Error>>) -> Said {
    if inputs.tailnet.metadata.deletion_timestamp.is_some() {
        let users = inputs.groups.join(", ");
        let message = format!(
            "it is being deleted, but used by the ProxyGroups {users}: delete them or what they serve"
        );
        return Said::no(READY, reasons::IN_USE, message);
    }
    match (valid, probe) {
        (Err(problem), _) => Said::no(READY, problem.reason, problem.to_string()),
        (Ok(_), None) => Said::no(READY, reasons::PENDING, "the credentials are being copied"),
        (Ok(_), Some(Ok(()))) => Said::yes(READY, reasons::READY, "the credentials can be used"),
        (Ok(_), Some(Err(error))) => {
            let spec = &inputs.tailnet.spec;
            let (reason, field) = match error {
                Error::Refused { .. } if spec.credentials.headscale_api_key.is_some() => {
                    (reasons::CREDENTIALS_REFUSED, "spec.credentials.headscaleAPIKey")
                }
                Error::Refused { .. } => (reasons::CREDENTIALS_REFUSED, "spec.credentials.oauthClient"),
                Error::Unreachable(_)
                | Error::Failed { .. }
                | Error::Answer { .. }
                | Error::OtherDevice { .. } => {
                    let field = if spec.api_url.is_some() {
                        "spec.apiURL"
                    } else {
                        "spec.loginServer"
                    };
                    (reasons::API_UNAVAILABLE, field)
                }
            };
            Said::no(READY, reason, format!("{field}: {error}"))
        }
    }
}

fn services(inputs: &Inputs, probe: Option<&Probe>) -> Said {
    if !offers_services(&inputs.tailnet) {
        let message =
            "Services take Tailscale's API, and so spec.credentials.oauthClient; Headscale has none";
        return Said::no(SERVICES_AVAILABLE, reasons::SERVICES_UNAVAILABLE, message);
    }
    match probe {
        Some(Probe {
            credentials: Ok(()),
            services,
        }) => match services {
            Ok(true) => Said::yes(SERVICES_AVAILABLE, reasons::READY, "Services can be defined"),
            Ok(false) => Said::no(
                SERVICES_AVAILABLE,
                reasons::SERVICES_UNAVAILABLE,
                "the coordination server's API has no Services",
            ),
            Err(error @ Error::Refused { .. }) => Said::no(
                SERVICES_AVAILABLE,
                reasons::CREDENTIALS_REFUSED,
                format!("{error}: give the OAuth client (spec.credentials.oauthClient) the scope services"),
            ),
            Err(error) => Said::unknown(SERVICES_AVAILABLE, reasons::API_UNAVAILABLE, error.to_string()),
        },
        _ => Said::unknown(
            SERVICES_AVAILABLE,
            reasons::UNKNOWN,
            "the credentials haven't been taken yet",
        ),
    }
}

fn https(inputs: &Inputs) -> Said {
    if !issues_certificates(&inputs.tailnet) {
        let message = "Headscale issues no certificates: name a Secret with one in spec.tls of each object";
        return Said::no(HTTPS_AVAILABLE, reasons::CERTIFICATE_REQUIRED, message);
    }
    let names = || inputs.reports.iter().flat_map(|report| report.names.values());
    if names().any(|name| name.https_available) {
        Said::yes(
            HTTPS_AVAILABLE,
            reasons::READY,
            "the coordination server offers certificates",
        )
    } else if names().any(|name| name.phase >= Phase::Certificate) {
        let message = "the coordination server offers no certificates: turn on HTTPS for the tailnet";
        Said::no(HTTPS_AVAILABLE, reasons::CERTIFICATE_REQUIRED, message)
    } else {
        Said::unknown(
            HTTPS_AVAILABLE,
            reasons::UNKNOWN,
            "no node has been on the tailnet yet",
        )
    }
}

/// The policy gives Funnel node by node: that one may is what is known about others.
fn funnel(inputs: &Inputs) -> Said {
    if !issues_certificates(&inputs.tailnet) {
        let message = "Headscale has no Funnel";
        return Said::no(FUNNEL_AVAILABLE, reasons::FUNNEL_UNAVAILABLE, message);
    }
    let names = inputs.reports.iter().flat_map(|report| report.names.values());
    let mut lacking = None;
    for name in names {
        match &name.funnel_access {
            FunnelAccess::Allowed => {
                let message = "the policy lets nodes be on Funnel";
                return Said::yes(FUNNEL_AVAILABLE, reasons::READY, message);
            }
            FunnelAccess::Refused(why) => lacking = Some(why),
            FunnelAccess::Unknown => {}
        }
    }
    match lacking {
        Some(why) => Said::no(FUNNEL_AVAILABLE, reasons::FUNNEL_UNAVAILABLE, why),
        None => Said::unknown(
            FUNNEL_AVAILABLE,
            reasons::UNKNOWN,
            "no node has been on the tailnet yet",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use postern_proxy_config::report::{NameReport, Report};

    use super::*;

    fn inputs(credentials: &str, access: &[FunnelAccess]) -> Inputs {
        let yaml = format!("metadata: {{name: default}}\nspec: {{credentials: {credentials}}}");
        let names = access.iter().enumerate().map(|(i, access)| {
            let report = NameReport {
                funnel_access: access.clone(),
                ..NameReport::default()
            };
            (i.to_string(), report)
        });
        Inputs {
            tailnet: Arc::new(serde_saphyr::from_str(&yaml).unwrap()),
            sources: Vec::new(),
            has_copy: true,
            groups: Vec::new(),
            reports: vec![Report {
                names: names.collect(),
                ..Report::default()
            }],
        }
    }

    #[test]
    fn funnel_is_available_when_a_node_may_use_it() {
        use FunnelAccess::{Allowed, Refused, Unknown};
        let oauth = "{oauthClient: {secretRef: {name: a}}}";
        let refused = || Refused("give it the node attribute".into());
        for (credentials, access, reason, named) in [
            (oauth, vec![], reasons::UNKNOWN, "yet"),
            (oauth, vec![Unknown], reasons::UNKNOWN, "yet"),
            (
                oauth,
                vec![Unknown, refused()],
                reasons::FUNNEL_UNAVAILABLE,
                "attribute",
            ),
            (oauth, vec![refused(), Allowed], reasons::READY, "policy"),
            (
                "{authKey: {secretRef: {name: a}}, headscaleAPIKey: {secretRef: {name: b}}}",
                vec![Allowed],
                reasons::FUNNEL_UNAVAILABLE,
                "Headscale",
            ),
        ] {
            let said = funnel(&inputs(credentials, &access));
            assert_eq!(said.reason, reason, "{access:?}");
            assert!(said.message.contains(named), "{}", said.message);
            assert_eq!(said.holds(), reason == reasons::READY);
        }
    }
}
