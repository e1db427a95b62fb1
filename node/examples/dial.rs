//! Gets a page of a machine on the tailnet:
//! `TS_AUTHKEY=… cargo run --example dial -- MACHINE:PORT [PATH]` prints the answer.

use std::io::Write;

use postern_node::node::{Config, Node};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().ok_or("which MACHINE:PORT?")?;
    let path = arguments.next().unwrap_or_else(|| "/".to_owned());

    // Nobody will want to find this node again: it is removed when it ends.
    let config = Config {
        hostname: "dial".to_owned(),
        ephemeral: true,
        ..Config::from_env()?
    };
    let node = Node::start(config).await?;
    let answer = get(&node, &target, &path).await;
    node.close().await;
    std::io::stdout().write_all(&answer?)?;
    Ok(())
}

/// A name of MagicDNS will do, with or without the tailnet's suffix, and so will an address.
async fn get(node: &Node, target: &str, path: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut stream = node.dial(target).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}
