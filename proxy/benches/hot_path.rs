//! What the proxy does with a request, in pieces and whole, in memory. `cargo bench -p postern-proxy`

#[path = "../../node/benches/measure/mod.rs"]
mod measure;
mod served;

use http::{HeaderMap, HeaderValue, Request, header, request};
use measure::Case;
use postern_proxy::{
    http::{Caller, forwarded, guard, hop_by_hop, owned},
    route::{Host, Path, Table},
};
use postern_proxy_config::group::{self, IdentityHeaders};
use serde_json::json;
use served::{FQDN, PEER, Served};

const CASES: &[Case] = &[
    Case::new("a GET that the proxy answers itself", REQUESTS, || {
        exchange(false, false)
    }),
    Case::new("a GET to a backend, both included", REQUESTS, || {
        exchange(false, true)
    }),
    Case::new("a GET to a backend, with TLS, both ends", REQUESTS, || {
        exchange(true, true)
    }),
    Case::new("guard, and fields stripped and set", 1, fields),
    Case::new("route among 100 hosts with 10 paths", 1, routing),
];

/// In a run.
const REQUESTS: u64 = 100;

fn main() {
    measure::main();
}

/// On one connection, one after the other.
fn exchange(tls: bool, backend: bool) -> Box<dyn FnMut()> {
    let mut served = Served::start(tls, backend);
    Box::new(move || {
        for _ in 0..REQUESTS {
            served.get();
        }
    })
}

/// As a browser sends it.
fn head() -> request::Parts {
    let request = Request::get("/wiki/page?action=view")
        .header(header::HOST, FQDN)
        .header(
            header::USER_AGENT,
            "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        )
        .header(
            header::ACCEPT,
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        )
        .header(header::ACCEPT_LANGUAGE, "en-GB,en;q=0.5")
        .header(header::ACCEPT_ENCODING, "gzip, deflate, br, zstd")
        .header(header::CONNECTION, "keep-alive")
        .header(header::COOKIE, "session=0123456789abcdef; theme=dark");
    request.body(()).expect("a request").into_parts().0
}

fn fields() -> Box<dyn FnMut()> {
    let head = head();
    let caller = Caller::new(PEER.ip(), Some(served::alice()));
    Box::new(move || {
        let admitted = guard::check(&head).expect("it is a good one");
        let mut headers: HeaderMap<HeaderValue> = head.headers.clone();
        let passages = forwarded::passages(&headers);
        hop_by_hop::strip_request(&mut headers);
        owned::strip(&mut headers);
        caller.set_headers(&mut headers, IdentityHeaders::Tailscale, &[]);
        forwarded::set(&mut headers, PEER.ip(), &admitted.authority, true);
        forwarded::mark(&mut headers, passages);
        assert_eq!(headers["tailscale-user-login"], "alice@example.com");
    })
}

fn routing() -> Box<dyn FnMut()> {
    let routes: Vec<group::Route> = (0..1000)
        .map(|number| {
            let route = json!({
                "host": format!("app-{}.example.ts.net", number / 10),
                "path": {"type": "prefix", "value": format!("/part-{}/v1", number % 10)},
                "backend": {"type": "text", "text": ""},
            });
            serde_json::from_value(route).expect("a route")
        })
        .collect();
    let table = Table::compile(&routes).expect("routes");
    Box::new(move || {
        let host = Host::parse("app-70.example.ts.net").expect("a host");
        let path = Path::parse("/part-7/v1/users/12").expect("a path");
        let route = table.find(&host, &path).expect("a route");
        assert!(route.label.starts_with("app-70"));
    })
}
