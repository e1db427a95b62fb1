//! A real ACME authority (Let's Encrypt's Pebble) on loopback, with its DNS server.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub(super) struct Pebble {
    pub(super) directory: String,
    /// Signs the certificate of the authority's API.
    pub(super) api_ca: CertificateDer<'static>,
    dns_management: SocketAddr,
    management: SocketAddr,
    processes: parking_lot::Mutex<[Child; 2]>,
    _dir: tempfile::TempDir,
}

impl Pebble {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (ca, cert, key) = api_certificate();
        std::fs::write(path("api.pem"), cert).unwrap();
        std::fs::write(path("api.key"), key).unwrap();
        let [api, management, dns, dns_management] = free_ports();
        let config = json!({"pebble": {
            "listenAddress": api, "managementListenAddress": management,
            "certificate": path("api.pem"), "privateKey": path("api.key"),
            "httpPort": 5002, "tlsPort": 5001, "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "retryAfter": {"authz": 1, "order": 1},
        }});
        std::fs::write(path("pebble.json"), config.to_string()).unwrap();
        let dns_server = spawn(Command::new("pebble-challtestsrv").args([
            "-dns01",
            &dns.to_string(),
            "-management",
            &dns_management.to_string(),
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
        ]));
        let pebble = spawn(
            Command::new("pebble")
                .args(["-config", &path("pebble.json"), "-dnsserver", &dns.to_string()])
                .env("PEBBLE_VA_NOSLEEP", "1"),
        );
        let pebble = Self {
            directory: format!("https://{api}/dir"),
            api_ca: ca,
            dns_management,
            management,
            processes: [pebble, dns_server].into(),
            _dir: dir,
        };
        for address in [api, management, dns_management] {
            pebble.wait_for(address).await;
        }
        pebble
    }

    /// Publishes a TXT record.
    pub(super) async fn set_txt(&self, name: &str, value: &str) {
        let body = json!({"host": format!("{name}."), "value": value}).to_string();
        let mut stream = TcpStream::connect(self.dns_management).await.unwrap();
        let length = body.len();
        let request = format!("POST /set-txt HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }

    /// The root of what it issues, new with every start.
    pub(super) async fn root(&self) -> CertificateDer<'static> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.api_ca.clone()).unwrap();
        let connector = tokio_rustls::TlsConnector::from(crate::tls::client_config(roots));
        let tcp = TcpStream::connect(self.management).await.unwrap();
        let name = std::net::IpAddr::from(Ipv4Addr::LOCALHOST).into();
        let mut tls = connector.connect(name, tcp).await.unwrap();
        tls.write_all(b"GET /roots/0 HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await.unwrap();
        CertificateDer::from_pem_slice(&answer).unwrap()
    }

    pub(super) fn stop(&self) {
        for child in &mut *self.processes.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    async fn wait_for(&self, address: SocketAddr) {
        let listens = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let listens = tokio::time::timeout(Duration::from_secs(20), listens).await;
        listens.unwrap_or_else(|_| panic!("nothing listens on {address}"));
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(command: &mut Command) -> Child {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn();
    child.unwrap_or_else(|error| panic!("{:?} (Debian package pebble): {error}", command.get_program()))
}

/// Below the ports that the kernel gives to whoever asks for any, or a test beside us has one before Pebble does.
fn free_ports<const N: usize>() -> [SocketAddr; N] {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let process = (std::process::id() % 10_000) as u16;
    let free = || loop {
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, process + NEXT.fetch_add(1, Relaxed)));
        if TcpListener::bind(addr).is_ok() && UdpSocket::bind(addr).is_ok() {
            return addr;
        }
    };
    std::array::from_fn(|_| free())
}

/// A certificate for 127.0.0.1, after the authority that signed it: authority, chain and key.
pub(super) fn api_certificate() -> (CertificateDer<'static>, String, String) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let der = ca.self_signed(&ca_key).unwrap().der().clone();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let cert = params.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    (der, cert.pem(), key.serialize_pem())
}
