//! Locks and limits: who gets in from the internet, and how often anybody may come.

use postern_proxy_config::keys::Keys;
use serde_json::{Value, json};

use crate::{
    backend::{Recorder, everything_to},
    front::{FQDN, FUNNEL, Front},
    funnel::{get, opened, public},
};

const INTERNET: u16 = 443 + FUNNEL;
const OLD: &str = "sk-old-0123456789";
const NEW: &str = "sk-new-0123456789";

fn keys(bearer: &[(&str, &str)], basic: &[(&str, &str)]) -> Keys {
    let (keys, errors) = Keys::new(
        "salt",
        bearer.iter().map(|(name, value)| (*name, value.as_bytes())),
        basic.iter().map(|(name, value)| (*name, value.as_bytes())),
    );
    assert_eq!(errors, []);
    keys
}

/// Locked by the keys of the Secret `lock`.
fn locked(backend: &Recorder, revision: &str, limits: Value) -> Value {
    json!({
        "listeners": public(backend),
        "funnel": {"ports": [443], "keys": {"name": "lock", "revision": revision}, "limits": limits},
    })
}

async fn ask(front: &Front, port: u16, authorization: &str) -> (u16, String) {
    let more = match authorization {
        "" => String::new(),
        value => format!("Authorization: {value}\r\n"),
    };
    let answer = get(front, port, FQDN, FQDN, &more).await;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.unwrap_or_default(), answer.to_ascii_lowercase())
}

async fn status(front: &Front, port: u16, authorization: &str) -> u16 {
    ask(front, port, authorization).await.0
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

#[tokio::test]
async fn a_key_opens_and_is_not_told_to_the_backend() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let backend = Recorder::start().await;
    let front = Front::start();
    front.nodes.user("alice@example.com", "Alice", "", &[]);
    let both = keys(&[("ci", OLD)], &[("bob", "correct horse")]);
    front.nodes.keys.lock().insert("lock".into(), both);
    front.set_app(locked(&backend, "1", json!({})), 1);
    opened(&front, 1).await;

    let (code, answer) = ask(&front, INTERNET, "").await;
    assert_eq!(code, 401);
    for scheme in ["www-authenticate: bearer", "www-authenticate: basic realm="] {
        assert!(answer.contains(scheme), "{answer}");
    }
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    for wrong in [
        bearer("sk-old-0123456788"),
        basic("bob:wrong horse"),
        basic(OLD),
        "x".into(),
    ] {
        assert_eq!(status(&front, INTERNET, &wrong).await, 401, "{wrong}");
    }
    assert_eq!(backend.seen().len(), 0);
    for right in [bearer(OLD), basic("bob:correct horse")] {
        assert_eq!(status(&front, INTERNET, &right).await, 200, "{right}");
        let seen = backend.last();
        assert_eq!(seen.header("authorization"), None);
        assert_eq!(seen.header("tailscale-funnel-request"), Some("?1"));
        assert_eq!(seen.header("tailscale-user-login"), None);
    }
    // On the tailnet no key is needed. Ours is taken out there too; what isn't ours is the application's.
    for (given, kept) in [
        ("", None),
        (&*bearer(OLD), None),
        ("Bearer theirs", Some("Bearer theirs")),
    ] {
        assert_eq!(status(&front, 443, given).await, 200);
        let seen = backend.last();
        assert_eq!(seen.header("authorization"), kept);
        assert_eq!(seen.header("tailscale-user-login"), Some("alice@example.com"));
    }
}

