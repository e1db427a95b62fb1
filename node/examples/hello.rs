//! A server on the tailnet that greets its visitors by name:
//! `TS_AUTHKEY=… cargo run --example hello -- [CONTROL_URL]`, then open `http://hello/` from another node.

use postern_node::{
    control::AuthKey,
    node::{Config, Node},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let mut config = Config {
        hostname: "hello".to_owned(),
        ..Config::default()
    };
    config.auth_key = std::env::var("TS_AUTHKEY").ok().map(AuthKey::new);
    if let Some(url) = std::env::args().nth(1) {
        config.control_url = url;
    }

    let node = Node::start(config).await?;
    let me = node.up().await?;
    tracing::info!(name = me.name, "On the tailnet");

    let mut listener = node.listen(80)?;
    while let Some(mut stream) = listener.accept().await {
        let who = node.whois(stream.peer_addr().ip(), stream.local_addr().ip());
        let name = who.map_or_else(|| "stranger".to_owned(), |w| w.user.display_name.clone());
        let mut request = [0; 4096];
        stream.read(&mut request).await?;
        let body = format!("Hello, {name}!\n");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
    }
    Ok(())
}
