//! HTTP for programs on this machine: unix sockets and loopback ports. Never on the tailnet.

use std::{
    convert::Infallible,
    fs,
    future::Future,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::tailnet::Stream;

/// Local programs need few; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// Where programs of this machine reach us.
#[derive(Debug)]
pub enum Socket {
    /// A port.
    Tcp(TcpListener),
    /// A unix socket with its path, which goes when we do.
    Unix(UnixListener, PathBuf),
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The user that the kernel names; `None` over TCP.
    pub uid: Option<u32>,
}

impl Socket {
    /// A unix socket that every user of the machine may connect to. One that a dead process left is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when somebody answers there; else as `bind(2)`.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process answers there",
            ));
        }
        if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        Ok(Self::Unix(listener, path.to_owned()))
    }

    /// A port of this machine alone.
    ///
    /// # Errors
    /// When the address isn't a loopback one, or as `bind(2)`.
    pub async fn loopback(addr: SocketAddr) -> io::Result<Self> {
        if !addr.ip().is_loopback() {
            let reason = format!("{addr} is not a loopback address");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Ok(Self::Tcp(TcpListener::bind(addr).await?))
    }

    /// A port of any interface, for those who watch over us.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub async fn port(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self::Tcp(bind(addr).await?))
    }

    /// What `unix:PATH` or a loopback address names.
    ///
    /// # Errors
    /// As [`Self::unix`] and [`Self::loopback`], and when it is neither.
    pub async fn parse(text: &str) -> io::Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Self::unix(Path::new(path)).await;
        }
        let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, "expected unix:PATH or ADDRESS:PORT");
        Self::loopback(text.parse().map_err(invalid)?).await
    }

    /// Where a port listens.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Answers until `end`; the tasks are of `tasks`.
    pub fn serve<A, F>(self, tasks: &TaskTracker, end: CancellationToken, answer: A)
    where
        A: Fn(Client, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let connections = tasks.clone();
        tasks.spawn(async move {
            let listener = &self;
            let serve = |(stream, client): (Stream, Client)| {
                let answer = answer.clone();
                async move {
                    let service = service_fn(move |request| {
                        let answer = answer(client, request);
                        async { Ok::<_, Infallible>(answer.await) }
                    });
                    let mut builder = http1::Builder::new();
                    builder
                        .timer(TokioTimer::new())
                        .header_read_timeout(Duration::from_secs(30));
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                }
            };
            each(|| listener.accept(), &connections, &end, MAX_CONNECTIONS, serve).await;
            if let Self::Unix(_, path) = &self {
                let _ = fs::remove_file(path);
            }
        });
    }

    async fn accept(&self) -> io::Result<(Stream, Client)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), Client { uid: None }))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let uid = Some(stream.peer_cred()?.uid());
                Ok((Box::new(stream), Client { uid }))
            }
        }
    }
}

/// Serves each connection in a task of `tasks`, as many at once as `most`, until `end`.
pub(crate) async fn each<S, A, F>(
    accept: impl Fn() -> A,
    tasks: &TaskTracker,
    end: &CancellationToken,
    most: usize,
    serve: impl Fn(S) -> F,
) where
    A: Future<Output = io::Result<S>>,
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(most));
    // A semaphore that is never closed gives permits.
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let accepted = tokio::select! {
            biased;
            () = end.cancelled() => return,
            accepted = accept() => accepted,
        };
        let Ok(connection) = accepted else {
            // Out of descriptors: a moment later there may be some.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (served, end) = (serve(connection), end.clone());
        tasks.spawn(async move {
            let _permit = permit;
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = served => {}
            }
        });
    }
}

/// Listens; `[::]` stands for every interface, of IPv4 too.
pub(crate) async fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(addr).await {
        // No IPv6 on this machine.
        Err(_) if addr.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, addr.port())).await
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_replaces_a_dead_one_and_respects_a_living_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = Socket::unix(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        let error = Socket::unix(&path).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        Socket::unix(&path).await.unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(Socket::unix(&file).await.is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[tokio::test]
    async fn only_loopback_ports_are_local() {
        let bad = Socket::loopback(([0, 0, 0, 0], 0).into()).await.unwrap_err();
        assert_eq!(bad.kind(), io::ErrorKind::InvalidInput);
        let socket = Socket::loopback(([127, 0, 0, 1], 0).into()).await.unwrap();
        assert!(socket.local_addr().unwrap().ip().is_loopback());
    }
}
