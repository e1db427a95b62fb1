use std::{collections::BTreeMap, net::Ipv4Addr};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;

fn from_environment(variables: &[(&str, &str)]) -> Proxies {
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    Proxies::new(ProxyChoice::Environment, |name| {
        variables.get(name).map(|value| (*value).to_owned())
    })
}

/// The cases of Go's `httpproxy` tests, in our words: `(NO_PROXY, host, port, goes through the proxy)`.
#[test]
fn hosts_without_proxy_are_those_of_go() {
    for (no_proxy, host, port, proxied) in [
        ("", "example.com", 80, true),
        ("", "localhost", 80, false),
        ("", "127.0.0.1", 80, false),
        ("", "127.0.0.2", 80, false),
        ("", "::1", 80, false),
        ("", "localhost.example.com", 80, true),
        (
            "foobar.com, .barbaz.net, *.wildcard.io",
            "www.foobar.com",
            80,
            false,
        ),
        ("foobar.com, .barbaz.net", "foobar.com", 443, false),
        ("foobar.com, .barbaz.net", "FooBar.com", 443, false),
        ("foobar.com, .barbaz.net", "notfoobar.com", 443, true),
        ("foobar.com, .barbaz.net", "www.barbaz.net", 443, false),
        ("foobar.com, .barbaz.net", "barbaz.net", 443, true),
        ("*.wildcard.io", "sub.wildcard.io", 443, false),
        ("*.wildcard.io", "wildcard.io", 443, true),
        ("192.168.1.1, 10.0.0.0/8", "192.168.1.1", 80, false),
        ("192.168.1.1, 10.0.0.0/8", "192.168.1.2", 80, true),
        ("192.168.1.1, 10.0.0.0/8", "10.9.8.7", 80, false),
        ("10.0.0.0/8", "10.9.8.7.example.com", 80, true),
        ("foobar.com:8080", "foobar.com", 8080, false),
        ("foobar.com:8080", "foobar.com", 80, true),
        ("[::2]:80, ::3", "::2", 80, false),
        ("[::2]:80, ::3", "::2", 81, true),
        ("[::2]:80, ::3", "::3", 81, false),
        ("*", "example.com", 443, false),
        (":80, , *foo, x:y", "example.com", 80, true),
    ] {
        let proxies = from_environment(&[
            ("HTTP_PROXY", "proxy:3128"),
            ("https_proxy", "http://proxy:3128"),
            ("NO_PROXY", no_proxy),
        ]);
        for https in [false, true] {
            assert_eq!(
                proxies.to(https, host, port).is_some(),
                proxied,
                "{no_proxy:?} {host}:{port}"
            );
        }
    }
}

#[test]
fn each_scheme_has_its_proxy_and_an_explicit_one_has_all() {
    let proxies = from_environment(&[
        ("HTTPS_PROXY", "https://p.test"),
        ("HTTP_PROXY", "socks5://p.test"),
    ]);
    assert_eq!(
        proxies.to(true, "a.test", 443).unwrap().to_string(),
        "https://p.test:443"
    );
    assert!(proxies.to(false, "a.test", 80).is_none());
    let never = |_: &str| panic!("the environment is not asked");
    let explicit = Proxies::new(ProxyChoice::Always("p.test".parse().unwrap()), never);
    assert_eq!(
        explicit.to(false, "127.0.0.1", 1).unwrap().to_string(),
        "http://p.test:80"
    );
    assert!(
        Proxies::new(ProxyChoice::Direct, never)
            .to(true, "a.test", 443)
            .is_none()
    );
}

#[test]
fn a_proxy_url_is_read_and_never_shown_with_its_password() {
    let url = |text: &str| text.parse::<ProxyUrl>();
    let proxy = url("http://us%40er:pa%3Ass@[fd00::1]:8080/ignored").unwrap();
    assert_eq!(
        (proxy.host(), proxy.port(), proxy.user()),
        ("fd00::1", 8080, Some("us@er:pa:ss"))
    );
    assert_eq!(
        format!("{proxy:?} {proxy}"),
        "http://[fd00::1]:8080 http://[fd00::1]:8080"
    );
    assert_eq!(url("p.test:3128").unwrap().to_string(), "http://p.test:3128");
    assert_eq!(url("http://only@p.test").unwrap().user(), None);
    assert_eq!(url("socks5://p.test"), Err(ProxyUrlError::Scheme));
    for bad in [
        "",
        "http://",
        "http://:80",
        "http://p:0",
        "http://p:99999",
        "http://a b",
    ] {
        assert_eq!(url(bad), Err(ProxyUrlError::NoUrl), "{bad:?}");
    }
}

