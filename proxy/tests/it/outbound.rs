//! The way out to the tailnet, for programs beside us.

use std::{net::SocketAddr, sync::Arc};

use postern_node::node::Config;
use postern_proxy::{
    local_api,
    outbound::{self, Outbound},
    tailnet::{Node, StartNode},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    backend::Recorder,
    front::{Nodes, WAIT},
};

/// A port that leads to a tailnet where `db` is the backend, and `closed` a port that nobody listens on.
struct WayOut {
    addr: SocketAddr,
    backend: Recorder,
    tasks: TaskTracker,
    end: CancellationToken,
    _node: Arc<dyn Node>,
}

impl WayOut {
    async fn open() -> Self {
        let backend = Recorder::start().await;
        let nodes = Nodes::default();
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        nodes
            .tailnet
            .lock()
            .extend([("db".to_owned(), backend.addr), ("closed".to_owned(), closed)]);
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let known = local_api::Nodes::new(Arc::new(nodes), tasks.clone(), false);
        let node = known.start(Config::default()).await.unwrap();
        let listener = outbound::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        Outbound::new(known, tasks.clone(), end.clone()).serve(listener);
        Self {
            addr,
            backend,
            tasks,
            end,
            _node: node,
        }
    }

    /// Sends all this, and reads until there is `until` in what comes.
    async fn says(&self, sent: &[u8], until: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut said = Vec::new();
        let reading = async {
            let mut buffer = [0; 4096];
            while !String::from_utf8_lossy(&said).contains(until) {
                match stream.read(&mut buffer).await {
                    Ok(read @ 1..) => said.extend(&buffer[..read]),
                    _ => break,
                }
            }
        };
        let in_time = tokio::time::timeout(WAIT, reading).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(
            in_time.is_ok() && said.contains(until),
            "{until:?} is missing in {said:?}"
        );
        said
    }
}

fn socks(host: &str) -> Vec<u8> {
    let name = u8::try_from(host.len()).unwrap();
    [
        &b"\x05\x01\0\x05\x01\0\x03"[..],
        &[name],
        host.as_bytes(),
        b"\x15\x38",
    ]
    .concat()
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: db\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_socks_client_reaches_names_of_the_tailnet() {
    let out = WayOut::open().await;
    let said = out.says(&[socks("db"), GET.into()].concat(), "/x").await;
    assert!(
        said.starts_with("\x05\0\x05\0\0\x01") && said.contains("200 OK"),
        "{said:?}"
    );
    let refused = out.says(&socks("closed"), "\x05\x05\0\x01").await;
    assert!(refused.ends_with("\0\0\0\0\0\0"), "{refused:?}");
}

#[tokio::test]
async fn an_http_client_reaches_them_by_connect_and_by_url() {
    let out = WayOut::open().await;
    let connect = |host: &str| format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let tunnel = format!("{}{GET}", connect("db:5432"));
    let said = out.says(tunnel.as_bytes(), "/x").await;
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");

    let url = "GET http://user:secret@db/y?z=1 HTTP/1.1\r\nHost: other\r\nProxy-Authorization: Basic x\r\n\
               Connection: close, X-Hop\r\nX-Hop: 1\r\nX-Kept: 2\r\n\r\n";
    out.says(url.as_bytes(), "/y?z=1").await;
    let seen = out.backend.last();
    assert_eq!(
        (seen.header("host"), seen.header("x-kept"), seen.header("x-hop")),
        (Some("db"), Some("2"), None)
    );
    assert_eq!(seen.header("proxy-authorization"), None);

    for (request, status) in [
        (connect("closed:1"), "502 "),
        (connect("db"), "400 "),
        (
            "GET http://closed/ HTTP/1.1\r\nHost: closed\r\n\r\n".to_owned(),
            "502 ",
        ),
        ("GET https://db/ HTTP/1.1\r\nHost: db\r\n\r\n".to_owned(), "400 "),
        // As a page in a browser could send it.
        ("GET / HTTP/1.1\r\nHost: db\r\n\r\n".to_owned(), "400 "),
    ] {
        out.says(request.as_bytes(), &format!("HTTP/1.1 {status}")).await;
    }
}

#[tokio::test]
async fn what_the_tailnet_does_not_have_is_dialled_by_the_machine_until_the_end() {
    let out = WayOut::open().await;
    let there = out.backend.addr;
    let connect = format!("CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n\r\n");
    out.says(format!("{connect}{GET}").as_bytes(), "/x").await;

    let mut open = TcpStream::connect(out.addr).await.unwrap();
    open.write_all(connect.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    open.read_exact(&mut head).await.unwrap();
    out.end.cancel();
    out.tasks.close();
    tokio::time::timeout(WAIT, out.tasks.wait()).await.unwrap();
    assert!(TcpStream::connect(out.addr).await.is_err());
}
