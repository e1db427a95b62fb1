//! A control server with relay, and Go nodes, in the test's own network.

use std::{
    fs::File,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

use postern_node::{
    credential::Credential,
    key::NodePublic,
    netmap::Netmap,
    node::{Config, Identity, Node, Status},
    state::{MemoryStore, StateStore},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};

use crate::namespace::{Namespace, bound};

/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(90);
/// What is waited for comes within this time.
pub const SOON: Duration = Duration::from_secs(30);

pub const CONTROL: &str = "http://127.0.0.1:9911";
const ADMIN: &str = "127.0.0.1:9912";
const DIRECTORY: &str = "https://127.0.0.1:14000/dir";
const CLIENTS: &str = "127.0.0.1:9920";

pub struct Lab {
    pub dir: tempfile::TempDir,
    programs: Vec<Child>,
    _net: Namespace,
}

/// Runs a test with a lab around it.
pub fn with_lab(test: impl AsyncFnOnce(&mut Lab)) {
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_test_writer()
        .try_init();
    let programs = programs();
    let net = Namespace::enter();
    // Threads that it makes are in the namespace too.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut lab = Lab {
            dir: tempfile::tempdir().unwrap(),
            programs: Vec::new(),
            _net: net,
        };
        let pki = lab.path("pki");
        std::fs::create_dir(&pki).unwrap();
        lab.start(
            &programs.join("labcontrol"),
            &[
                "-pki",
                pki.to_str().unwrap(),
                "-challtestsrv",
                "http://127.0.0.1:8055",
            ],
            &[],
        );
        lab.answers(ADMIN, "/admin/nodes").await;
        std::fs::copy(lab.path("pki/ca.pem"), lab.path("trust.pem")).unwrap();
        timeout(LIMIT, test(&mut lab))
            .await
            .expect("the test ends in time");
    });
}

/// Builds the Go programs, which is quick when nothing has changed.
fn programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tailnet");
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/lab/tailnet");
        std::fs::create_dir_all(&dir).unwrap();
        let built = Command::new("go")
            .current_dir(sources)
            .env("CGO_ENABLED", "0")
            .env("GOGC", "400")
            .args([
                "build",
                "-mod=readonly",
                "-trimpath",
                "-buildvcs=false",
                "-gcflags=all=-dwarf=false", // as the lab builds them, so that they share Go's cache
                "-ldflags=-s -w",
                "-o",
            ])
            .arg(&dir)
            .args(["./filterdiff", "./labcontrol", "./peer"])
            .output()
            .expect("Go 1.26 or newer is installed");
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        dir
    })
}

/// What one of the Go programs says until it ends by itself.
pub fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(programs().join(program))
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

