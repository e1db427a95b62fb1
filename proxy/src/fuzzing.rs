//! What a fuzzer calls (`proxy/fuzz`), and `cargo test` with the fuzzer's corpus: what has to hold whatever a
//! client sends. A target's name is its corpus's.

use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use crate::{
    http::{guard, hop_by_hop, owned},
    route::{Host, Path},
};

/// Hosts and paths, one a line: what passes is in its one form already.
pub fn host_and_path(data: &[u8]) {
    for line in String::from_utf8_lossy(data).split('\n') {
        if let Ok(host) = Host::parse(line) {
            assert_eq!(Host::parse(host.as_str()).as_ref(), Ok(&host));
            assert!(!host.as_str().ends_with('.') && !host.as_str().contains(['@', '/', '%']));
        }
        if let Ok(path) = Path::parse(line) {
            assert_eq!(Path::parse(path.as_str()).as_ref(), Ok(&path));
            assert!(path.segments().all(|segment| !matches!(segment, "." | "..")));
            // However far the prefix of a route reaches, the rest can be put behind another one.
            for depth in 0..=path.segments().count() {
                let rest = path.after(depth);
                assert!(rest.is_empty() || rest.starts_with('/'), "{path} {depth}");
                assert!(path.as_str().ends_with(rest));
            }
        }
    }
}

/// A request, as `METHOD TARGET` and a field a line: of what is ours nothing is left, nor of the hop.
pub fn guard(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let (method, target) = first.split_once(' ').unwrap_or(("GET", &first));
    let Ok(request) = Request::builder().method(method).uri(target).body(()) else {
        return;
    };
    let (mut head, ()) = request.into_parts();
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(at + 1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(&line[..at]),
            HeaderValue::from_bytes(value),
        ) {
            head.headers.append(name, value);
        }
    }
    if let Ok(admitted) = guard::check(&head) {
        assert_eq!(Host::parse(&admitted.authority).as_ref(), Ok(&admitted.host));
        assert_eq!(Path::parse(admitted.path.as_str()), Ok(admitted.path));
        assert!(head.headers.get_all(header::HOST).iter().count() <= 1);
    }

    let connection: Vec<_> = head.headers.get_all(header::CONNECTION).iter().cloned().collect();
    hop_by_hop::strip_request(&mut head.headers);
    owned::strip(&mut head.headers);
    for name in head.headers.keys() {
        assert!(!could_be_ours(name.as_str()), "{name}");
        let named = |line: &HeaderValue| line.to_str().is_ok_and(|l| names(l, name.as_str()));
        assert!(*name == header::TE || !connection.iter().any(named), "{name}");
    }
    let te: Vec<_> = head.headers.get_all(header::TE).iter().collect();
    assert!(te.is_empty() || te == ["trailers"]);
    assert_eq!(stripped_again(&head.headers), head.headers);
}

/// By the reading of an application that sees nothing but letters and digits.
fn could_be_ours(name: &str) -> bool {
    let folded = name
        .to_ascii_uppercase()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let family = ["TAILSCALE_", "X_FORWARDED_", "POSTERN_"];
    let single = [
        "FORWARDED",
        "X_REAL_IP",
        "X_REQUEST_ID",
        "X_ORIGINAL_URL",
        "X_REWRITE_URL",
    ];
    family.iter().any(|prefix| folded.starts_with(prefix)) || single.contains(&folded.as_str())
}

fn names(line: &str, field: &str) -> bool {
    line.split(',')
        .any(|token| token.trim().eq_ignore_ascii_case(field))
}

fn stripped_again(headers: &HeaderMap) -> HeaderMap {
    let mut again = headers.clone();
    hop_by_hop::strip_request(&mut again);
    owned::strip(&mut again);
    again
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 2] = [("guard", guard), ("host_and_path", host_and_path)];

    #[test]
    fn everything_in_the_corpora_is_borne() {
        let corpora = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
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
