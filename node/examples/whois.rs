//! Tells each caller who it is on the tailnet, and what it may do here:
//! `TS_AUTHKEY=… cargo run --example whois`, then open `http://whois/` from another node.

use std::{fmt::Write, time::Duration};

use postern_node::{
    engine::TcpStream,
    netmap::WhoIs,
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
    let config = Config {
        hostname: "whois".to_owned(),
        ..Config::from_env()?
    };
    let node = Node::start(config).await?;
    let me = node.up().await?;
    tracing::info!(name = me.name, "On the tailnet");

    let mut listener = node.listen(80)?;
    while let Some(stream) = listener.accept().await {
        // The second address matters for capabilities, which may be granted towards one of ours only.
        let who = node.whois(stream.peer_addr().ip(), stream.local_addr().ip());
        let told = who.map_or_else(|| "unknown\n".to_owned(), |who| describe(&who));
        // In a task of its own: nobody waits for a visitor who says nothing.
        tokio::spawn(async move {
            let served = timeout(PATIENCE, tell(stream, &told)).await;
            if let Err(error) = served.unwrap_or_else(|late| Err(late.into())) {
                tracing::info!(%error, "A visitor left early");
            }
        });
    }
    Ok(())
}

/// Answers one request, whatever it asks for.
async fn tell(stream: TcpStream, text: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let page = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{text}");
    stream.write_all(page.as_bytes()).await?;
    stream.shutdown().await
}

fn describe(who: &WhoIs) -> String {
    let mut text = String::new();
    // A tagged node acts for itself: its user is a pseudo-user of control.
    if who.node.is_tagged() {
        let _ = writeln!(text, "tags: {}", who.node.tags.join(", "));
    } else {
        let _ = writeln!(text, "user: {} ({})", who.user.login_name, who.user.display_name);
    }
    let _ = writeln!(text, "machine: {}", who.node.name);
    for (cap, values) in &who.caps {
        let values: Vec<_> = values.iter().map(|value| value.get()).collect();
        let _ = writeln!(text, "may: {cap} {}", values.join(" "));
    }
    text
}
