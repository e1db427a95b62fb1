//! A page over HTTPS, with a certificate that every browser trusts, issued through the control server:
//! `TS_AUTHKEY=… cargo run --example https -- STATE_DIR`, then open `https://https.TAILNET.ts.net/`.

use std::{io, sync::Arc, time::Duration};

use postern_node::{
    engine::TcpStream,
    node::{Config, Node},
    state::DirStore,
    tls_listener::TlsStream,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    time::timeout,
};

/// How long a visitor may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    // Certificate authorities count what they issue: keep it over restarts.
    let state = std::env::args()
        .nth(1)
        .ok_or("in which directory is the state?")?;
    let mut config = Config {
        hostname: "https".to_owned(),
        store: Arc::new(DirStore::open(state)?),
        ..Config::from_env()?
    };
    if let Ok(directory) = std::env::var("TS_DEBUG_ACME_DIRECTORY_URL") {
        config.acme_directory = directory;
    }
    let node = Node::start(config).await?;
    let me = node.up().await?;
    // The certificate is issued when it is first asked for, and renewed before it ends.
    let mut listener = node.listen_tls(443)?;
    tracing::info!("Serving https://{}/", me.name);
    while let Some(stream) = listener.accept().await {
        // In a task of its own: nobody waits for a visitor who says nothing.
        tokio::spawn(async move {
            let served = timeout(PATIENCE, serve(stream)).await;
            if let Err(error) = served.unwrap_or_else(|late| Err(late.into())) {
                tracing::info!(%error, "A visitor left early");
            }
        });
    }
    Ok(())
}

/// Answers one request, whatever it asks for.
async fn serve(stream: TlsStream<TcpStream>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let page =
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\nNobody else reads this.\n";
    stream.write_all(page.as_bytes()).await?;
    stream.shutdown().await
}
