//! Keys of peers end when their time has come, whether control says something then or not (Go:
//! `ipn/ipnlocal/expiry.go`).

use std::{convert::Infallible, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::watch, time::timeout};

use super::{Netmap, Node, shared::share};

/// Our clock may be set, and timers stand still while the machine sleeps: so it is looked at this often.
const LOOK: Duration = Duration::from_mins(1);

/// Cuts off each peer of the published netmap when its key ends.
pub(crate) async fn cut_off_peers(
    netmap: watch::Sender<Option<Arc<Netmap>>>,
    clock: impl Fn() -> Timestamp,
) -> Infallible {
    let mut published = netmap.subscribe();
    loop {
        let next = published
            .borrow_and_update()
            .as_ref()
            .and_then(|netmap| netmap.next_end());
        let now = clock();
        if next.is_some_and(|end| end <= now) {
            netmap.send_modify(|netmap| {
                *netmap = netmap.as_ref().map(|netmap| Arc::new(netmap.cut_off(now)));
            });
            continue;
        }
        let left = next.map(|end| Duration::try_from(end - now).unwrap_or_default());
        let wait = left.map_or(Duration::MAX, |left| left.min(LOOK));
        // Either has the same answer.
        let _ = timeout(wait, published.changed()).await;
    }
}

impl Netmap {
    /// When the next key of a peer ends, by our clock.
    fn next_end(&self) -> Option<Timestamp> {
        let valid = self.peers.values().filter(|peer| !peer.expired);
        let end = valid.filter_map(|peer| peer.key_expiry).min()?;
        end.saturating_sub(self.clock_delta).ok()
    }

    /// The same, without those whose keys have ended until `now`.
    fn cut_off(&self, now: Timestamp) -> Self {
        let now = now.saturating_add(self.clock_delta).unwrap_or(now);
        let mut cut = self.clone();
        for peer in cut.peers.values_mut() {
            if !peer.expired && peer.has_ended(now) {
                let shown = peer.cut_off();
                cut.index.replace(Some(peer), Some(&shown), false);
                *peer = shown;
            }
        }
        cut
    }
}

impl Node {
    /// The key has ended; `now` is the time as control has it.
    pub(super) fn has_ended(&self, now: Timestamp) -> bool {
        self.expired || self.key_expiry.is_some_and(|end| end <= now)
    }

    /// How it is shown once its key has ended.
    pub(super) fn cut_off(&self) -> Arc<Self> {
        share(Self {
            expired: true,
            endpoints: Vec::new(),
            home_derp: None,
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::{netmap::Merger, tailcfg::MapResponse};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn node(id: u8, end: Option<i64>) -> Value {
        json!({
            "ID": id, "Key": format!("nodekey:{id:064x}"), "Addresses": [format!("100.64.0.{id}/32")], "HomeDERP": 1,
            "Endpoints": ["192.0.2.1:1"], "KeyExpiry": end.map(|end| at(end).to_string()),
        })
    }

    /// What control says, to somebody whose clock shows `now`.
    fn hear(merger: &mut Merger, message: &Value, now: Timestamp) -> Option<Arc<Netmap>> {
        let message = MapResponse::from_json(message.to_string().as_bytes()).unwrap();
        merger.apply(message, now).unwrap()
    }

    /// Peers whose keys are good.
    fn good(netmap: &watch::Receiver<Option<Arc<Netmap>>>) -> Vec<i64> {
        let netmap = netmap.borrow().clone().unwrap();
        let good = netmap.peers.values().filter(|peer| {
            let found = netmap.peer_by_key(&peer.key).is_some();
            let shown = peer.home_derp.is_some() && !peer.endpoints.is_empty();
            assert_eq!((!peer.expired, !peer.expired), (found, shown), "{peer:?}");
            found
        });
        good.map(|peer| peer.id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_whose_key_ends_is_cut_off_in_time_while_control_is_silent() {
        let start = Instant::now();
        // Control's clock is an hour ahead of ours.
        let clock = move || at(-3600) + start.elapsed();
        let mut merger = Merger::new();
        let first = json!({
            "Node": node(1, None), "ControlTime": at(0).to_string(),
            "Peers": [node(2, Some(100)), node(3, None), node(4, Some(5000))],
        });
        let first = hear(&mut merger, &first, clock());
        let sender = watch::Sender::new(first);
        let netmap = sender.subscribe();
        tokio::spawn(cut_off_peers(sender.clone(), clock));
        let until = async |second: u64| sleep(Duration::from_secs(second) - start.elapsed()).await;

        until(99).await;
        assert_eq!(good(&netmap), [2, 3, 4]);
        until(101).await;
        assert_eq!(good(&netmap), [3, 4]);
        // Control comes back and knows of a shorter life, and of a longer one.
        let extended = json!({"PeersChangedPatch": [
            {"NodeID": 2, "KeyExpiry": at(9000).to_string()}, {"NodeID": 4, "KeyExpiry": at(200).to_string()},
        ]});
        sender.send_replace(hear(&mut merger, &extended, clock()));
        until(199).await;
        assert_eq!(good(&netmap), [2, 3, 4]);
        until(201).await;
        assert_eq!(good(&netmap), [2, 3]);
        until(10_000).await;
        assert_eq!(good(&netmap), [3]);
    }
}
