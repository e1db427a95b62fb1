//! Connections below HTTP: TCP, and TLS where the URL says so.

use std::{future::Future, io, pin::Pin, time::Duration};

use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::url::Origin;
use crate::{proxy::Outbound, tailcfg::DialPlan};

pub(super) use crate::proxy::BoxStream;

mod plan;

use plan::Plan;

/// Long enough for a slow server, short enough that a family or replica that is down costs little.
const PER_ADDRESS: Duration = Duration::from_secs(3);

pub(super) type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<BoxStream>> + Send + 'a>>;

/// Connects to a server; what tests replace.
pub(super) trait Dial: Send + Sync + 'static {
    fn dial<'a>(&'a self, to: &'a Origin) -> Dialing<'a>;

    /// Control has said where else it is reached.
    fn set_plan(&self, _server: &Origin, _plan: &DialPlan) {}
}

/// The network, behind a proxy or not.
pub(super) struct NetDialer {
    outbound: Outbound,
    plan: Mutex<Plan>,
}

impl NetDialer {
    pub(super) fn new(outbound: Outbound) -> Self {
        Self {
            outbound,
            plan: Mutex::default(),
        }
    }

    async fn below_tls(&self, to: &Origin) -> io::Result<BoxStream> {
        if let Some(tunnel) = self.outbound.tunnel(to.https, &to.host, to.port).await {
            return tunnel;
        }
        let plan = self.plan.lock().of(to);
        let tcp = match plan::race(plan, to.port).await {
            Some(planned) => planned,
            None => connect(&to.host, to.port).await?,
        };
        tcp.set_nodelay(true)?;
        Ok(Box::new(tcp))
    }
}

impl Dial for NetDialer {
    fn dial<'a>(&'a self, to: &'a Origin) -> Dialing<'a> {
        Box::pin(async move {
            let stream = self.below_tls(to).await?;
            if !to.https {
                return Ok(stream);
            }
            // Go checks certificates only when it fetches the server's key, since Noise proves the rest;
            // a wrong certificate is worth an error everywhere.
            let name = ServerName::try_from(to.host.clone()).map_err(io::Error::other)?;
            let tls = TlsConnector::from(self.outbound.tls().clone());
            Ok(Box::new(tls.connect(name, stream).await?) as BoxStream)
        })
    }

    fn set_plan(&self, server: &Origin, plan: &DialPlan) {
        *self.plan.lock() = Plan::new(server, plan);
    }
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host, port)).await? {
        match timeout(PER_ADDRESS, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use std::sync::Arc;

    use super::*;
    use crate::{proxy::Proxies, tls};

    /// A TLS server for `localhost` on loopback that says `x`; its port and certificate.
    async fn server() -> (u16, CertificateDer<'static>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(tcp).await {
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await;
                }
            }
        });
        (port, cert)
    }

    #[tokio::test]
    async fn certificates_are_checked_against_all_roots() {
        let (port, cert) = server().await;
        let to = Origin {
            https: true,
            host: "localhost".to_owned(),
            port,
        };
        let dialer = |roots| NetDialer::new(Outbound::new(tls::roots(roots), Proxies::default()));
        let known = [cert];
        let knows = dialer(&known);
        assert_eq!(knows.dial(&to).await.unwrap().read_u8().await.unwrap(), b'x');
        let knows_not = dialer(&[]);
        let error = knows_not.dial(&to).await.err().unwrap();
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}
