//! A server on the tailnet that greets its visitors by name:
//! `TS_AUTHKEY=… cargo run --example hello -- [CONTROL_URL]`, then open `http://hello/` from another node.

use std::time::Duration;

use postern_node::{
    engine::TcpStream,
    node::{Config, Node},
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
    let mut config = Config {
        hostname: "hello".to_owned(),
        ..Config::from_env()?
    };
    if let Some(url) = std::env::args().nth(1) {
        config.control_url = url;
    }

    let node = Node::start(config).await?;
    let me = node.up().await?;
    tracing::info!(name = me.name, "On the tailnet");

    let mut listener = node.listen(80)?;
    while let Some(stream) = listener.accept().await {
        let who = node.whois(stream.peer_addr().ip(), stream.local_addr().ip());
        let name = who.map_or_else(|| "stranger".to_owned(), |who| who.user.display_name.clone());
        // In a task of its own: nobody waits for a visitor who says nothing.
        tokio::spawn(async move {
            let served = timeout(PATIENCE, greet(stream, &name)).await;
            if let Err(error) = served.unwrap_or_else(|late| Err(late.into())) {
                tracing::info!(%error, name, "A visitor left early");
            }
        });
    }
    Ok(())
}

/// Answers one request, whatever it asks for.
async fn greet(stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let body = format!("Hello, {name}!\n");
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
