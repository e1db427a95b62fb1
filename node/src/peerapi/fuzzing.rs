//! What has to hold for every request to the PeerAPI.

use std::net::{IpAddr, Ipv4Addr};

use super::request::{self, Caller, Verdict};

/// A request to the PeerAPI and what follows it: nobody is let in without the capability, by a page's request, or
/// for another host; and what is let in leaves the bytes behind the head alone.
pub fn peer_api(data: &[u8]) {
    let own = [IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1))];
    let caller = |may_ingress| Caller {
        name: "Ann",
        device: "edge.example.ts.net",
        own: &own,
        may_ingress,
    };
    let Some(Ok(request)) = request::parse(data) else {
        return;
    };
    assert!(request.len <= data.len());
    // More bytes don't change what the head says.
    let longer = [data, b"\r\n\r\nmore"].concat();
    assert_eq!(request::parse(&longer), Some(Ok(request.clone())));
    let answered = request::judge(&request, &caller(false));
    assert!(matches!(answered, Verdict::Answer(_)), "let in: {request:?}");
    match request::judge(&request, &caller(true)) {
        Verdict::Ingress(ingress) => {
            let head = data[..request.len].to_ascii_lowercase();
            let says = |name: &[u8]| head.windows(name.len()).any(|window| window == name);
            assert!(says(b"tailscale-ingress-src:") && says(b"tailscale-ingress-target:"));
            assert!(!ingress.host.contains(':'));
        }
        Verdict::Answer(answer) => {
            let text = answer.encode();
            assert!(text.starts_with(b"HTTP/1.1 ") && text.ends_with(b"\n"));
            assert!((200..600).contains(&answer.status));
        }
    }
}
