//! Several machines of a tailnet in one process, each with a name, a key and addresses of its own:
//! `TS_AUTHKEY=… cargo run --example many-nodes -- red green blue`, then open `http://green/`.

use std::time::Duration;

use postern_node::{
    engine::{TcpListener, TcpStream},
    node::{Config, Node},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    task::JoinSet,
    time::timeout,
};

/// How long a visitor may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let mut nodes = Vec::new();
    for hostname in std::env::args().skip(1) {
        let config = Config {
            hostname,
            ephemeral: true,
            ..Config::from_env()?
        };
        nodes.push(Node::start(config).await?);
    }
    let mut serving = JoinSet::new();
    for node in &nodes {
        let me = node.up().await?;
        tracing::info!(name = me.name, "On the tailnet");
        serving.spawn(serve(node.listen(80)?, me.name));
    }
    tokio::signal::ctrl_c().await?;
    // They leave the tailnet side by side.
    let mut leaving = JoinSet::new();
    nodes
        .into_iter()
        .for_each(|node| drop(leaving.spawn(node.close())));
    leaving.join_all().await;
    Ok(())
}

async fn serve(mut listener: TcpListener, name: String) {
    while let Some(stream) = listener.accept().await {
        let name = name.clone();
        // In a task of its own: nobody waits for a visitor who says nothing.
        tokio::spawn(async move {
            let served = timeout(PATIENCE, greet(stream, &name)).await;
            if let Err(error) = served.unwrap_or_else(|late| Err(late.into())) {
                tracing::info!(%error, name, "A visitor left early");
            }
        });
    }
}

async fn greet(stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        line.clear();
    }
    let page = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nThis is {name}.\n");
    stream.write_all(page.as_bytes()).await?;
    stream.shutdown().await
}
