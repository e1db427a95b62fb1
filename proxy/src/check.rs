//! `check FILE`: what a configuration would do, without doing it.

use std::fmt::Write;

use anyhow::{Context, bail};
use postern_proxy_config::{
    funnel::Funnel,
    group::{Backend, Http, Listener, PathMatch, Protocol, Route, Scheme, Tcp},
    serve::{self, CERT_DOMAIN, Serve},
};

use crate::{args::Check, serve::Plan, standalone};

/// A line for each route, and what has no effect.
///
/// # Errors
/// Names the field that can't be used.
pub fn check(args: &Check) -> anyhow::Result<String> {
    let file = args.file.display();
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("read {file}"))?;
    let is_own =
        serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|json| json.get("format").is_some());
    let mut out = String::new();
    if is_own {
        let names = match standalone::own(&text) {
            Ok(names) => names,
            Err(reason) => bail!("{file}: {reason}"),
        };
        for (key, spec) in names {
            Plan::new(&spec.name).with_context(|| format!("{file}: names[{key:?}]"))?;
            writeln!(out, "{key}")?;
            listeners(&mut out, &spec.name.listeners)?;
            funnel(&mut out, spec.name.funnel.as_ref())?;
        }
    } else {
        let Serve {
            listeners: own,
            services,
            funnel: on_funnel,
            warnings,
        } = serve::parse(&text).with_context(|| format!("{file}"))?;
        Plan::within_tailnet(&own).with_context(|| format!("{file}"))?;
        writeln!(out, "the node")?;
        listeners(&mut out, &own)?;
        for (name, of_service) in services {
            Plan::within_tailnet(&of_service).with_context(|| format!("{file}: Services[{name:?}]"))?;
            writeln!(out, "{name}")?;
            listeners(&mut out, &of_service)?;
        }
        for (port, hosts) in on_funnel {
            let hosts: Vec<&str> = hosts.iter().map(|host| shown(host)).collect();
            writeln!(out, "on Funnel: port {port} of {}", hosts.join(", "))?;
        }
        for warning in warnings {
            writeln!(out, "warning: {warning}")?;
        }
    }
    Ok(out)
}

fn listeners(out: &mut String, listeners: &[Listener]) -> std::fmt::Result {
    for Listener { port, protocol } in listeners {
        match protocol {
            Protocol::Https(http) => routes(out, &format!("https {port}"), http)?,
            Protocol::Http(http) => routes(out, &format!("http {port}"), http)?,
            Protocol::RedirectToHttps { port: to } => writeln!(out, "  http {port} -> https {to}")?,
            Protocol::Tcp(Tcp { backend, .. }) => writeln!(out, "  tcp {port} -> {}", bytes(backend))?,
            Protocol::TlsTerminatedTcp(Tcp { backend, .. }) => {
                writeln!(out, "  tls {port} -> {}", bytes(backend))?;
            }
            Protocol::IdentityProvider(_) => writeln!(out, "  https {port} -> identity provider")?,
        }
    }
    Ok(())
}

fn funnel(out: &mut String, funnel: Option<&Funnel>) -> std::fmt::Result {
    let Some(funnel) = funnel else { return Ok(()) };
    let ports: Vec<String> = funnel.ports.iter().map(ToString::to_string).collect();
    let key = if funnel.keys.is_some() { ", with a key" } else { "" };
    let sources: Vec<String> = funnel.sources.iter().map(ToString::to_string).collect();
    let from = match sources.as_slice() {
        [] => "everywhere".to_owned(),
        some => some.join(", "),
    };
    writeln!(out, "  on Funnel: port {} from {from}{key}", ports.join(", "))
}

fn routes(out: &mut String, place: &str, http: &Http) -> std::fmt::Result {
    for Route {
        host, path, backend, ..
    } in &http.routes
    {
        let host = host.as_deref().map_or("", shown);
        let path = match path {
            PathMatch::Prefix(path) => format!("{}/*", path.trim_end_matches('/')),
            PathMatch::Exact(path) => path.clone(),
        };
        writeln!(out, "  {place} {host}{path} -> {}", target(backend))?;
    }
    Ok(())
}

