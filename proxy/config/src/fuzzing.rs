//! What a fuzzer calls (`proxy/config/fuzz`), and `cargo test` with the fuzzer's corpus: what has to hold
//! whatever stands in a file. A target's name is its corpus's.

use std::collections::BTreeSet;

use crate::{
    group::{Backend, Listener, PathMatch, Protocol, Shard},
    parse, serve,
};

/// A shard: what was understood is written so that it is understood the same again, and completely.
pub fn shard_json(data: &[u8]) {
    let Ok(Ok(shard)) = std::str::from_utf8(data).map(parse::parse::<Shard>) else {
        return;
    };
    let written = serde_json::to_string(&shard.value).expect("a shard can be written");
    let again = parse::parse::<Shard>(&written).expect("what we write can be read");
    assert_eq!(again.value, shard.value);
    assert!(again.unknown.is_empty(), "{:?}", again.unknown);
}

/// A `serve.json`: each port once, rooted paths, targets with a port, and nothing that the contract can't say.
pub fn serve_json(data: &[u8]) {
    let Ok(Ok(serve)) = std::str::from_utf8(data).map(serve::parse) else {
        return;
    };
    listeners_are_complete(&serve.listeners);
    serve
        .services
        .values()
        .for_each(|listeners| listeners_are_complete(listeners));
    let known: BTreeSet<u16> = serve.listeners.iter().map(|listener| listener.port).collect();
    assert!(serve.funnel.keys().all(|port| known.contains(port)));
}

fn listeners_are_complete(listeners: &[Listener]) {
    let mut ports = BTreeSet::new();
    for listener in listeners {
        assert!(listener.port != 0 && ports.insert(listener.port), "{listeners:?}");
        match &listener.protocol {
            Protocol::Https(http) | Protocol::Http(http) => {
                for route in &http.routes {
                    let (PathMatch::Prefix(path) | PathMatch::Exact(path)) = &route.path;
                    assert!(path.starts_with('/') && path.is_ascii());
                    target_is_complete(&route.backend);
                }
            }
            Protocol::Tcp(tcp) | Protocol::TlsTerminatedTcp(tcp) => target_is_complete(&tcp.backend),
            Protocol::RedirectToHttps { .. } | Protocol::IdentityProvider(_) => {}
        }
    }
    let written = serde_json::to_string(&listeners).expect("listeners can be written");
    let again: Vec<Listener> = serde_json::from_str(&written).expect("what we write can be read");
    assert_eq!(again, listeners);
}

fn target_is_complete(backend: &Backend) {
    match backend {
        Backend::Address { address, path, .. } => {
            let (host, port) = address.rsplit_once(':').expect("an address has a port");
            let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            assert!(
                bare.is_some() || !host.is_empty() && !host.contains([':', '[', ']']),
                "{address}"
            );
            assert!(!host.contains(['@', '/', '?', '#', ' ', '\n']), "{address}");
            assert!(port.parse::<u16>().is_ok_and(|port| port != 0), "{address}");
            assert!(
                path.is_empty() || path.starts_with('/') && !path.contains(['?', '#']),
                "{path}"
            );
        }
        Backend::Redirect { status, .. } => assert!((300..400).contains(status)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 2] = [("serve_json", serve_json), ("shard_json", shard_json)];

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
}
