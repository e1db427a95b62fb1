//! How far a Service has come on this host, from what the node and the certificates say. Pure.

use postern_node::{node::Status, service::ServiceStatus};
use postern_proxy_config::report::{Phase, Stage};

use super::standing::{self, Issued};

/// What is known.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) node: &'a Status,
    /// As the node sees it; absent while nothing is listened for.
    pub(super) hosted: Option<&'a ServiceStatus>,
    pub(super) issued: Issued,
    /// Every port is open.
    pub(super) in_place: bool,
    /// Clients should go.
    pub(super) leaving: bool,
}

/// What control has been told, once and for all: it asks again whenever any Service of the host changes.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// That we are a host.
    offered: bool,
    /// That it may send clients here.
    advertised: bool,
}

impl Known<'_> {
    /// Whether control may send clients here. Approval is control's own matter.
    pub(super) fn may_advertise(&self) -> bool {
        self.in_place && self.issued != Issued::Missing && !self.leaving
    }

    /// The stage, and why there is no further one.
    pub(super) fn stage(&self, told: &mut Told) -> (Stage, String) {
        let (phase, reason) = standing::node(self.node);
        if phase != Phase::Serving {
            return (Stage::Connecting, reason);
        }
        let Some(hosted) = self.hosted else {
            return (Stage::Connecting, String::new());
        };
        told.offered |= hosted.told;
        told.advertised &= self.may_advertise();
        told.advertised |= self.may_advertise() && hosted.advertised && hosted.told;
        let stage = if !told.offered {
            let reason = "the coordination server hasn't asked yet which Services are hosted here";
            return (Stage::Connecting, reason.to_owned());
        } else if !hosted.is_approved() {
            Stage::Offered
        } else if self.leaving {
            Stage::Draining
        } else if self.issued == Issued::Missing {
            Stage::Approved
        } else if !self.may_advertise() {
            Stage::CertificateReady
        } else if told.advertised {
            Stage::Serving
        } else {
            Stage::Advertised
        };
        (stage, String::new())
    }
}

#[cfg(test)]
mod tests {
    use postern_node::node::Identity;

    use super::*;

    fn hosted(approved: bool, advertised: bool, told: bool) -> ServiceStatus {
        ServiceStatus {
            name: "svc:web".parse().unwrap(),
            fqdn: "web.example.ts.net".into(),
            ports: vec![443],
            advertised,
            told,
            addrs: approved.then(|| [100, 127, 0, 1].into()).into_iter().collect(),
            routed: false,
        }
    }

    #[test]
    fn each_stage_needs_the_one_before() {
        let running = Status::Running(Identity {
            stable_id: "n1".into(),
            name: "host.example.ts.net".into(),
            addrs: vec![],
            cert_domains: vec![],
            funnel: Ok(()),
        });
        let mut told = Told::default();
        let mut stage = |hosted: Option<&ServiceStatus>, issued, in_place, leaving| {
            let known = Known {
                node: &running,
                hosted,
                issued,
                in_place,
                leaving,
            };
            known.stage(&mut told).0
        };
        use Issued::{Missing, NotNeeded, Ready};
        assert_eq!(stage(None, Missing, true, false), Stage::Connecting);
        let steps = [
            (hosted(false, false, false), Missing, Stage::Connecting),
            (hosted(false, false, true), Missing, Stage::Offered),
            (hosted(false, true, true), NotNeeded, Stage::Offered),
            (hosted(true, false, true), Missing, Stage::Approved),
            (hosted(true, false, true), Ready, Stage::Advertised),
            (hosted(true, true, false), Ready, Stage::Advertised),
            (hosted(true, true, true), Ready, Stage::Serving),
            // Control asks again because of another Service.
            (hosted(true, true, false), Ready, Stage::Serving),
        ];
        for (hosted, issued, wanted) in steps {
            assert_eq!(stage(Some(&hosted), issued, true, false), wanted, "{hosted:?}");
        }
        let served = hosted(true, true, true);
        assert_eq!(stage(Some(&served), Ready, true, true), Stage::Draining);
        assert_eq!(stage(Some(&served), Ready, false, false), Stage::CertificateReady);
        let away = Status::Starting { last_error: None };
        let known = Known {
            node: &away,
            hosted: Some(&served),
            issued: Ready,
            in_place: true,
            leaving: false,
        };
        assert_eq!(known.stage(&mut Told::default()).0, Stage::Connecting);
    }
}