/// A proxy that answers `answer` and then echoes; what it was asked.
async fn proxy(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, answer).await
    });
    (port, asked)
}

/// The same behind TLS, for `localhost`, and its certificate; it has been asked nothing where the handshake fails.
async fn tls_proxy(
    answer: &'static str,
) -> (
    u16,
    CertificateDer<'static>,
    tokio::task::JoinHandle<Option<String>>,
) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()?;
        Some(serve(stream, answer).await)
    });
    (port, certificate, asked)
}

async fn serve(mut stream: impl Stream, answer: &'static str) -> String {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    let mut byte = [0; 1];
    while let Ok(1) = stream.read(&mut byte).await {
        stream.write_all(&byte).await.unwrap();
    }
    String::from_utf8(asked).unwrap()
}

fn through(url: ProxyUrl) -> Outbound {
    let proxies = Proxies::new(ProxyChoice::Always(url), |_| None);
    Outbound::new(rustls::RootCertStore::empty(), proxies)
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways() {
    // What the server behind it says first may come with the answer.
    let (port, asked) = proxy("HTTP/1.1 200 Connection established\r\n\r\nhello").await;
    let url = format!("http://user:secret@127.0.0.1:{port}").parse().unwrap();
    let outbound = through(url);
    let mut stream = outbound.tunnel(true, "control.test", 443).await.unwrap().unwrap();
    let mut got = [0; 5];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    stream.write_all(b"abc").await.unwrap();
    stream.read_exact(&mut got[..3]).await.unwrap();
    assert_eq!(&got[..3], b"abc");
    drop(stream);
    let asked = asked.await.unwrap();
    assert!(
        asked.starts_with("CONNECT control.test:443 HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(
        asked.contains("proxy-authorization: Basic dXNlcjpzZWNyZXQ=\r\n"),
        "{asked}"
    );
}

#[tokio::test]
async fn a_proxy_behind_tls_gets_the_password_only_after_it_has_shown_who_it_is() {
    const MADE: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
    let url = |port| format!("https://user:secret@localhost:{port}").parse().unwrap();
    let (port, certificate, asked) = tls_proxy(MADE).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let proxies = Proxies::new(ProxyChoice::Always(url(port)), |_| None);
    let outbound = Outbound::new(roots, proxies);
    let mut stream = outbound.tunnel(false, "control.test", 80).await.unwrap().unwrap();
    stream.write_all(b"abc").await.unwrap();
    let mut got = [0; 3];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"abc");
    drop(stream);
    let asked = asked.await.unwrap().unwrap();
    assert!(
        asked.starts_with("CONNECT control.test:80 HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(
        asked.contains("proxy-authorization: Basic dXNlcjpzZWNyZXQ=\r\n"),
        "{asked}"
    );

    let (port, _unknown, asked) = tls_proxy(MADE).await;
    let tunnel = through(url(port))
        .tunnel(false, "control.test", 80)
        .await
        .unwrap();
    let error = tunnel.err().unwrap().to_string();
    assert!(
        error.contains("certificate") && !error.contains("secret"),
        "{error}"
    );
    assert_eq!(asked.await.unwrap(), None);
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_without_the_password() {
    for (answer, reason) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "user name and password",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            "403 Forbidden to CONNECT [::2]:443",
        ),
        ("nonsense\r\n\r\n", "proxy http://127.0.0.1:"),
    ] {
        let (port, _asked) = proxy(answer).await;
        let url = format!("http://user:secret@127.0.0.1:{port}").parse().unwrap();
        let tunnel = through(url).tunnel(true, "::2", 443).await.unwrap();
        let error = tunnel.err().unwrap().to_string();
        assert!(error.contains(reason) && !error.contains("secret"), "{error}");
    }
}