impl Lab {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&mut self, program: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> u32 {
        let log = File::create(self.path(&format!("log-{}", self.programs.len()))).unwrap();
        let child = bound(program)
            .args(arguments)
            .env("TS_NO_LOGS_NO_SUPPORT", "true")
            .env("SSL_CERT_FILE", self.path("trust.pem"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.programs.push(child);
        self.programs.last().unwrap().id()
    }

    async fn answers(&self, server: &str, path: &str) {
        eventually("the server answers", async || {
            exchange(server, "GET", path, None)
                .await
                .is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// Go's clients: each user's node starts when it is used first.
    pub async fn start_clients(&mut self) -> u32 {
        let dir = self.path("clients");
        std::fs::create_dir_all(&dir).unwrap();
        let pid = self.start(
            &programs().join("peer"),
            &["clients", "-dir", dir.to_str().unwrap()],
            &[],
        );
        self.answers(CLIENTS, "/healthz").await;
        pid
    }

    /// Funnel's edge, a Go node: who connects to this port of 127.0.0.1 is brought to the same port of the node that
    /// TLS names.
    pub async fn start_edge(&mut self, port: u16) -> u32 {
        let (listen, target) = (format!("127.0.0.1:{port}"), port.to_string());
        let arguments = [
            "-authkey",
            "tskey-auth-carol",
            "-listen",
            &listen,
            "-target-port",
            &target,
        ];
        let pid = self.start_peer("edge", &format!("edge-{port}"), &arguments);
        self.says(pid, "serving").await;
        pid
    }

    /// A Go node that serves HTTPS, with its state in a directory of its name.
    pub async fn start_go_server(&mut self, hostname: &str) -> u32 {
        let authority = [("TS_DEBUG_ACME_DIRECTORY_URL", DIRECTORY)];
        let pid = self.start_peer_with("serve-tsnet", hostname, &[], &authority);
        self.says(pid, "serving").await;
        pid
    }

    /// A Go node of this name in some mode of the peer program.
    pub fn start_peer(&mut self, mode: &str, hostname: &str, arguments: &[&str]) -> u32 {
        self.start_peer_with(mode, hostname, arguments, &[])
    }

    fn start_peer_with(
        &mut self,
        mode: &str,
        hostname: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> u32 {
        let dir = self.path(hostname);
        let common = [mode, "-hostname", hostname, "-dir", dir.to_str().unwrap()];
        let arguments = [&common, arguments].concat();
        self.start(&programs().join("peer"), &arguments, variables)
    }

    /// A Go node that sends a datagram until it comes back.
    pub fn start_udp_client(&mut self, to: &str) -> u32 {
        self.start_peer("udp", "udp-client", &["-to", to])
    }

    /// Waits until the program's log has this text.
    pub async fn says(&self, pid: u32, text: &str) {
        eventually(text, async || self.log(pid).contains(text)).await;
    }

    /// What the program has said.
    pub fn log(&self, pid: u32) -> String {
        let number = self.programs.iter().position(|child| child.id() == pid).unwrap();
        std::fs::read_to_string(self.path(&format!("log-{number}"))).unwrap()
    }

    /// One of our examples, logged in by this key.
    pub fn start_example(&mut self, program: &Path, key: &str, arguments: &[&str]) -> u32 {
        let variables = [
            ("TS_AUTHKEY", key),
            ("TS_CONTROL_URL", CONTROL),
            ("TS_DEBUG_ACME_DIRECTORY_URL", DIRECTORY),
        ];
        self.start(program, arguments, &variables)
    }

    /// A certificate authority (Pebble) with its DNS server, which whoever starts later trusts.
    pub async fn start_authority(&mut self) {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let config = serde_json::json!({"pebble": {
            "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
            "certificate": text(self.path("pki/server.pem")), "privateKey": text(self.path("pki/server.key")),
            "httpPort": 5002, "tlsPort": 5001, "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        let path = text(self.path("pebble.json"));
        std::fs::write(&path, config.to_string()).unwrap();
        let dns = ["-dns01", "127.0.0.1:8053", "-management", "127.0.0.1:8055"];
        let others = ["-http01", "", "-https01", "", "-tlsalpn01", ""];
        self.start(
            Path::new("pebble-challtestsrv"),
            &[&dns[..], &others].concat(),
            &[],
        );
        let quick = [("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "0")];
        self.start(
            Path::new("pebble"),
            &["-config", &path, "-dnsserver", "127.0.0.1:8053"],
            &quick,
        );
        let ca = text(self.path("pki/ca.pem"));
        let mut root = Vec::new();
        eventually("the authority has a root", async || {
            let mut curl = Command::new("curl");
            curl.args([
                "--silent",
                "--fail",
                "--cacert",
                &ca,
                "https://127.0.0.1:15000/roots/0",
            ]);
            root = curl.output().unwrap().stdout;
            !root.is_empty()
        })
        .await;
        let trust = [std::fs::read(&ca).unwrap(), root].concat();
        std::fs::write(self.path("trust.pem"), trust).unwrap();
    }

    /// Changes the network that the test has for itself.
    pub fn network(&self, command: &str) {
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output();
        let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// A control server of another tailnet; its URL.
    pub async fn start_other_control(&mut self) -> String {
        let ports = [
            "-control-port",
            "9931",
            "-admin-port",
            "9932",
            "-derp-port",
            "9944",
        ];
        let others = ["-stun-port", "9979", "-domain", "other-tailnet.ts.net"];
        self.start(
            &programs().join("labcontrol"),
            &[&ports[..], &others].concat(),
            &[],
        );
        self.answers("127.0.0.1:9932", "/admin/nodes").await;
        "http://127.0.0.1:9931".to_owned()
    }

    /// Asks a program to end.
    pub fn interrupt(&self, pid: u32) {
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    /// Waits for a program's end, and gives what it said.
    pub async fn ended(&mut self, pid: u32) -> String {
        let number = self.programs.iter().position(|child| child.id() == pid).unwrap();
        eventually("the program ends", async || {
            let ended = self.programs[number].try_wait().unwrap();
            ended
                .inspect(|status| assert!(status.success(), "{status}"))
                .is_some()
        })
        .await;
        std::fs::read_to_string(self.path(&format!("log-{number}"))).unwrap()
    }

    /// Ends a program, at once.
    pub fn kill(&mut self, pid: u32) {
        let child = self.programs.iter_mut().find(|child| child.id() == pid).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A request through the Go client of a user; what came back.
    pub async fn fetch(&self, user: &str, url: &str) -> Value {
        self.fetch_within(5, user, url).await
    }

    /// The same, with so many seconds for it.
    pub async fn fetch_within(&self, seconds: u64, user: &str, url: &str) -> Value {
        let body = serde_json::json!({"as": user, "url": url, "timeoutMS": seconds * 1000});
        let answer = exchange(CLIENTS, "POST", "/fetch", Some(body.to_string())).await;
        // A client that is not up yet answers by text.
        serde_json::from_str(&answer.unwrap().1).unwrap_or_default()
    }

    /// A request to the Go clients themselves.
    pub async fn client(&self, method: &str, path: &str) -> (u16, String) {
        exchange(CLIENTS, method, path, None).await.unwrap()
    }

    /// A connection through alice's Go client, if it gets one.
    pub async fn tunnel(&self, to: &str) -> Option<TcpStream> {
        const MADE: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
        let mut stream = TcpStream::connect(CLIENTS).await.ok()?;
        let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = [0; MADE.len()];
        stream.read_exact(&mut answer).await.ok()?;
        (answer == MADE).then_some(stream)
    }

    /// A request to the control server's own API.
    pub async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
        let body = body.map(|body| body.to_string());
        exchange(ADMIN, method, &format!("/admin{path}"), body)
            .await
            .unwrap()
    }

    /// Lets the relay drop all connections and take none, or work again.
    pub async fn break_relay(&self, broken: bool) {
        let (status, body) = self
            .admin("PUT", "/relays/1/broken", Some(Value::Bool(broken)))
            .await;
        assert_eq!(status, 200, "{body}");
    }

    /// What control knows about a node; null when it knows none.
    pub async fn device(&self, host: &str) -> Value {
        let (status, body) = self.admin("GET", &format!("/nodes/{host}"), None).await;
        if status == 200 {
            serde_json::from_str(&body).unwrap()
        } else {
            Value::Null
        }
    }

    /// The key of a node that control knows.
    pub async fn node_key(&self, host: &str) -> NodePublic {
        serde_json::from_value(self.device(host).await["key"].clone()).unwrap()
    }

    /// IPv4 and IPv6 address of a node that control knows.
    pub async fn addresses(&self, host: &str) -> [IpAddr; 2] {
        let device = self.device(host).await;
        [0, 1].map(|family: usize| {
            let net = device["addresses"][family].as_str().unwrap();
            net.split('/').next().unwrap().parse().unwrap()
        })
    }

    /// For a node that trusts the authority, too, and has its certificates from there.
    pub fn secure_config(&self, hostname: &str, credential: &str) -> Config {
        let trusted = CertificateDer::pem_file_iter(self.path("trust.pem")).unwrap();
        Config {
            extra_roots: trusted.map(Result::unwrap).collect(),
            acme_directory: DIRECTORY.to_owned(),
            ..self.config(hostname, Some(credential))
        }
    }

    pub fn config(&self, hostname: &str, credential: Option<&str>) -> Config {
        Config {
            control_url: CONTROL.to_owned(),
            hostname: hostname.to_owned(),
            credential: credential.map(|text| Credential::key(text).unwrap()),
            store: Arc::new(MemoryStore::default()),
            ..Config::default()
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.programs {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for number in 0..self.programs.len() {
                let log = std::fs::read_to_string(self.path(&format!("log-{number}")));
                tracing::error!(number, "What a program said:\n{}", log.unwrap_or_default());
            }
        }
    }
}

/// Starts a node and waits until it is on the tailnet.
pub async fn up(config: Config) -> (Node, Identity) {
    let node = Node::start(config).await.unwrap();
    let identity = timeout(SOON, node.up())
        .await
        .expect("the node is up in time")
        .unwrap();
    (node, identity)
}

/// Waits for a status.
pub async fn status(node: &Node, wanted: impl Fn(&Status) -> bool) -> Status {
    let mut status = node.status();
    let seen = timeout(SOON, status.wait_for(wanted)).await;
    match seen {
        Ok(seen) => seen.unwrap().clone(),
        Err(_) => panic!("it is still {:?}", node.status().borrow()),
    }
}

/// Waits for a netmap.
pub async fn becomes(
    what: &str,
    netmap: &mut watch::Receiver<Option<Arc<Netmap>>>,
    wanted: impl Fn(&Netmap) -> bool,
) {
    let so = netmap.wait_for(|netmap| netmap.as_ref().is_some_and(|netmap| wanted(netmap)));
    let so = timeout(SOON, so).await;
    so.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
        .unwrap();
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let so = async {
        while !check().await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, so)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"));
}

/// A copy of what a store holds: the state of a node that has ended.
pub async fn stored(store: &Arc<dyn StateStore>) -> postern_node::state::NodeState {
    postern_node::state::NodeState::load(&**store).await.unwrap()
}

/// One HTTP/1.0 request; `None` when nobody answers.
pub async fn exchange(server: &str, method: &str, path: &str, body: Option<String>) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    let body = body.unwrap_or_default();
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.0\r\nHost: {server}\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
