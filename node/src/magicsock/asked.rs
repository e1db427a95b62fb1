//! Pings that somebody has asked for, beside those by which paths are found (Go: `endpoint.cliPing`).

use std::time::{Duration, Instant};

use super::{Magicsock, Output, Path, messages::Via, random, region_of};
use crate::{
    disco::{Message, TxId},
    key::NodePublic,
};

/// Later answers are ignored.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pings under way; the oldest are forgotten.
const MAX_ASKED: usize = 256;

/// What the asker tells its ping by.
pub type AskToken = [u8; 8];

/// A ping on one way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    token: AskToken,
    tx: TxId,
    key: NodePublic,
    path: Path,
    at: Instant,
}

impl Magicsock {
    /// Pings a peer: by its direct path if that is trusted, else by every way that there may be. The first
    /// answer is [`Output::Pong`]. `false`: there is no way.
    pub fn ask(&mut self, now: Instant, key: &NodePublic, token: AskToken) -> bool {
        self.asked
            .retain(|asked| now.saturating_duration_since(asked.at) < TIMEOUT);
        let Some(peer) = self.peers.get_mut(now, key) else {
            return false;
        };
        let mut ways = Vec::new();
        match peer.trusted(now).filter(|_| !self.config.derp_only) {
            Some(addr) => ways.push(Path::Direct(addr)),
            None => {
                if !self.config.derp_only {
                    ways.extend(peer.addresses().into_iter().map(Path::Direct));
                }
                ways.extend(region_of(&self.relays, &self.map, peer).map(Path::Derp));
            }
        }
        for path in &ways {
            self.ask_by(now, key, token, *path);
        }
        self.publish_regions();
        !ways.is_empty()
    }

    fn ask_by(&mut self, now: Instant, key: &NodePublic, token: AskToken, path: Path) {
        let Some(tx) = random() else { return };
        let node = Some(self.config.node);
        let Some(sealed) = self.seal(key, &Message::Ping { tx, node, padding: 0 }) else {
            return;
        };
        match path {
            Path::Direct(to) => self.outputs.push_back(Output::Udp { to, datagram: sealed }),
            Path::Derp(region) => {
                self.relays.touch(now, region);
                self.outputs.push_back(Output::Derp {
                    region,
                    to: *key,
                    packet: sealed,
                });
            }
            Path::None => return,
        }
        if self.asked.len() == MAX_ASKED {
            self.asked.remove(0);
        }
        self.asked.push(Asked {
            token,
            tx,
            key: *key,
            path,
            at: now,
        });
    }

    /// A pong has come, sealed by the disco key that these nodes use. `true`: somebody asked for it.
    pub(super) fn on_asked_pong(&mut self, nodes: &[NodePublic], via: Via, tx: TxId) -> bool {
        let is_it = |asked: &Asked| {
            let way = matches!(
                (asked.path, via),
                (Path::Direct(_), Via::Udp(_)) | (Path::Derp(_), Via::Derp(..))
            );
            asked.tx == tx && way && nodes.contains(&asked.key)
        };
        let Some(position) = self.asked.iter().position(is_it) else {
            return false;
        };
        let Asked { token, key, path, .. } = self.asked.remove(position);
        self.outputs.push_back(Output::Pong {
            peer: key,
            token,
            path,
        });
        true
    }
}
