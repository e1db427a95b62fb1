//! Questions to a LocalAPI, ours or a `tailscaled`'s, and their answers for people.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;

use crate::{
    args::{Ask, Ip, Whois},
    local_api::HOST,
};

/// A local daemon answers at once or never.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The tailnet, a machine a line.
///
/// # Errors
/// When nobody answers on the socket.
pub async fn status(ask: &Ask) -> anyhow::Result<String> {
    let json = get(&ask.socket, "status").await?;
    if ask.json {
        return Ok(json);
    }
    let status: Status = serde_json::from_str(&json).context("the answer is not as expected")?;
    let mut out = String::new();
    if status.backend_state != "Running" {
        let login = match status.auth_url.as_str() {
            "" => String::new(),
            url => format!(": log in at {url}"),
        };
        writeln!(out, "# {}{login}", status.backend_state)?;
    }
    let peers = status.peer.unwrap_or_default();
    let rows: Vec<[String; 5]> = std::iter::once(&status.own)
        .chain(peers.values())
        .filter(|machine| !machine.dns_name.is_empty() || !machine.host_name.is_empty())
        .map(|machine| machine.row(&status.users))
        .collect();
    out.push_str(&columns(&rows));
    for problem in &status.health {
        writeln!(out, "# {problem}")?;
    }
    Ok(out)
}

/// Addresses, one a line.
///
/// # Errors
/// When nobody answers, there is no such peer, or no such address.
pub async fn ip(args: &Ip) -> anyhow::Result<String> {
    let status: Status = serde_json::from_str(&get(&args.ask.socket, "status").await?)
        .context("the answer is not as expected")?;
    let addresses = match &args.peer {
        None => status.own.ips(),
        Some(wanted) => {
            let peers = status.peer.unwrap_or_default();
            let found = peers
                .values()
                .chain([&status.own])
                .find(|machine| machine.is(wanted));
            found
                .with_context(|| format!("no machine of the tailnet is {wanted:?}"))?
                .ips()
        }
    };
    let addresses: Vec<String> = addresses
        .iter()
        .filter(|ip| {
            if args.v4 {
                ip.is_ipv4()
            } else {
                !args.v6 || ip.is_ipv6()
            }
        })
        .map(ToString::to_string)
        .collect();
    ensure!(
        !addresses.is_empty(),
        "there is no such address (state: {})",
        status.backend_state
    );
    Ok(addresses.join("\n"))
}

/// A machine and its user.
///
/// # Errors
/// When nobody answers, or nobody is known there.
pub async fn whois(args: &Whois) -> anyhow::Result<String> {
    let query: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("addr", &args.addr)
        .finish();
    let json = get(&args.ask.socket, &format!("whois?{query}")).await?;
    if args.ask.json {
        return Ok(json);
    }
    let who: WhoIs = serde_json::from_str(&json).context("the answer is not as expected")?;
    let mut out = String::new();
    writeln!(
        out,
        "Machine:\n  Name:      {}",
        who.node.name.trim_end_matches('.')
    )?;
    writeln!(out, "  ID:        {}", who.node.stable_id)?;
    writeln!(out, "  Addresses: {}", who.node.addresses.join(" "))?;
    if who.node.tags.is_empty() {
        let user = &who.user_profile;
        writeln!(
            out,
            "User:\n  Name:      {}\n  ID:        {}",
            user.login_name, user.id
        )?;
    } else {
        writeln!(out, "  Tags:      {}", who.node.tags.join(", "))?;
    }
    for (cap, values) in who.cap_map.unwrap_or_default() {
        if out.lines().all(|line| line != "Capabilities:") {
            writeln!(out, "Capabilities:")?;
        }
        let values = values.unwrap_or_default();
        let values: Vec<&str> = values.iter().map(|value| value.get()).collect();
        writeln!(out, "  {cap} {}", values.join(" "))?;
    }
    Ok(out)
}

