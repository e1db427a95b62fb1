//! Sends every datagram back: `TS_AUTHKEY=… cargo run --example udp-echo -- [CONTROL_URL]`, then
//! `echo hello | nc -u udp-echo 7` on another node. With a destination as second argument it asks instead of
//! answering: `… CONTROL_URL udp-echo:7`.

use std::{env, time::Duration};

use postern_node::{
    engine::UdpSocket,
    node::{Config, Node},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let default = Config::from_env()?;
    let node = Node::start(Config {
        hostname: env::var("TS_HOSTNAME").unwrap_or_else(|_| "udp-echo".to_owned()),
        control_url: env::args().nth(1).unwrap_or_else(|| default.control_url.clone()),
        ..default
    })
    .await?;
    if let Some(to) = env::args().nth(2) {
        return Ok(ask(&node, &to).await?);
    }
    // A socket is of one family, and callers come by either.
    let (v4, v6) = tokio::try_join!(
        node.listen_packet("0.0.0.0:7".parse()?),
        node.listen_packet("[::]:7".parse()?)
    )?;
    tracing::info!(name = node.up().await?.name, "Echoes");
    tokio::try_join!(echo(v4), echo(v6))?;
    Ok(())
}

async fn echo(socket: UdpSocket) -> std::io::Result<()> {
    let mut buffer = [0; UdpSocket::MAX_PAYLOAD];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).await?;
        tracing::info!(%from, len, "A datagram");
        socket.send_to(&buffer[..len], from)?;
    }
}

/// Asks until there is an answer: datagrams may be lost, and the first one waits for nobody.
async fn ask(node: &Node, to: &str) -> Result<(), postern_node::node::Error> {
    let socket = node.dial_packet(to).await?;
    let mut buffer = [0; UdpSocket::MAX_PAYLOAD];
    loop {
        let _lost = socket.send(b"hello");
        let answer = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await;
        if let Ok(Ok(len)) = answer {
            tracing::info!(said = %String::from_utf8_lossy(&buffer[..len]), "Answered");
            return Ok(());
        }
    }
}
