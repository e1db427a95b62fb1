//! A page for the whole internet, and for the tailnet: `TS_AUTHKEY=… cargo run --example funnel -- [CONTROL_URL]`.
//!
//! The tailnet's policy has to give the node the attribute `funnel`, and HTTPS has to be enabled.

use std::env;

use postern_node::{
    funnel::{FunnelMode, FunnelStream},
    node::{Config, Error, Node},
    tls_listener::TlsStream,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let node = Node::start(config()?).await?;
    let mut listener = node.listen_funnel(443, FunnelMode::Both).await?;
    tracing::info!(
        url = format!("https://{}/", node.up().await?.name),
        "Open to the internet"
    );

    while let Some(stream) = listener.accept().await {
        let connection = stream.get_ref().0;
        let name = match connection.is_funnel() {
            // The address is all that is known about somebody on the internet.
            true => format!("{} of the internet", connection.peer_addr()),
            false => node
                .whois(connection.peer_addr().ip(), connection.local_addr().ip())
                .map_or_else(|| "stranger".to_owned(), |who| who.user.display_name.clone()),
        };
        tokio::spawn(async move {
            if let Err(error) = greet(stream, &name).await {
                tracing::info!(%error, name, "A visitor left early");
            }
        });
    }
    Ok(())
}

/// Answers one request, whatever it asks for.
async fn greet(stream: TlsStream<FunnelStream>, name: &str) -> std::io::Result<()> {
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

fn config() -> Result<Config, Error> {
    let default = Config::from_env()?;
    Ok(Config {
        hostname: env::var("TS_HOSTNAME").unwrap_or_else(|_| "funnel".to_owned()),
        control_url: env::args().nth(1).unwrap_or_else(|| default.control_url.clone()),
        acme_directory: env::var("TS_DEBUG_ACME_DIRECTORY_URL")
            .unwrap_or_else(|_| default.acme_directory.clone()),
        ..default
    })
}
