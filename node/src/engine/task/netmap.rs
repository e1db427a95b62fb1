//! What a new netmap means for sessions, flows and relays.

use std::{sync::Arc, time::Instant};

use super::{super::view::View, GREETING_PAUSE, LAST_GREETING_PAUSE, Task};
use crate::{magicsock::Route, netmap::Netmap, wg::Peer};

impl Task {
    /// Takes over a netmap.
    pub(super) fn apply(&mut self, netmap: Arc<Netmap>) {
        let view = Arc::new(View::new(netmap.clone()));
        let old = self.shared.view.swap(Some(view.clone()));
        self.drop_strangers();
        self.shared.paths.lock().set_netmap(Instant::now(), &netmap);
        if old.is_none_or(|old| old.netmap.derp != netmap.derp) {
            self.connect_derp();
            let hosts = self.shared.paths.lock().stun_hosts();
            self.stun_hosts.send_replace(hosts);
        }
        self.greet(&view);
    }

    /// Ends the sessions and flows of peers that are gone, and flows whose addresses are no longer theirs or ours.
    fn drop_strangers(&self) {
        let Some(view) = self.shared.view.load_full() else {
            return;
        };
        let gone = self.shared.peers.retain(|key| view.peer(key));
        for peer in &gone {
            tracing::debug!(peer = %peer.key, "Peer removed");
        }
        self.shared.kill_flows(|flow| {
            let ours = flow.key.local.ip();
            !(flow.to_service || view.is_own(ours) || self.shared.listeners.has_address(ours))
                || !(flow.peer.is_self() || flow.peer.may_send_from(flow.key.remote.ip()))
                || gone.iter().any(|peer| Arc::ptr_eq(peer, &flow.peer))
        });
    }

    /// Starts handshakes with the peers that our predecessor served last: they would wait up to 5 s before they
    /// try again on their own.
    fn greet(&mut self, view: &View) {
        let now = self.shared.now().total_millis() as u64;
        for recent in self.shared.ungreeted.lock().drain(..) {
            let Some(node) = view.peer(&recent.key) else {
                continue;
            };
            let peer = self.shared.peers.peer(&node);
            peer.note_seen(recent.seen, recent.addr);
            self.say_hello(&peer);
            self.greeted.push((now + GREETING_PAUSE, GREETING_PAUSE, peer));
        }
    }

    /// An answer may have gone to where the predecessor was: the peer learns from control that we aren't there, and
    /// a relay that we are reached by it.
    pub(super) fn greet_again(&mut self, now: u64) {
        for (at, pause, peer) in std::mem::take(&mut self.greeted) {
            if pause > LAST_GREETING_PAUSE || peer.counters().2.is_some() {
                continue;
            }
            if at > now {
                self.greeted.push((at, pause, peer));
                continue;
            }
            self.say_hello(&peer);
            self.greeted.push((now + 2 * pause, 2 * pause, peer));
        }
    }

    fn say_hello(&self, peer: &Arc<Peer>) {
        let Some(hello) = self.shared.peers.initiate_again(peer) else {
            return;
        };
        let route = self.shared.route(peer);
        let remembered = Route {
            udp: peer.seen().addr.filter(|addr| Some(*addr) != route.udp),
            derp: None,
        };
        self.shared.send_by(route, peer, vec![hello.clone()]);
        self.shared.send_by(remembered, peer, vec![hello]);
    }
}
