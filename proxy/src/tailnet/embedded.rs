//! The trait over `postern-node`.

use std::{net::IpAddr, sync::Arc};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use postern_node::{
    engine,
    netmap::{Netmap, WhoIs},
    node::{Certificate, Config, Error, Node, Status},
};
use tokio::sync::watch;

use super::{Accepted, Listener, StartNode};

/// Starts real nodes.
#[derive(Debug, Clone, Copy)]
pub struct Embedded;

impl StartNode for Embedded {
    fn start(&self, config: Config) -> BoxFuture<'_, Result<Arc<dyn super::Node>, Error>> {
        Box::pin(async {
            let node = Node::start(config).await?;
            Ok(Arc::new(Running {
                netmap: node.netmap(),
                node: Mutex::new(Some(node)),
            }) as Arc<dyn super::Node>)
        })
    }
}

struct Running {
    netmap: watch::Receiver<Option<Arc<Netmap>>>,
    /// Empty once closed.
    node: Mutex<Option<Node>>,
}

impl Running {
    fn node(&self) -> Result<Node, Error> {
        self.node.lock().clone().ok_or(Error::Closed)
    }
}

impl super::Node for Running {
    fn status(&self) -> watch::Receiver<Status> {
        match self.node() {
            Ok(node) => node.status(),
            Err(_) => watch::channel(Status::Closed).1,
        }
    }

    fn generation(&self) -> u64 {
        self.netmap
            .borrow()
            .as_ref()
            .map_or(0, |netmap| netmap.generation)
    }

    fn listen(&self, port: u16) -> Result<Box<dyn Listener>, Error> {
        Ok(Box::new(Port(self.node()?.listen(port)?)))
    }

    fn whois(&self, src: IpAddr, dst: IpAddr) -> Option<WhoIs> {
        self.node().ok()?.whois(src, dst)
    }

    fn certificate<'a>(&'a self, domain: &'a str) -> BoxFuture<'a, Result<Arc<Certificate>, Error>> {
        Box::pin(async move { self.node()?.cert(domain).await })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let node = self.node.lock().take();
        Box::pin(async {
            if let Some(node) = node {
                node.close().await;
            }
        })
    }
}

struct Port(engine::TcpListener);

impl Listener for Port {
    fn accept(&mut self) -> BoxFuture<'_, Option<Accepted>> {
        Box::pin(async {
            let stream = self.0.accept().await?;
            Some(Accepted {
                peer: stream.peer_addr(),
                local: stream.local_addr(),
                stream: Box::new(stream),
            })
        })
    }
}