/// The own domain is known when the node is on the tailnet.
fn shown(host: &str) -> &str {
    if host == CERT_DOMAIN {
        "its own domain"
    } else {
        host
    }
}

/// Of an address bytes have no scheme.
fn bytes(backend: &Backend) -> String {
    match backend {
        Backend::Address { address, .. } => address.clone(),
        other => target(other),
    }
}

fn target(backend: &Backend) -> String {
    match backend {
        Backend::Service { key, .. } => key.clone(),
        Backend::Address {
            address,
            scheme,
            path,
        } => {
            let scheme = match scheme {
                Scheme::Http => "http",
                Scheme::H2c => "h2c",
                Scheme::Https => "https",
                Scheme::HttpsInsecure => "https+insecure",
            };
            format!("{scheme}://{address}{path}")
        }
        Backend::Unix { path } => format!("unix:{path}"),
        Backend::Files { path } => path.clone(),
        Backend::Text { text } => format!("text {text:?}"),
        Backend::Redirect { status, location } => format!("{status} {location}"),
        Backend::Unavailable { reason } => format!("nothing ({reason})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_or_refused_by_field() {
        let dir = tempfile::tempdir().unwrap();
        let run = |text: &str| {
            let file = dir.path().join("serve.json");
            std::fs::write(&file, text).unwrap();
            check(&Check { file }).map_err(|e| format!("{e:#}"))
        };
        let told = run(
            r#"{"TCP":{"443":{"HTTPS":true},"5432":{"TCPForward":"localhost:5432"}},
            "Web":{"${TS_CERT_DOMAIN}:443":{"Handlers":{"/":{"Proxy":"3000"},"/t":{"Text":"hi"}}},
                   "${TS_CERT_DOMAIN}:80":{"Handlers":{"/":{"Text":"x"}}}},
            "AllowFunnel":{"${TS_CERT_DOMAIN}:443":true}}"#,
        )
        .unwrap();
        for line in [
            "https 443 its own domain/* -> http://127.0.0.1:3000",
            "https 443 its own domain/t/* -> text \"hi\"",
            "tcp 5432 -> localhost:5432",
            "on Funnel: port 443 of its own domain",
            "warning: Web of port 80",
        ] {
            assert!(told.contains(line), "{line} is missing in\n{told}");
        }
        assert!(run(r#"{"TCP":{"x":{}}}"#).unwrap_err().contains(r#"TCP["x"]"#));
        let service = r#"{"Services":{"svc:web":{"TCP":{"80":{"HTTP":true}},
            "Web":{"HOST:80":{"Handlers":{"/a":{"Text":"x"}}}}}}}"#;
        let told = run(&service.replace("HOST", "web.x.ts.net")).unwrap();
        assert!(
            told.contains("svc:web\n  http 80 web.x.ts.net/a/* -> text"),
            "{told}"
        );
        // What could not be served is not told.
        let refused = run(&service.replace("HOST", "web.x y")).unwrap_err();
        assert!(
            refused.contains(r#"Services["svc:web"]: listeners[0].routes[0].host"#),
            "{refused}"
        );
        let public = r#"{"format":1,"tailnet":{"controlUrl":"http://c"},"names":{"app":{
            "owner":{"kind":"File","namespace":"","name":"app","uid":""},"generation":1,
            "node":{"hostname":"app","state":{"name":"s"}},"funnel":{"ports":[443],"sources":["192.0.2.0/24"]},
            "listeners":[{"port":443,"protocol":{"type":"https","routes":[]}}]}}}"#;
        let told = run(public).unwrap();
        assert!(told.contains("on Funnel: port 443 from 192.0.2.0/24\n"), "{told}");
        let own = r#"{"format":1,"tailnet":{"controlUrl":"http://c","typo":1},"names":{}}"#;
        assert!(run(own).unwrap_err().contains(".tailnet.typo"));
    }
}