/// The body of a 200.
async fn get(socket: &Path, what: &str) -> anyhow::Result<String> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await.with_context(|| {
            format!(
                "connect to {}: is postern-proxy (or tailscaled) running, and is TS_SOCKET its socket?",
                socket.display()
            )
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(format!("/localapi/v0/{what}"))
            .header("host", HOST)
            .body(Empty::<Bytes>::new())?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::select! {
            answer = answer => answer,
            ended = connection => match ended {
                Ok(()) => bail!("the connection ended without an answer"),
                Err(error) => Err(error.into()),
            },
        }
    };
    let (status, body) = tokio::time::timeout(TIMEOUT, exchange)
        .await
        .context("no answer in time")??;
    if status != StatusCode::OK {
        bail!("{}", body.trim());
    }
    Ok(body)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    backend_state: String,
    #[serde(rename = "AuthURL", default)]
    auth_url: String,
    #[serde(rename = "Self")]
    own: Machine,
    #[serde(default)]
    health: Vec<String>,
    peer: Option<BTreeMap<String, Machine>>,
    #[serde(rename = "User", default, deserialize_with = "or_default")]
    users: BTreeMap<String, User>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Machine {
    host_name: String,
    #[serde(rename = "DNSName")]
    dns_name: String,
    #[serde(rename = "OS")]
    os: String,
    #[serde(rename = "UserID")]
    user_id: i64,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(rename = "TailscaleIPs")]
    tailscale_ips: Option<Vec<IpAddr>>,
    cur_addr: String,
    relay: String,
    online: bool,
    active: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct User {
    #[serde(rename = "ID")]
    id: i64,
    login_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WhoIs {
    node: Node,
    user_profile: User,
    cap_map: Option<BTreeMap<String, Option<Vec<Box<serde_json::value::RawValue>>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    name: String,
    #[serde(rename = "StableID")]
    stable_id: String,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
}

/// Go writes what is missing as `null`.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl Machine {
    fn ips(&self) -> Vec<IpAddr> {
        self.tailscale_ips.clone().unwrap_or_default()
    }

    /// By its first label, its whole name or an address.
    fn is(&self, wanted: &str) -> bool {
        let name = self.dns_name.trim_end_matches('.');
        let label = name.split('.').next().unwrap_or_default();
        wanted.parse().is_ok_and(|ip| self.ips().contains(&ip))
            || wanted.trim_end_matches('.').eq_ignore_ascii_case(name)
            || wanted.eq_ignore_ascii_case(label)
    }

    fn row(&self, users: &BTreeMap<String, User>) -> [String; 5] {
        let name = self.dns_name.split('.').next().filter(|label| !label.is_empty());
        let owner = match self.tags.first() {
            Some(_) => self.tags.join(","),
            None => users
                .get(&self.user_id.to_string())
                .map_or_else(|| "-".to_owned(), |user| user.login_name.clone()),
        };
        let state = match (
            self.online,
            self.active,
            self.cur_addr.as_str(),
            self.relay.as_str(),
        ) {
            (false, ..) => "offline".to_owned(),
            (true, true, "", relay) => format!("active; relay {relay}"),
            (true, true, direct, _) => format!("active; direct {direct}"),
            (true, false, ..) => "-".to_owned(),
        };
        let ip = self
            .ips()
            .first()
            .map_or_else(|| "-".to_owned(), ToString::to_string);
        let name = name.unwrap_or(&self.host_name).to_owned();
        [ip, name, owner, self.os.clone(), state]
    }
}

/// Padded, two spaces between them.
fn columns(rows: &[[String; 5]]) -> String {
    let mut widths = [0; 5];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let line: String = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_gos_daemon_is_a_line_for_each_machine() {
        let status: Status = serde_json::from_str(
            r#"{"Version":"1.102.3","BackendState":"Running","AuthURL":"","Health":[],
              "Self":{"HostName":"me","DNSName":"me.t.ts.net.","OS":"linux","UserID":1,
                "TailscaleIPs":["100.64.0.1","fd7a::1"],"CurAddr":"","Relay":"fra","Online":true,"Active":false},
              "Peer":{"nodekey:1":{"HostName":"x","DNSName":"db.t.ts.net.","OS":"linux","UserID":2,"Tags":["tag:db"],
                "TailscaleIPs":["100.64.0.2"],"CurAddr":"192.0.2.1:41641","Relay":"fra","Online":true,"Active":true}},
              "User":{"1":{"ID":1,"LoginName":"a@example.com"}}}"#,
        )
        .unwrap();
        let peers = status.peer.unwrap();
        let rows = [
            status.own.row(&status.users),
            peers["nodekey:1"].row(&status.users),
        ];
        assert_eq!(
            columns(&rows),
            "100.64.0.1  me  a@example.com  linux  -\n\
             100.64.0.2  db  tag:db         linux  active; direct 192.0.2.1:41641\n"
        );
        for name in ["db", "DB.t.ts.net", "db.t.ts.net.", "100.64.0.2"] {
            assert!(peers["nodekey:1"].is(name), "{name}");
        }
        assert!(!peers["nodekey:1"].is("d"));
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named() {
        let ask = Ask {
            socket: "/nowhere/s".into(),
            json: false,
        };
        let error = format!("{:#}", status(&ask).await.unwrap_err());
        assert!(
            error.contains("/nowhere/s") && error.contains("TS_SOCKET"),
            "{error}"
        );
    }
}
