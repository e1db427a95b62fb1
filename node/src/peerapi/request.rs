//! A request to the PeerAPI, and what is to be done about it. Pure.

use std::net::{IpAddr, SocketAddr};

/// The head of a request may be this long, in bytes.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// What matters of a request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    method: String,
    /// Without the query.
    path: String,
    host: String,
    /// A browser's request on behalf of some page.
    from_page: bool,
    source: String,
    target: String,
    /// Of the head, in bytes; what follows is the stream.
    pub(crate) len: usize,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    /// The user's display name.
    pub(crate) name: &'a str,
    /// The device's full name.
    pub(crate) device: &'a str,
    /// Our own addresses.
    pub(crate) own: &'a [IpAddr],
    /// Control grants it to bring us connections from the internet.
    pub(crate) may_ingress: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answer, and that is all.
    Answer(Answer),
    /// Switch to the stream of a connection from the internet, if somebody listens for it.
    Ingress(Ingress),
}

/// Where a connection comes from and goes to, as the ingress node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ingress {
    /// The client on the internet.
    pub(crate) client: SocketAddr,
    /// The name that it asked for.
    pub(crate) host: String,
    /// The port that it asked for.
    pub(crate) port: u16,
}

/// A short answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Reads a head; `None` when more bytes are needed.
pub(crate) fn parse(bytes: &[u8]) -> Option<Result<Request, Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len <= MAX_HEAD => len,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return None,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Some(Err(Answer::new(431, "request header too large")));
        }
        Err(_) => return Some(Err(Answer::new(400, "bad request"))),
    };
    // As Go's `Header.Get`: the first of several.
    let get = |name: &str| {
        let found = head.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).trim().to_owned())
    };
    let hosts = head
        .headers
        .iter()
        .filter(|h| h.name.eq_ignore_ascii_case("host"));
    if hosts.count() != 1 {
        return Some(Err(Answer::new(400, "exactly one Host header is needed")));
    }
    let path = head.path.unwrap_or_default();
    Some(Ok(Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: path.split('?').next().unwrap_or_default().to_owned(),
        host: get("host").unwrap_or_default(),
        from_page: ["referer", "origin"]
            .iter()
            .any(|name| get(name).is_some_and(|value| !value.is_empty())),
        source: get("tailscale-ingress-src").unwrap_or_default(),
        target: get("tailscale-ingress-target").unwrap_or_default(),
        len,
    }))
}

/// Decides, in Go's order (`peerAPIHandler.ServeHTTP`, `handleServeIngress`).
pub(crate) fn judge(request: &Request, caller: &Caller<'_>) -> Verdict {
    let is_own = |addr: SocketAddr| caller.own.contains(&addr.ip());
    let for_us = request.host == "peer" || request.host.parse().is_ok_and(is_own);
    if request.from_page || !for_us {
        return Answer::new(403, "invalid peerapi request").into();
    }
    match request.path.as_str() {
        "/v0/ingress" => ingress(request, caller).map_or_else(Verdict::Answer, Verdict::Ingress),
        "/" => Answer::new(
            200,
            format!(
                "Hello, {}. This is a device of the tailnet; yours is {}.",
                caller.name, caller.device
            ),
        )
        .into(),
        _ => Answer::new(404, "unsupported peerapi path").into(),
    }
}

fn ingress(request: &Request, caller: &Caller<'_>) -> Result<Ingress, Answer> {
    if !caller.may_ingress {
        return Err(Answer::new(403, "denied; no ingress cap"));
    }
    if request.method != "POST" {
        return Err(Answer::new(405, "only POST allowed"));
    }
    let bad = |what: &str| Answer::new(400, what);
    if request.source.is_empty() {
        return Err(bad("Tailscale-Ingress-Src header not set"));
    }
    let client = request
        .source
        .parse()
        .map_err(|_| bad("Tailscale-Ingress-Src header invalid; want ip:port"))?;
    if request.target.is_empty() {
        return Err(bad("Tailscale-Ingress-Target header not set"));
    }
    let target = request.target.rsplit_once(':');
    let target = target.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    let (host, port) = target
        .filter(|(host, _)| !host.contains([':', '[', ']']))
        .ok_or_else(|| bad("Tailscale-Ingress-Target header invalid; want host:port"))?;
    Ok(Ingress { client, host, port })
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            body: body.into(),
        }
    }

    /// The whole answer; the connection ends with it. Browsers are to show it as text and nothing else.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let reason = http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or_default();
        format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{}\n",
            self.status,
            self.body.len() + 1,
            self.body
        )
        .into_bytes()
    }
}

impl From<Answer> for Verdict {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: [IpAddr; 2] = [
        IpAddr::V4(std::net::Ipv4Addr::new(100, 64, 0, 1)),
        IpAddr::V6(std::net::Ipv6Addr::new(0xfd7a, 0, 0, 0, 0, 0, 0, 1)),
    ];

