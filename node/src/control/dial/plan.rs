//! Where control says that it is reached without DNS (Go: `control/controlhttp`, `Dialer.dial`).

use std::{net::IpAddr, time::Duration};

use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::Origin;
use crate::tailcfg::DialPlan;

/// What all candidates together may take: DNS wants its turn before the attempt is over.
const LIMIT: Duration = Duration::from_secs(5);
const MAX_CANDIDATES: usize = 8;

/// The newest plan, and for which server it is.
#[derive(Debug, Default)]
pub(super) struct Plan {
    host: String,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    ip: IpAddr,
    delay: Duration,
    limit: Duration,
}

impl Plan {
    /// Candidates that go through one of Tailscale's proxies, or make no sense, are left out.
    pub(super) fn new(server: &Origin, plan: &DialPlan) -> Self {
        let direct = plan
            .candidates
            .iter()
            .filter(|candidate| candidate.ace_host.is_empty());
        let candidates = direct.filter_map(|candidate| {
            Some(Candidate {
                ip: candidate.ip?,
                delay: Duration::try_from_secs_f64(candidate.dial_start_delay_sec).ok()?,
                limit: Duration::try_from_secs_f64(candidate.dial_timeout_sec).ok()?,
            })
        });
        Self {
            host: server.host.clone(),
            candidates: candidates.take(MAX_CANDIDATES).collect(),
        }
    }

    /// The candidates on the way to `to`: none for another server.
    pub(super) fn of(&self, to: &Origin) -> Vec<Candidate> {
        if self.host == to.host {
            self.candidates.clone()
        } else {
            Vec::new()
        }
    }
}

/// The first candidate that answers; `None`: ask DNS.
pub(super) async fn race(candidates: Vec<Candidate>, port: u16) -> Option<TcpStream> {
    let mut racing = JoinSet::new();
    for candidate in candidates {
        racing.spawn(async move {
            sleep(candidate.delay).await;
            timeout(candidate.limit, TcpStream::connect((candidate.ip, port))).await
        });
    }
    let first = async {
        while let Some(done) = racing.join_next().await {
            if let Ok(Ok(Ok(stream))) = done {
                return Some(stream);
            }
        }
        None
    };
    timeout(LIMIT, first).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    fn plan(host: &str, json: &str) -> (Origin, Plan) {
        let origin = Origin {
            https: true,
            host: host.to_owned(),
            port: 443,
        };
        let plan = Plan::new(&origin, &serde_json::from_str(json).unwrap());
        (origin, plan)
    }

    #[tokio::test]
    async fn the_first_that_answers_wins_and_failures_are_passed_over() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (origin, plan) = plan(
            "control.test",
            r#"{"Candidates":[
                {"IP":"127.0.0.2","DialTimeoutSec":5},
                {"IP":"127.0.0.1","DialStartDelaySec":0.05,"DialTimeoutSec":5,"Priority":1},
                {"ACEHost":"ace.test","DialTimeoutSec":5}, {"IP":"::1","DialTimeoutSec":-1}, {"IP":7}]}"#,
        );
        let candidates = plan.of(&origin);
        assert_eq!(candidates.len(), 2);
        let stream = race(candidates, port).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
        drop(listener);
        assert!(race(plan.of(&origin), port).await.is_none());
        let other = Origin {
            host: "api.test".to_owned(),
            ..origin
        };
        assert!(plan.of(&other).is_empty() && race(Vec::new(), port).await.is_none());
    }
}
