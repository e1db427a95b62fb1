//! A host of the Tailscale Service `svc:clock`: `TS_AUTHKEY=… cargo run --example service -- [CONTROL_URL]`, with an
//! auth key that has tags. Run it on several machines: clients of `clock` reach one of them, and another one when that
//! one ends. Port 443 is TLS, port 80 is not.
//!
//! The service has to be defined in the tailnet's admin console (tcp:80, tcp:443), and its hosts approved there.

use std::{env, time::Duration};

use postern_node::{
    node::{Config, Error, Node},
    service::{ServiceListener, ServiceMode},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().init();
    let service = env::var("SERVICE").unwrap_or_else(|_| "svc:clock".to_owned());
    let node = Node::start(config()?).await?;
    let plain = node
        .listen_service(&service, ServiceMode::Tcp { port: 80 })
        .await?;
    let tls = node
        .listen_service(&service, ServiceMode::TerminateTls { port: 443 })
        .await?;
    let name = plain.service().clone();
    tracing::info!(fqdn = plain.fqdn(), "Hosted");

    let mut services = node.services();
    let mut approved = false;
    tokio::spawn(serve(plain, node.clone()));
    tokio::spawn(serve(tls, node.clone()));
    loop {
        let now = {
            let services = services.borrow_and_update();
            !services.is_empty() && services.iter().all(|service| service.is_approved())
        };
        if now != approved {
            approved = now;
            tracing::info!(approved, "As control says");
        }
        tokio::select! {
            _ = services.changed() => {}
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    // Control first, so that nobody is sent here any more when it ends.
    node.advertise_service(&name, false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    node.close().await;
    Ok(())
}

/// Tells whoever comes who they are and which host they have reached.
async fn serve(mut listener: ServiceListener, node: Node) {
    while let Some(mut stream) = listener.accept().await {
        let connection = stream.get_ref();
        let (peer, local) = (connection.peer_addr().ip(), connection.local_addr());
        let who = node.whois(peer, local.ip());
        let who = who.map_or_else(|| "stranger".to_owned(), |who| who.user.login_name.clone());
        let host = node.up().await.map(|me| me.name).unwrap_or_default();
        tokio::spawn(async move {
            let _request = stream.read(&mut [0; 4096]).await;
            let body = format!("{who} reached {local} on {host}\n");
            let length = body.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
            let _gone = stream.write_all(answer.as_bytes()).await;
            let _gone = stream.shutdown().await;
        });
    }
}

fn config() -> Result<Config, Error> {
    let default = Config::from_env()?;
    Ok(Config {
        hostname: env::var("TS_HOSTNAME").unwrap_or_else(|_| "clock-host".to_owned()),
        control_url: env::args().nth(1).unwrap_or_else(|| default.control_url.clone()),
        acme_directory: env::var("TS_DEBUG_ACME_DIRECTORY_URL")
            .unwrap_or_else(|_| default.acme_directory.clone()),
        ..default
    })
}
