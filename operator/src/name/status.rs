//! What there is to say about a name: the same for every front end. Pure.

use postern_crds::conditions::{ACCEPTED, FUNNEL_READY, PROGRAMMED, READY, RESOLVED_REFS, reasons};
use postern_proxy_config::report::{NameReport, Phase};

use crate::{
    conditions::{Said, Status},
    events::Remark,
    model::{Claim, Problem},
    name::judge::Judgement,
    record::Record,
};

/// Everything that a status is made of.
#[derive(Debug, Clone)]
pub struct View {
    /// What the object asks for.
    pub claim: Claim,
    /// What became of it; problems with its Secrets included.
    pub judgement: Judgement,
    /// The device's record.
    pub record: Option<Record>,
    /// What the proxy says about the name that this object has, or had before a broken change.
    pub report: Option<NameReport>,
    /// Why the proxy refused the group's newest configuration.
    pub refused: Option<String>,
}

impl View {
    /// The device's addresses.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let addresses = self.report.iter().flat_map(|report| &report.addresses);
        addresses.map(ToString::to_string).collect()
    }

    /// The device's ID at the coordination server.
    pub(crate) fn node_id(&self) -> Option<String> {
        let reported = self.report.as_ref().and_then(|report| report.node_id.clone());
        reported.or_else(|| self.record.as_ref().and_then(|record| record.node_id.clone()))
    }

    /// When the certificate that is served ends, in whole seconds.
    pub(crate) fn certificate_expires(&self) -> Option<jiff::Timestamp> {
        let time = self.report.as_ref()?.certificate_expires?;
        jiff::Timestamp::from_second(time.as_second()).ok()
    }
}

/// The conditions, the summary last.
pub fn conditions(view: &View) -> Vec<Said> {
    let accepted = accepted(&view.judgement, "");
    let resolved = resolved(&view.judgement);
    let programmed = programmed(view);
    let funnel = funnel(view);
    let ready = ready(view, [&accepted, &resolved, &programmed], funnel.as_ref());
    [accepted, resolved, programmed]
        .into_iter()
        .chain(funnel)
        .chain([ready])
        .collect()
}

/// Whether the internet reaches what the object opens to it; nothing where it opens nothing.
fn funnel(view: &View) -> Option<Said> {
    let spec = view.claim.spec.as_ref().ok()?;
    let wanted = match spec.funnel.as_ref()? {
        Ok(funnel) => &funnel.config,
        Err(problems) => {
            let texts: Vec<_> = problems.iter().map(Problem::to_string).collect();
            let reason = problems
                .first()
                .map_or(reasons::INVALID, |problem| problem.reason);
            return Some(Said::no(FUNNEL_READY, reason, texts.join("; ")));
        }
    };
    let Some(report) = &view.report else {
        return Some(Said::no(FUNNEL_READY, reasons::PENDING, "nothing is served yet"));
    };
    let closed: Vec<String> = (wanted.ports.difference(&report.funnel))
        .map(ToString::to_string)
        .collect();
    Some(if closed.is_empty() {
        Said::yes(FUNNEL_READY, reasons::FUNNEL_READY, "it is open to the internet")
    } else if report.phase != Phase::Serving || report.reason.is_empty() {
        let message = format!("port {} is being opened", closed.join(", "));
        Said::no(FUNNEL_READY, reasons::PENDING, message)
    } else {
        let message = format!("port {}: {}", closed.join(", "), report.reason);
        Said::no(FUNNEL_READY, reasons::FUNNEL_UNAVAILABLE, message)
    })
}

/// Whether the name is the object's; `prefix` is what its label is shown with.
pub(crate) fn accepted(judgement: &Judgement, prefix: &str) -> Said {
    match &judgement.accepted {
        Ok(accepted) => Said::yes(
            ACCEPTED,
            reasons::ACCEPTED,
            format!("the name is {prefix}{}", accepted.hostname),
        ),
        Err(problem) => Said::no(ACCEPTED, problem.reason, problem.to_string()),
    }
}