    fn ask(text: &str, may_ingress: bool) -> Verdict {
        let caller = Caller {
            name: "Ann",
            device: "edge.example.ts.net",
            own: &OWN,
            may_ingress,
        };
        match parse(text.as_bytes()).expect("a whole head") {
            Ok(request) => judge(&request, &caller),
            Err(answer) => answer.into(),
        }
    }

    fn status(text: &str) -> u16 {
        match ask(text, true) {
            Verdict::Answer(answer) => answer.status,
            Verdict::Ingress(_) => 101,
        }
    }

    const GOOD: &str = "POST /v0/ingress HTTP/1.1\r\nHost: 100.64.0.1:33000\r\nTailscale-Ingress-Src: 203.0.113.7:1234\r\n\
        Tailscale-Ingress-Target: app.example.ts.net:443\r\n\r\n";

    #[test]
    fn ingress_needs_the_capability_and_both_headers() {
        let ingress = Ingress {
            client: "203.0.113.7:1234".parse().unwrap(),
            host: "app.example.ts.net".to_owned(),
            port: 443,
        };
        assert_eq!(ask(GOOD, true), Verdict::Ingress(ingress));
        let Verdict::Answer(answer) = ask(GOOD, false) else {
            panic!("let in without the capability");
        };
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (403, "denied; no ingress cap")
        );
        assert_eq!(status(&GOOD.replace("203.0.113.7:1234", "[2001:db8::7]:1")), 101);
        assert_eq!(status(&GOOD.replace("POST", "GET")), 405);
        for (old, new) in [
            ("203.0.113.7:1234", "203.0.113.7"),
            ("203.0.113.7:1234", "client:1"),
            ("Tailscale-Ingress-Src", "Tailscale-Ingress-Source"),
            ("app.example.ts.net:443", "app.example.ts.net"),
            ("app.example.ts.net:443", "app.example.ts.net:https"),
            ("app.example.ts.net:443", "a:b:443"),
            ("app.example.ts.net:443", ""),
        ] {
            assert_eq!(status(&GOOD.replace(old, new)), 400, "{old} → {new}");
        }
    }

    #[test]
    fn pages_and_other_hosts_are_refused_before_anything_else() {
        assert_eq!(status(&GOOD.replace("100.64.0.1:33000", "peer")), 101);
        assert_eq!(status(&GOOD.replace("100.64.0.1:33000", "[fd7a::1]:1")), 101);
        for host in [
            "100.64.0.2:33000",
            "100.64.0.1",
            "localhost:1",
            "app.example.ts.net",
        ] {
            assert_eq!(status(&GOOD.replace("100.64.0.1:33000", host)), 403, "{host}");
        }
        for header in ["Origin: https://evil.example", "referer: x"] {
            assert_eq!(
                status(&GOOD.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n"))),
                403
            );
        }
        assert_eq!(status("GET / HTTP/1.1\r\nHost: peer\r\n\r\n"), 200);
        assert_eq!(status("GET /dns-query?x HTTP/1.1\r\nHost: peer\r\n\r\n"), 404);
        assert_eq!(status("PUT /v0/put/file HTTP/1.1\r\nHost: peer\r\n\r\n"), 404);
    }

    #[test]
    fn what_is_no_request_is_told_so_and_bounded() {
        assert_eq!(parse(&GOOD.as_bytes()[..GOOD.len() - 1]), None);
        for bad in [
            "PRI * HTTP/2.0\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: peer\r\nHost: peer\r\n\r\n",
            "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        ] {
            assert_eq!(status(bad), 400, "{bad:?}");
        }
        let long = format!("GET / HTTP/1.1\r\nHost: peer\r\nX: {}", "x".repeat(MAX_HEAD));
        assert_eq!(parse(long.as_bytes()).unwrap().unwrap_err().status, 431);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(65));
        assert_eq!(parse(many.as_bytes()).unwrap().unwrap_err().status, 431);
    }

    #[test]
    fn what_follows_the_head_is_the_stream() {
        let whole = format!("{GOOD}\x16\x03\x01");
        let request = parse(whole.as_bytes()).unwrap().unwrap();
        assert_eq!(&whole.as_bytes()[request.len..], b"\x16\x03\x01");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_none_are_let_in_without_the_capability(bytes: Vec<u8>, at in 0..GOOD.len(), byte: u8) {
            let mut changed = GOOD.as_bytes().to_vec();
            changed[at] = byte;
            for bytes in [bytes, changed] {
                if let Some(Ok(request)) = parse(&bytes) {
                    let caller = Caller { name: "", device: "", own: &OWN, may_ingress: false };
                    prop_assert!(matches!(judge(&request, &caller), Verdict::Answer(_)));
                }
            }
        }
    }
}
