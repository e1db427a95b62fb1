//! The way out: a SOCKS5 server and an HTTP proxy by which programs beside us reach the tailnet, as they do by
//! userspace `tailscaled` (Go: `net/proxymux`). Each port speaks both, as its first byte says.
//!
//! What the tailnet doesn't have is dialled by this machine, so that a program may send everything here.
//!
//! Invariant: only where the proxy runs alone, and only where it was asked for: whoever reaches such a port is on
//! the tailnet as this node.

mod http_proxy;
mod socks5;

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{args::NodeArgs, local, local_api::Nodes, tailnet::Stream};

/// See the module.
#[derive(Debug, Clone)]
pub struct Outbound {
    nodes: Arc<Nodes>,
    tasks: TaskTracker,
    end: CancellationToken,
}

/// More wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// For a client to say where it wants to go.
const ASK_WITHIN: Duration = Duration::from_secs(30);
/// For the way there; a node that has just started is waited for.
const DIAL_WITHIN: Duration = Duration::from_secs(20);

impl Outbound {
    /// By the first of the nodes, until `end`; the tasks are of `tasks`.
    pub fn new(nodes: Arc<Nodes>, tasks: TaskTracker, end: CancellationToken) -> Self {
        Self { nodes, tasks, end }
    }

    /// Serves a port.
    pub fn serve(&self, listener: TcpListener) {
        let outbound = self.clone();
        self.tasks.spawn(async move {
            let Self { tasks, end, .. } = &outbound;
            let serve = |(stream, _): (TcpStream, SocketAddr)| {
                let connection = outbound.clone();
                async move {
                    if let Err(error) = connection.serve_one(stream).await {
                        tracing::debug!(%error, "Outbound connection ended");
                    }
                }
            };
            local::each(|| listener.accept(), tasks, end, MAX_CONNECTIONS, serve).await;
        });
    }

    async fn serve_one(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut first = [0];
        let asked = tokio::time::timeout(ASK_WITHIN, stream.peek(&mut first)).await?;
        if asked? == 0 {
            return Ok(());
        }
        if first == [socks5::VERSION] {
            socks5::serve(self, stream).await
        } else {
            http_proxy::serve(self, stream).await
        }
    }

    /// Connects to a name or an address.
    async fn dial(&self, host: &str, port: u16) -> io::Result<Stream> {
        let dialling = async {
            if let Some(node) = self.nodes.first()
                && let Some(stream) = node.dial(host, port).await?
            {
                return Ok(stream);
            }
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Stream)
        };
        let dialled = tokio::time::timeout(DIAL_WITHIN, dialling).await?;
        if let Err(error) = &dialled {
            tracing::debug!(host, port, %error, "Outbound connection failed");
        }
        dialled
    }
}

/// Where `TS_SOCKS5_SERVER` and `TS_OUTBOUND_HTTP_PROXY_LISTEN` want to listen; one port may do for both.
///
/// # Errors
/// Names the variable whose value is no address.
pub fn addresses(node: &NodeArgs) -> Result<BTreeSet<SocketAddr>, String> {
    let asked = [
        ("TS_SOCKS5_SERVER", &node.socks5_server),
        ("TS_OUTBOUND_HTTP_PROXY_LISTEN", &node.outbound_http_proxy_listen),
    ];
    let asked = asked.into_iter().filter(|(_, text)| !text.is_empty());
    let parse = |(name, text): (_, &String)| {
        address(text).ok_or_else(|| format!("{name}: {text:?} is no ADDRESS:PORT, such as localhost:1055"))
    };
    asked.map(parse).collect()
}

/// As Go's `net.Listen` reads it, but that a name other than `localhost` is none.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let ip = match host {
        "" => Ipv6Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
    };
    Some(SocketAddr::new(ip, port.parse().ok()?))
}

/// Opens a port for [`Outbound::serve`].
///
/// # Errors
/// As `bind(2)`.
pub async fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = local::bind(addr).await?;
    if !addr.ip().is_loopback() {
        tracing::warn!(
            %addr,
            "Whoever reaches this address is on the tailnet as this node: localhost:{} is for programs beside us",
            addr.port()
        );
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_tailscaled_reads_them() {
        for (text, want) in [
            (":1055", Some("[::]:1055")),
            ("localhost:1055", Some("127.0.0.1:1055")),
            ("0.0.0.0:1080", Some("0.0.0.0:1080")),
            ("[::1]:1055", Some("[::1]:1055")),
            ("1055", None),
            ("db:1055", None),
            ("127.0.0.1:http", None),
        ] {
            let want = want.map(|want| want.parse().unwrap());
            assert_eq!(address(text), want, "{text}");
        }
    }
}
