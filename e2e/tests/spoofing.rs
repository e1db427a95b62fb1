//! A client cannot set what we say about it, in any form that a request has.

use anyhow::{Context, Result, ensure};
use postern_e2e::client::{Fetch, Fetched};
use postern_e2e::lab::DOMAIN;

use crate::runner::Test;
use crate::space::Space;

pub(crate) const TESTS: &[Test] = &[
    Test::beside("forged_identity_headers_never_reach_the_app", forged),
    Test::beside("a_connection_header_takes_no_identity_away", connection),
];

/// What marks a forged value.
const EVIL: &str = "evil@example.com";

const OWNED: &[&str] = &[
    "Tailscale-User-Login",
    "Tailscale-User-Name",
    "Tailscale-User-Profile-Pic",
    "Tailscale-Headers-Info",
    "Tailscale-Funnel-Request",
    "Tailscale-App-Capabilities",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
];

fn forged(space: &Space<'_>) -> Result<()> {
    let (name, url) = space.app()?;
    let host = format!("{name}.{DOMAIN}");
    let mut refused = 0;
    let mut tried = 0;
    for user in ["alice", "tagged"] {
        let mut requests = Vec::new();
        for header in OWNED {
            for form in forms(header) {
                let raw =
                    format!("GET /x HTTP/1.1\r\nHost: {host}\r\n{form}: {EVIL}\r\nConnection: close\r\n\r\n");
                requests.push(Fetch {
                    proto: "raw".into(),
                    raw,
                    ..Fetch::get(user, &url)
                });
                // Go's client sends HTTP/2 names in lower case, whatever is asked for.
                if form.contains('\r') {
                    continue;
                }
                let h2 = Fetch {
                    proto: "h2".into(),
                    ..Fetch::get(user, format!("{url}/x"))
                };
                requests.push(h2.header(&form, EVIL).header(&form, EVIL));
            }
            let trailer = (header.to_string(), EVIL.to_owned());
            for proto in ["h1", "h2"] {
                requests.push(Fetch {
                    proto: proto.into(),
                    method: "POST".into(),
                    body: "body".into(),
                    trailers: vec![trailer.clone()],
                    ..Fetch::get(user, format!("{url}/x"))
                });
            }
        }
        for request in requests {
            let fetched = request.send().with_context(|| format!("{request:?}"))?;
            tried += 1;
            if clean(&request, &fetched)? {
                refused += 1;
            }
        }
    }
    space.note(format!("{tried} forgeries, {refused} refused outright"));
    Ok(())
}

/// Casings, duplicates and what CGI folds into the same variable.
fn forms(header: &str) -> Vec<String> {
    let folded = header.to_ascii_lowercase();
    vec![
        header.to_owned(),
        folded.clone(),
        header.to_ascii_uppercase(),
        header.replace('-', "_"),
        folded.replacen('-', "_", 1),
        folded.replace('-', "."),
        format!("{header}: first\r\n{header}"),
    ]
    .into_iter()
    .filter(|form| !form.contains('\r') || header.starts_with("Tailscale-User"))
    .collect()
}

/// True where the request was refused; an error where the forgery came through.
fn clean(request: &Fetch, fetched: &Fetched) -> Result<bool> {
    if (400..500).contains(&fetched.status) {
        return Ok(true);
    }
    let seen = fetched.seen().with_context(|| format!("{request:?}"))?;
    let through = serde_json::to_string(&seen.headers)? + &serde_json::to_string(&seen.trailers)?;
    ensure!(
        !through.contains(EVIL) && !through.contains("first"),
        "{request:?} brought {through} to the app"
    );
    Ok(false)
}

fn connection(space: &Space<'_>) -> Result<()> {
    let (name, url) = space.app()?;
    for lines in [
        "Connection: close, Tailscale-User-Login\r\n",
        "Connection: tailscale-user-login\r\nConnection: close\r\n",
        "Connection: close\r\nConnection: X-Forwarded-For, TAILSCALE-USER-LOGIN\r\n",
        "Connection: close, x-mine\r\nX-Mine: secret\r\nKeep-Alive: 5\r\n",
    ] {
        let raw = format!("GET /x HTTP/1.1\r\nHost: {name}.{DOMAIN}\r\n{lines}\r\n");
        let seen = Fetch {
            proto: "raw".into(),
            raw,
            ..Fetch::get("alice", &url)
        }
        .send()?
        .seen()?;
        ensure!(
            seen.header("Tailscale-User-Login") == ["alice@example.com"],
            "{lines:?} led to {:?}",
            seen.headers
        );
        ensure!(
            seen.header("X-Forwarded-For").len() == 1,
            "{lines:?} led to {:?}",
            seen.headers
        );
        for gone in ["X-Mine", "Keep-Alive", "Connection"] {
            ensure!(
                seen.header(gone).is_empty(),
                "{lines:?} left {gone}: {:?}",
                seen.headers
            );
        }
    }
    Ok(())
}
