//! An authority for what Pebble doesn't do: every order is one too many, nonces are never good at once, and there may
//! be a window for renewals.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::pebble;
use crate::tls;

pub(super) struct Stub {
    pub(super) address: SocketAddr,
    /// Signs the certificate of the authority's API.
    pub(super) ca: CertificateDer<'static>,
    /// The window that it suggests, RFC 3339.
    window: Option<[&'static str; 2]>,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    /// How many nonces have been given.
    given: usize,
    /// Those that nobody has used yet.
    nonces: BTreeSet<String>,
    account_keys: Vec<Value>,
    /// What was refused once because of its nonce.
    refused: BTreeSet<String>,
    orders: Vec<Value>,
    renewals: Vec<String>,
}

impl Stub {
    pub(super) async fn start(window: Option<[&'static str; 2]>, cancel: CancellationToken) -> Arc<Self> {
        let (ca, chain, key) = pebble::api_certificate();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            ca,
            window,
            said: Mutex::default(),
        });
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.unwrap(), key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(tls));
        let serving = stub.clone();
        let serve = async move {
            while let Ok((tcp, _)) = listener.accept().await {
                serving.answer(tls.accept(tcp).await.unwrap()).await;
            }
        };
        tokio::spawn(async move { cancel.run_until_cancelled(serve).await });
        stub
    }

    pub(super) fn directory(&self) -> String {
        self.url("dir")
    }

    /// The orders that it has seen.
    pub(super) fn orders(&self) -> Vec<Value> {
        self.said.lock().orders.clone()
    }

    /// The keys by which accounts were asked for.
    pub(super) fn account_keys(&self) -> Vec<Value> {
        self.said.lock().account_keys.clone()
    }

    /// The certificates that it was asked about.
    pub(super) fn renewals(&self) -> Vec<String> {
        self.said.lock().renewals.clone()
    }

    fn url(&self, name: &str) -> String {
        format!("https://{}/{name}", self.address)
    }

    async fn answer(&self, stream: TlsStream<TcpStream>) {
        let mut stream = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            stream.read_line(&mut head).await.unwrap();
            if let Some(value) = head[start..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let path = head.split(' ').nth(1).unwrap().trim_start_matches('/');
        let (status, body) = if head.starts_with("POST ") {
            self.post(path, &body)
        } else {
            self.get(path)
        };
        let nonce = self.new_nonce();
        let body = if head.starts_with("HEAD ") {
            String::new()
        } else {
            body.to_string()
        };
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\nReplay-Nonce: {nonce}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.shutdown().await;
    }

    fn new_nonce(&self) -> String {
        let mut said = self.said.lock();
        let number = said.given.to_string();
        said.given += 1;
        let nonce = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, number.as_bytes()));
        said.nonces.insert(nonce.clone());
        nonce
    }

    fn get(&self, path: &str) -> (&'static str, Value) {
        let directory = json!({"newNonce": self.url("nonce"), "newAccount": self.url("account"), "newOrder": self.url("order")});
        match (path, path.strip_prefix("renewal/"), self.window) {
            ("dir", _, None) => ("200 OK", directory),
            ("dir", _, Some(_)) => {
                let mut directory = directory;
                directory["renewalInfo"] = self.url("renewal").into();
                ("200 OK", directory)
            }
            (_, Some(certificate), Some([start, end])) => {
                self.said.lock().renewals.push(certificate.to_owned());
                let window = json!({"suggestedWindow": {"start": start, "end": end}});
                ("200 OK\r\nRetry-After: 21600", window)
            }
            _ => ("200 OK", json!({})),
        }
    }

    fn post(&self, path: &str, body: &[u8]) -> (&'static str, Value) {
        let body: Value = serde_json::from_slice(body).unwrap();
        let part = |name: &str| -> Value {
            let bytes = URL_SAFE_NO_PAD.decode(body[name].as_str().unwrap()).unwrap();
            serde_json::from_slice(&bytes).unwrap_or_default()
        };
        let mut said = self.said.lock();
        let protected = part("protected");
        assert!(
            said.nonces.remove(protected["nonce"].as_str().unwrap()),
            "each is used once"
        );
        if said.refused.insert(path.to_owned()) {
            return (
                "400 Bad Request",
                json!({"type": "urn:ietf:params:acme:error:badNonce"}),
            );
        }
        match path {
            "account" => {
                said.account_keys.push(protected["jwk"].clone());
                ("201 Created\r\nLocation: https://127.0.0.1/account/1", json!({}))
            }
            _ => {
                said.orders.push(part("payload"));
                let problem =
                    json!({"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many orders"});
                ("429 Too Many Requests\r\nRetry-After: 7200", problem)
            }
        }
    }
}