#[tokio::test]
async fn keys_change_over_without_a_gap() {
    let backend = Recorder::start().await;
    let front = Front::start();
    let set = |keys: Option<Keys>, revision: &str, generation| {
        match keys {
            Some(keys) => front.nodes.keys.lock().insert("lock".into(), keys),
            None => front.nodes.keys.lock().remove("lock"),
        };
        front.set_app(locked(&backend, revision, json!({})), generation);
    };
    let try_until = async |key: &str, wanted: u16| {
        let waiting = async {
            while status(&front, INTERNET, &bearer(key)).await != wanted {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(crate::front::WAIT, waiting)
            .await
            .expect("the keys are taken");
    };
    // Nobody gets in before the keys are there.
    set(None, "0", 1);
    opened(&front, 1).await;
    assert_eq!(status(&front, INTERNET, &bearer(OLD)).await, 503);
    front.report(|r| r.reason.contains("lock")).await;
    set(Some(keys(&[("ci", OLD)], &[])), "1", 2);
    try_until(OLD, 200).await;
    set(Some(keys(&[("ci", &format!("{OLD}\n{NEW}"))], &[])), "2", 3);
    try_until(NEW, 200).await;
    assert_eq!(status(&front, INTERNET, &bearer(OLD)).await, 200);
    // What can't be read leaves what was.
    set(None, "3", 4);
    front.report(|r| r.reason.contains("lock")).await;
    assert_eq!(status(&front, INTERNET, &bearer(NEW)).await, 200);
    set(Some(keys(&[("ci", NEW)], &[])), "4", 5);
    try_until(OLD, 401).await;
    assert_eq!(status(&front, INTERNET, &bearer(NEW)).await, 200);
}

#[tokio::test]
async fn wrong_keys_are_counted_before_they_are_looked_at() {
    let backend = Recorder::start().await;
    let front = Front::start();
    front
        .nodes
        .keys
        .lock()
        .insert("lock".into(), keys(&[("ci", OLD)], &[]));
    front.set_app(locked(&backend, "1", json!({})), 1);
    opened(&front, 1).await;
    // Right ones cost nothing.
    for _ in 0..30 {
        assert_eq!(status(&front, INTERNET, &bearer(OLD)).await, 200);
    }
    let mut refused = 0;
    while status(&front, INTERNET, "Bearer guess").await == 401 {
        refused += 1;
        assert!(refused < 100, "guessing goes on");
    }
    assert!(refused >= 20, "{refused}");
    let (code, answer) = ask(&front, INTERNET, &bearer(OLD)).await;
    assert!(code == 429 && answer.contains("retry-after: "), "{answer}");
    // The tailnet is not concerned.
    assert_eq!(status(&front, 443, &bearer(OLD)).await, 200);
}

#[tokio::test]
async fn sources_are_a_lock() {
    let backend = Recorder::start().await;
    let front = Front::start();
    for (generation, sources, wanted) in [(1, "203.0.113.0/24", 200), (2, "198.51.100.0/24", 403)] {
        let funnel = json!({"ports": [443], "sources": [sources]});
        front.set_app(
            json!({"listeners": public(&backend), "funnel": funnel}),
            generation,
        );
        opened(&front, generation).await;
        assert_eq!(status(&front, INTERNET, "").await, wanted, "{sources}");
        // Without keys `Authorization` is the application's.
        assert_eq!(status(&front, INTERNET, "Bearer theirs").await, wanted);
    }
    assert_eq!(backend.last().header("authorization"), Some("Bearer theirs"));
}

#[tokio::test]
async fn keys_addresses_and_users_have_their_rates() {
    let backend = Recorder::start().await;
    let front = Front::start();
    let two = keys(&[("ci", OLD), ("laptop", NEW)], &[]);
    front.nodes.keys.lock().insert("lock".into(), two);
    let limits = json!({"perKey": {"requestsPerMinute": 2}, "perAddress": {"requestsPerMinute": 6}});
    let mut app = locked(&backend, "1", limits);
    app["listeners"][1]["protocol"]["routes"][0]["limits"] = json!({"perUser": {"requestsPerMinute": 3}});
    front.set_app(app, 1);
    opened(&front, 1).await;
    let asked = async |port, key: &str| ask(&front, port, key).await;
    for (key, wanted) in [
        (OLD, 200),
        (OLD, 200),
        (OLD, 429),
        (NEW, 200),
        (NEW, 200),
        (NEW, 429),
    ] {
        let (code, answer) = asked(INTERNET, &bearer(key)).await;
        assert_eq!(code, wanted, "{key}");
        if wanted == 429 {
            let wait = answer
                .split("retry-after: ")
                .nth(1)
                .unwrap()
                .split('\r')
                .next()
                .unwrap();
            assert!((1..=30).contains(&wait.parse::<u32>().unwrap()), "{wait}");
        }
    }
    // Six of this address were that.
    assert_eq!(status(&front, INTERNET, "").await, 429);
    // Users have their own, and a key that is used up is so from the tailnet too.
    front.nodes.user("alice@example.com", "Alice", "", &[]);
    assert_eq!(status(&front, 443, &bearer(OLD)).await, 429);
    assert_eq!(status(&front, 443, "").await, 200);
    assert_eq!(status(&front, 443, "").await, 200);
    assert_eq!(status(&front, 443, "").await, 429);
    front.nodes.user("bob@example.com", "Bob", "", &[]);
    assert_eq!(status(&front, 443, "").await, 200);
    // The redirect of port 80 and other routes have no limit.
    assert!(front.get(80, "/").await.contains(" 200 "));
}

#[tokio::test]
async fn what_runs_counts_until_its_answer_has_ended() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (frames, receiver) = tokio::sync::mpsc::channel(1);
    let addr = crate::streams::producing("application/x-ndjson", receiver).await;
    let mut listeners = everything_to(&crate::backend::address(addr));
    listeners[1]["protocol"]["routes"][0]["limits"] = json!({"perUser": {"concurrent": 1}});
    let front = Front::serving(listeners).await;
    front.nodes.user("alice@example.com", "Alice", "", &[]);
    let mut running = front.tls(443, FQDN, &["http/1.1"]).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {FQDN}\r\nConnection: close\r\n\r\n");
    running.write_all(request.as_bytes()).await.unwrap();
    frames.send(crate::streams::data("{}\n")).await.unwrap();
    let mut buffer = [0; 1024];
    assert!(running.read(&mut buffer).await.unwrap() > 0);
    let (code, answer) = ask(&front, 443, "").await;
    assert!(code == 429 && answer.contains("retry-after: 1\r"), "{answer}");
    // The backend ends with the one answer that it gives, so what is let in then finds none.
    drop(running);
    let waiting = async {
        while status(&front, 443, "").await == 429 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::front::WAIT, waiting)
        .await
        .expect("it has ended");
}
