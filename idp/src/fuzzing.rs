//! What a fuzzer calls (`idp/fuzz`), and `cargo test` with the fuzzer's corpus: what has to hold whatever a client
//! or a browser sends. A target's name is its corpus's.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{Request, Response, header};
use jiff::Timestamp;

use crate::{
    Arrival, Client, Config, Identify, Issuer, Kind, Machine, Peer, Provider, User, identify::NodeId,
    store::MemoryStore,
};

struct Alice;

impl Identify for Alice {
    fn whois(&self, _: IpAddr, _: IpAddr) -> Option<Peer> {
        self.again(1)
    }

    fn again(&self, id: NodeId) -> Option<Peer> {
        Some(Peer {
            machine: Machine {
                id,
                ..Machine::default()
            },
            user: Some(User {
                login: "alice@example.com".to_owned(),
                ..User::default()
            }),
            capabilities: BTreeMap::new(),
        })
    }
}

const REDIRECTS: [&str; 2] = ["https://app.example.com/cb?x=1", "http://localhost/cb"];

static PROVIDER: LazyLock<Provider> = LazyLock::new(|| {
    let mut config = Config::new(Issuer::new("idp.example.ts.net", 443).expect("it is one"));
    config.token_exchange = true;
    let started = Provider::start(
        config,
        Arc::new(MemoryStore::default()),
        Arc::new(Alice),
        None,
        now(),
    );
    let provider = started
        .now_or_never()
        .expect("memory is there at once")
        .expect("memory is there");
    let client = Client {
        redirect_uris: REDIRECTS.map(str::to_owned).to_vec(),
        kind: Kind::Public,
        ..Client::default()
    };
    provider
        .config()
        .declared
        .replace([("app".to_owned(), client)].into());
    provider
});

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// The query of a request to the authorization endpoint: an answer, and never one that goes elsewhere than the
/// client has registered.
pub fn authorize_query(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(request) = Request::get(format!("/authorize?{query}")).body(Bytes::new()) else {
        return;
    };
    let answer = answer(request);
    if let Some(location) = answer.headers().get(header::LOCATION) {
        let location = location.to_str().expect("a URL is text");
        let loopback = location.strip_prefix("http://localhost").is_some_and(|rest| {
            let (port, _) = rest.split_once("/cb?").expect("the path is the registered one");
            port.is_empty()
                || port
                    .strip_prefix(':')
                    .is_some_and(|port| port.parse::<u16>().is_ok())
        });
        assert!(
            loopback || location.starts_with("https://app.example.com/cb?x=1&"),
            "{location}"
        );
        assert!(
            location.contains("iss=https%3A%2F%2Fidp.example.ts.net"),
            "{location}"
        );
    }
}

/// The form of a request to an endpoint for clients: an answer in JSON, and no token for what was made up.
pub fn token_form(data: &[u8]) {
    for path in [
        "/token",
        "/introspect",
        "/revoke",
        "/userinfo",
        "/consent",
        "/new",
    ] {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ORIGIN, "https://idp.example.ts.net")
            .body(Bytes::copy_from_slice(data));
        let answer = answer(request.expect("the parts are good"));
        if answer.headers()[header::CONTENT_TYPE] == "application/json" {
            let json: serde_json::Value = serde_json::from_slice(answer.body()).expect("JSON");
            assert!(
                json.get("access_token").is_none() && json["active"] != true,
                "{json}"
            );
        }
    }
}

/// Credentials in a header, read with whatever form.
pub fn authorization_header(data: &[u8]) {
    let Ok(value) = http::HeaderValue::from_bytes(data) else {
        return;
    };
    for path in ["/token", "/userinfo"] {
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::AUTHORIZATION, value.clone())
            .body(Bytes::from_static(b"grant_type=refresh_token&refresh_token=x"));
        let answer = answer(request.expect("the parts are good"));
        assert!(answer.status().is_client_error(), "{}", answer.status());
    }
}

fn answer(request: Request<Bytes>) -> Response<Bytes> {
    let arrival = Arrival::Tailnet {
        peer: [100, 64, 0, 1].into(),
        local: [100, 64, 0, 2].into(),
    };
    let answer = PROVIDER.handle(arrival, request, now()).now_or_never();
    let answer = answer.expect("memory is there at once");
    assert!(!answer.status().is_server_error(), "{}", answer.status());
    answer
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 3] = [
        ("authorization_header", authorization_header),
        ("authorize_query", authorize_query),
        ("token_form", token_form),
    ];

    #[test]
    fn everything_in_the_corpora_is_borne() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let files = fs::read_dir(corpora.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
            assert!(!files.is_empty(), "{name}: the corpus is empty");
            for file in files {
                println!("{}", file.display());
                target(&fs::read(file).unwrap());
            }
        }
        assert_eq!(fs::read_dir(corpora).unwrap().count(), TARGETS.len());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_borne(text in "[ -~]{0,200}") {
            for (_, target) in TARGETS {
                target(text.as_bytes());
            }
        }

        /// Parameters that are nearly right get further.
        #[test]
        fn any_redirect_is_borne(uri in "(https?|app)://(localhost|app.example.com|[a-z@:.]{1,20})(:[0-9]{1,6})?/cb[?x=1#&]{0,5}") {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs([("response_type", "code"), ("client_id", "app"), ("redirect_uri", &uri)]);
            authorize_query(query.finish().as_bytes());
        }
    }
}