/// Whether everything that the object names is there.
pub(crate) fn resolved(judgement: &Judgement) -> Said {
    match (&judgement.unresolved[..], &judgement.accepted) {
        ([first, ..], _) => {
            let texts: Vec<_> = judgement.unresolved.iter().map(Problem::to_string).collect();
            Said::no(RESOLVED_REFS, first.reason, texts.join("; "))
        }
        ([], Ok(_)) => Said::yes(
            RESOLVED_REFS,
            reasons::RESOLVED_REFS,
            "everything that it names is there",
        ),
        ([], Err(_)) => Said::unknown(RESOLVED_REFS, reasons::UNKNOWN, "the object isn't accepted"),
    }
}

fn programmed(view: &View) -> Said {
    if view.judgement.accepted.is_err() {
        let message = match &view.report {
            Some(report) => format!("generation {} is still served", report.applied_generation),
            None => "nothing is served".into(),
        };
        return Said::no(PROGRAMMED, reasons::PENDING, message);
    }
    if let Some(why) = &view.refused {
        return Said::no(
            PROGRAMMED,
            reasons::REFUSED,
            format!("the proxy refused the configuration: {why}"),
        );
    }
    match &view.report {
        Some(report) if report.applied_generation == view.claim.generation => {
            Said::yes(PROGRAMMED, reasons::PROGRAMMED, "the proxy has it")
        }
        Some(report) => Said::no(
            PROGRAMMED,
            reasons::PENDING,
            format!("the proxy still has generation {}", report.applied_generation),
        ),
        None => match view.record.as_ref().and_then(|record| record.problem.as_ref()) {
            Some(problem) => Said::no(PROGRAMMED, reasons::API_UNAVAILABLE, problem),
            None => Said::no(
                PROGRAMMED,
                reasons::PENDING,
                "waiting for the proxy to take the name",
            ),
        },
    }
}

fn ready(view: &View, others: [&Said; 3], funnel: Option<&Said>) -> Said {
    if view.claim.deleting {
        return Said::no(READY, reasons::DELETING, "the device is being removed");
    }
    let [accepted, resolved, programmed] = others;
    // What is wrong with the device explains more than that the proxy hasn't got further.
    let device = view.report.as_ref().and_then(|report| device(view, report));
    let first = [Some(accepted), Some(resolved)]
        .into_iter()
        .flatten()
        .find(|said| !said.holds());
    match (first, device) {
        (Some(said), _) => Said::no(READY, said.reason, said.message.clone()),
        (None, Some((reason, message))) => Said::no(READY, reason, message),
        (None, None) if !programmed.holds() => Said::no(READY, programmed.reason, programmed.message.clone()),
        (None, None) => match funnel.filter(|said| !said.holds()) {
            Some(said) => Said::no(READY, said.reason, said.message.clone()),
            None => Said::yes(READY, reasons::READY, "it answers"),
        },
    }
}

fn device(view: &View, report: &NameReport) -> Option<(&'static str, String)> {
    let because = |text: &str| {
        if report.reason.is_empty() {
            text.to_owned()
        } else {
            format!("{text}: {}", report.reason)
        }
    };
    match report.phase {
        Phase::Serving => None,
        Phase::Connecting => {
            let server = (view.record.as_ref())
                .map(|record| format!(" (spec.loginServer of Tailnet {})", record.tailnet))
                .unwrap_or_default();
            let text = format!("the node is connecting to the coordination server{server}");
            Some((reasons::PENDING, because(&text)))
        }
        Phase::NeedsLogin => {
            let mut text = because("the coordination server asks for a login or refused the auth key");
            if let Some(step) = view.record.as_ref().and_then(login_step) {
                text = format!("{text}; {step}");
            }
            Some((reasons::NEEDS_LOGIN, text))
        }
        Phase::NeedsApproval => Some((
            reasons::NEEDS_APPROVAL,
            because("an administrator of the tailnet has to approve the machine"),
        )),
        Phase::NameTaken => {
            let assigned = report.assigned_name.as_deref().unwrap_or("another name");
            let text = format!(
                "another machine of the tailnet has the name; {assigned} was assigned, which isn't served: \
                 remove that machine or choose another name"
            );
            Some((reasons::NAME_TAKEN, because(&text)))
        }
        Phase::Certificate => {
            let text = "the certificate is being issued";
            let why = if report.certificate_error.is_empty() {
                &report.reason
            } else {
                &report.certificate_error
            };
            let message = if why.is_empty() {
                text.to_owned()
            } else {
                format!("{text}: {why}")
            };
            Some((reasons::CERTIFICATE_PENDING, message))
        }
        Phase::Draining => Some((reasons::PENDING, because("the replica is leaving"))),
    }
}

