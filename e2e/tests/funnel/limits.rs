//! How often anybody may come, from the internet and from the tailnet.

use anyhow::{Result, ensure};
use postern_e2e::client::Fetch;
use postern_e2e::wait;

use super::keys::{NEW, OLD, secret};
use super::{Edge, SAID, head, said};
use crate::space::{Space, url};

pub(super) fn hold(space: &Space<'_>) -> Result<()> {
    space.deploy("app")?;
    let name = space.name("lim");
    let edge = Edge::start(space)?;
    secret(space, "keys", &[("one", OLD), ("two", NEW)])?;
    space.cluster().apply(&format!(
        "{}  rules:
  - backend: {{ service: {{ name: app, port: 80 }} }}
    limits: {{ perUser: {{ requestsPerMinute: 3 }} }}
  - path: {{ value: /slow }}
    backend: {{ service: {{ name: app, port: 80 }} }}
    rewrite: {{ replacePrefix: /stream }}
    limits: {{ perUser: {{ concurrent: 1 }} }}
  funnel:
    rules: [/]
    sources: [127.0.0.0/30]
    auth: {{ bearerKeys: {{ secretRef: {{ name: keys }} }} }}
    limits: {{ perKey: {{ requestsPerMinute: 2 }}, perAddress: {{ requestsPerMinute: 4 }} }}
",
        head(space, &name)
    ))?;
    said(space, &name, "Ready", "Ready", "")?;
    let ask = |from: &str, key: &str| {
        let header = format!("Authorization: Bearer {key}");
        edge.ask(space, from, &name, "/", &[&header], None)
    };
    // Who isn't let in uses nothing up.
    let stranger = wait::until("an answer through the edge", SAID, || ask("127.0.0.9", OLD))?;
    ensure!(stranger.status == 403, "{}", stranger.text);
    for (from, key, wanted) in [
        ("127.0.0.1", OLD, 200),
        ("127.0.0.1", OLD, 200),
        ("127.0.0.1", OLD, 429),
        // Another address changes nothing for the key, nor a key for the address.
        ("127.0.0.2", OLD, 429),
        ("127.0.0.1", NEW, 200),
        ("127.0.0.1", NEW, 429),
        ("127.0.0.2", NEW, 200),
    ] {
        let answer = ask(from, key)?;
        ensure!(
            answer.status == wanted,
            "{key} from {from}, wanted {wanted}: {}",
            answer.text
        );
        let after = answer.text.to_ascii_lowercase().contains("\nretry-after: ");
        ensure!(after == (wanted == 429), "{}", answer.text);
    }

    let on_tailnet = |user: &str, key: &str| {
        let fetch = Fetch::get(user, url(&name));
        match key {
            "" => fetch.send(),
            key => fetch.header("Authorization", &format!("Bearer {key}")).send(),
        }
    };
    let mut spent = 0;
    while on_tailnet("carol", "")?.status == 200 {
        spent += 1;
        ensure!(spent < 20, "carol has no limit");
    }
    ensure!(spent >= 3, "carol had {spent}");
    let refused = on_tailnet("carol", "")?;
    ensure!(
        refused.status == 429 && !refused.header("Retry-After").is_empty(),
        "{refused:?}"
    );
    // The other user is another matter, but not with a key that is used up.
    ensure!(
        on_tailnet("bob", NEW)?.status == 429,
        "the key holds on the tailnet"
    );
    ensure!(on_tailnet("bob", "")?.status == 200, "bob pays for others");

    at_once(&name)
}

/// One request at a time: the second is refused while the first one's answer goes on, and let in after it.
fn at_once(name: &str) -> Result<()> {
    let slow = |ms: u32, n: u32| Fetch::get("alice", format!("{}/slow?n={n}&ms={ms}", url(name)));
    std::thread::scope(|scope| {
        // It may itself come while one of the others runs.
        let first = scope.spawn(|| {
            wait::until("the first to be let in", SAID, || {
                let first = slow(1000, 8).send()?;
                ensure!(first.status == 200, "status {}", first.status);
                Ok(first)
            })
        });
        let refused = wait::until("the second to be refused", SAID, || {
            let second = slow(1, 1).send()?;
            ensure!(second.status == 429, "status {}", second.status);
            Ok(second)
        });
        first.join().map_err(|_| anyhow::anyhow!("it panicked"))??;
        ensure!(refused?.header("Retry-After") == ["1"], "no Retry-After");
        wait::until("the next to be let in", SAID, || {
            ensure!(slow(1, 1).send()?.status == 200, "not yet");
            Ok(())
        })
    })
}
