//! Who comes in by somebody else's web server: it asks us.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::lab::DOMAIN;
use postern_e2e::{control, wait};

use super::fixture::Sidecar;
use crate::first_light::Running;
use crate::space::Space;

/// Debian's nginx behind our node: it asks who the client of a forwarded connection is.
pub(super) fn nginx(space: &Space<'_>) -> Result<()> {
    let sidecar = Sidecar::start(space, "nginx", 9985)?;
    sidecar.answer(space)?;
    let (listen, by_proxy_protocol) = (9986, 9987);
    let config = NGINX
        .replace("FOLDER", &sidecar.folder.display().to_string())
        .replace("LISTEN", &listen.to_string())
        .replace("PROXIED", &by_proxy_protocol.to_string())
        .replace("APP", "9985");
    let path = sidecar.folder.join("nginx.conf");
    fs::write(&path, config)?;
    let mut nginx = Command::new("nginx");
    nginx
        .arg("-c")
        .arg(&path)
        .arg("-e")
        .arg(sidecar.folder.join("nginx.log"));
    let _nginx = Running::start(nginx.stdin(Stdio::null()))?;
    sidecar.write(&format!(
        r#"{{"TCP":{{"80":{{"TCPForward":"127.0.0.1:{listen}"}},
            "81":{{"TCPForward":"127.0.0.1:{by_proxy_protocol}","ProxyProtocol":2}}}}}}"#
    ))?;
    let name = format!("{}.{}", sidecar.name, DOMAIN);
    for port in [80, 81] {
        let url = format!("http://{name}:{port}/x");
        let seen = wait::until(&url, Duration::from_secs(20), || {
            let fetched = Fetch::get("alice", &url)
                .header("X-Webauth-User", "root")
                .send()?;
            ensure!(fetched.status == 200, "status {}", fetched.status);
            fetched.seen()
        })?;
        for (header, value) in [
            ("X-Webauth-User", "alice@example.com"),
            ("X-Webauth-Login", "alice"),
            ("X-Webauth-Name", "Alice Example"),
        ] {
            ensure!(
                seen.header(header) == [value],
                "{port}: {header} is {:?}",
                seen.header(header)
            );
        }
        let tagged = Fetch::get("tagged", &url).send()?;
        ensure!(
            tagged.status == 403,
            "{port}: a tagged machine got {}",
            tagged.status
        );
    }
    let direct = control::http("GET", &format!("http://127.0.0.1:{listen}/x"), None);
    let refused = direct
        .err()
        .context("nginx let somebody in who did not come by the tailnet")?;
    ensure!(format!("{refused:#}").contains("401"), "{refused:#}");
    Ok(())
}

/// As README of nginx-auth has it, in short; one server believes the socket, one the PROXY protocol. One process, so
/// that its end is the end of it all.
const NGINX: &str = r"
daemon off;
master_process off;
user root;
worker_processes 1;
pid FOLDER/nginx.pid;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path FOLDER; proxy_temp_path FOLDER; fastcgi_temp_path FOLDER;
  uwsgi_temp_path FOLDER; scgi_temp_path FOLDER;
  map $proxy_protocol_addr $client { '' $remote_addr; default $proxy_protocol_addr; }
  map $proxy_protocol_port $client_port { '' $remote_port; default $proxy_protocol_port; }
  server {
    listen 127.0.0.1:LISTEN;
    listen 127.0.0.1:PROXIED proxy_protocol;
    location / {
      auth_request /auth;
      auth_request_set $auth_user $upstream_http_tailscale_user;
      auth_request_set $auth_name $upstream_http_tailscale_name;
      auth_request_set $auth_login $upstream_http_tailscale_login;
      proxy_set_header X-Webauth-User $auth_user;
      proxy_set_header X-Webauth-Name $auth_name;
      proxy_set_header X-Webauth-Login $auth_login;
      proxy_pass http://127.0.0.1:APP;
    }
    location = /auth {
      internal;
      proxy_pass http://unix:FOLDER/auth.sock;
      proxy_pass_request_body off;
      proxy_set_header Content-Length '';
      proxy_set_header Remote-Addr $client;
      proxy_set_header Remote-Port $client_port;
    }
  }
}
";