/// What somebody has to do for a node that can't log in. A key that the operator mints is replaced by itself.
fn login_step(record: &Record) -> Option<String> {
    let reusable = record.key_source.as_ref().map(|source| {
        let secret = source.split('@').next().unwrap_or_default();
        format!(
            "put a valid key into Secret {secret} (spec.credentials.authKey of Tailnet {})",
            record.tailnet
        )
    });
    record.problem.clone().or(reusable)
}

/// The condition that sums the others up.
pub(crate) fn summary(said: &[Said]) -> Option<&Said> {
    said.iter().find(|said| said.type_ == READY)
}

/// The summary as an Event.
pub(crate) fn remark(said: &[Said]) -> Option<Remark> {
    summary(said).map(|ready| Remark {
        topic: READY.into(),
        warning: ready.status == Status::False && !is_progress(ready.reason),
        reason: ready.reason.into(),
        note: ready.message.clone(),
    })
}

/// Whether a reason is a step on the way, which is nobody's fault.
pub(crate) fn is_progress(reason: &str) -> bool {
    [reasons::PENDING, reasons::DELETING, reasons::CERTIFICATE_PENDING].contains(&reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{name::judge::Accepted, tailnet_ingress::validate};

    fn view(funnel: &str, report: NameReport) -> View {
        let object = serde_saphyr::from_str(&format!(
            "apiVersion: postern.dev/v1alpha1\nkind: TailnetIngress\nmetadata: {{name: a, namespace: m, uid: u}}\n\
             spec: {{backend: {{service: {{name: a, port: 80}}}}, funnel: {funnel}}}"
        ));
        let accepted = Accepted {
            tailnet: "default".into(),
            hostname: "a".parse().unwrap(),
            tags: Vec::new(),
            listeners: Vec::new(),
            certificate: None,
            certificates: Vec::new(),
            funnel: None,
        };
        View {
            claim: validate::claim(&object.unwrap()),
            judgement: Judgement {
                accepted: Ok(accepted),
                unresolved: Vec::new(),
            },
            record: None,
            report: Some(report),
            refused: None,
        }
    }

    #[test]
    fn funnel_is_ready_when_the_proxy_has_opened_every_port() {
        let serving = |open: &[u16], reason: &str| NameReport {
            phase: Phase::Serving,
            funnel: open.iter().copied().collect(),
            reason: reason.into(),
            ..NameReport::default()
        };
        let open = "{ports: [443, 8443], unauthenticated: true}";
        for (funnel, report, reason, named) in [
            (open, serving(&[443, 8443], ""), reasons::FUNNEL_READY, "open"),
            (open, serving(&[443], ""), reasons::PENDING, "port 8443"),
            (
                open,
                serving(&[], "no attribute"),
                reasons::FUNNEL_UNAVAILABLE,
                "no attribute",
            ),
            (
                "{}",
                serving(&[], ""),
                reasons::FUNNEL_NEEDS_LOCK,
                "spec.funnel: ",
            ),
        ] {
            let view = view(funnel, report);
            let said = conditions(&view);
            let of = |kind| said.iter().find(|said| said.type_ == kind).unwrap();
            assert_eq!(of(FUNNEL_READY).reason, reason, "{funnel}");
            assert!(
                of(FUNNEL_READY).message.contains(named),
                "{}",
                of(FUNNEL_READY).message
            );
            assert_eq!(
                of(READY).holds(),
                of(FUNNEL_READY).holds(),
                "{}",
                of(READY).message
            );
        }
        let mut none = view(open, serving(&[], ""));
        none.claim.spec.as_mut().unwrap().funnel = None;
        assert!(conditions(&none).iter().all(|said| said.type_ != FUNNEL_READY));
    }
}
