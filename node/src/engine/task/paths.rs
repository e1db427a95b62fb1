//! Between path selection, the relays and the network.

use std::{
    net::IpAddr,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Instant,
};

use smoltcp::time::Instant as TcpInstant;

use super::{DerpEvent, Origin, Task};
use crate::magicsock::Output;

/// Packets from relays in one round.
const DERP_BATCH: usize = 64;

impl Task {
    /// Carries out what path selection wants.
    pub(super) fn follow_paths(&mut self) {
        let now = Instant::now();
        {
            let mut paths = self.shared.paths.lock();
            if paths.timeout(now).is_some_and(|wait| wait.is_zero()) {
                paths.on_timeout(now);
            }
        }
        loop {
            let output = self.shared.paths.lock().poll_output();
            match output {
                None => return,
                Some(Output::Udp { to, datagram }) => {
                    if !self.shared.derp_only {
                        self.shared.udp.queue(to, [datagram]);
                        self.shared.wake_engine();
                    }
                }
                Some(Output::Derp { region, to, packet }) => {
                    self.shared.queue_derp(region, to, packet);
                    self.shared.wake_engine();
                }
                Some(Output::Regions(regions)) => {
                    self.regions = regions;
                    self.connect_derp();
                }
                Some(Output::Endpoints(endpoints)) => {
                    self.shared.local.send_if_modified(|local| {
                        let changed = local.endpoints != endpoints;
                        local.endpoints = endpoints;
                        changed
                    });
                }
                Some(Output::NetInfo(net_info)) => {
                    self.shared.local.send_if_modified(|local| {
                        let changed = local.net_info != net_info;
                        local.net_info = net_info;
                        changed
                    });
                }
                Some(Output::Pong { peer, token, path }) => {
                    self.shared.pings.answered(&peer, &token, path, 0)
                }
                Some(Output::Path { peer, path }) => tracing::debug!(%peer, ?path, "Path to peer changed"),
            }
        }
    }

    pub(super) fn connect_derp(&mut self) {
        if let Some(view) = self.shared.view.load_full() {
            self.derp.set_regions(&view.netmap.derp, &self.regions);
        }
    }

    /// Hands packets to the relays' connections. After [`Self::follow_paths`]: a packet for a region that isn't
    /// connected to yet waits there, and is often the reason for the connection.
    pub(super) fn feed_relays(&self) {
        let packets = std::mem::take(&mut *self.shared.derp_queue.lock());
        let stats = &self.shared.stats;
        for (region, to, packet) in packets {
            let sent = self.derp.send(region, to, packet);
            let counter = if sent {
                &stats.tx_derp
            } else {
                &stats.tx_derp_dropped
            };
            counter.fetch_add(1, Relaxed);
        }
    }

    /// One batch of what the relays say. `true`: there may be more.
    pub(super) fn receive_derp(&mut self, cx: &mut Context<'_>, now: TcpInstant) -> bool {
        for _ in 0..DERP_BATCH {
            let Poll::Ready(Some(event)) = self.derp_events.poll_recv(cx) else {
                return false;
            };
            match event {
                DerpEvent::Packet { region, from, packet } => {
                    self.shared.stats.rx_derp.fetch_add(1, Relaxed);
                    self.inbox.datagram(now, Origin::Derp(region, from), &packet);
                }
                DerpEvent::PeerGone { region, peer } => {
                    self.shared
                        .paths
                        .lock()
                        .on_peer_gone(Instant::now(), region, peer);
                }
                DerpEvent::State { region, connected } => {
                    self.shared
                        .paths
                        .lock()
                        .on_derp_state(Instant::now(), region, connected);
                }
            }
        }
        true
    }

    pub(super) fn list_interfaces(&self) {
        let addresses = interfaces();
        if !addresses.is_empty() {
            self.shared
                .paths
                .lock()
                .set_interfaces(Instant::now(), &addresses);
        }
    }
}

/// Addresses of this machine's interfaces; none when they can't be read.
pub(in crate::engine) fn interfaces() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces
            .iter()
            .map(|interface| interface.ip().to_canonical())
            .collect(),
        Err(error) => {
            tracing::info!(%error, "Interface addresses not readable");
            Vec::new()
        }
    }
}
