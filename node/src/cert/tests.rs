use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use jiff::SignedDuration;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
};
use rustls_pki_types::{ServerName, UnixTime};

use super::*;
use crate::{
    proxy::Proxies,
    state::{MemoryStore, StateError, StoreFuture},
    tls,
};

mod pebble;
mod stub;

use pebble::Pebble;
use stub::Stub;

const DOMAIN: &str = "grafana.example.ts.net";

/// What control does with `set-dns`.
enum Dns {
    Publish,
    Forget,
    Refuse,
    Hang,
}

struct Control {
    pebble: Option<Arc<Pebble>>,
    dns: Dns,
    calls: AtomicUsize,
    store: Arc<dyn StateStore>,
}

impl SetDns for Control {
    fn set_dns<'a>(
        &'a self,
        name: &'a str,
        value: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<(), ControlError>> + Send + 'a>> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let account = self.store.read("acme-account.key.pem").await.unwrap();
            assert!(
                account.is_some(),
                "the account's key is stored before anything is ordered"
            );
            assert!(name.starts_with("_acme-challenge.") && value.len() == 43);
            match (&self.dns, &self.pebble) {
                (Dns::Publish, Some(pebble)) => pebble.set_txt(name, value).await,
                (Dns::Refuse, _) => {
                    let text = "not a cert domain".to_owned();
                    return Err(ControlError::Refused { status: 403, text });
                }
                (Dns::Hang, _) => std::future::pending().await,
                _ => {}
            }
            Ok(())
        })
    }
}

/// A store of certificates on a clock that can be put forward.
struct Rig {
    certs: CertStore,
    control: Arc<Control>,
    store: Arc<dyn StateStore>,
    forward: Arc<AtomicI64>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Rig {
    fn new(directory: &str, api_ca: &[rustls_pki_types::CertificateDer<'static>], control: Control) -> Self {
        let control = Arc::new(control);
        let store = control.store.clone();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(api_ca.iter().cloned());
        let forward = Arc::new(AtomicI64::new(0));
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let clock: Clock = {
            let forward = forward.clone();
            Arc::new(move || Timestamp::now() + SignedDuration::from_secs(forward.load(Ordering::Relaxed)))
        };
        let certs = CertStore::with_clock(
            store.clone(),
            control.clone(),
            directory.to_owned(),
            Outbound::new(roots, Proxies::default()),
            &tasks,
            cancel.clone(),
            clock,
        );
        Self {
            certs,
            control,
            store,
            forward,
            tasks,
            cancel,
        }
    }

    fn on(pebble: &Arc<Pebble>, dns: Dns, store: Arc<dyn StateStore>) -> Self {
        let control = Control {
            pebble: Some(pebble.clone()),
            dns,
            calls: AtomicUsize::new(0),
            store,
        };
        Self::new(&pebble.directory, std::slice::from_ref(&pebble.api_ca), control)
    }

    fn calls(&self) -> usize {
        self.control.calls.load(Ordering::Relaxed)
    }

    fn set_time(&self, to: Timestamp) {
        self.forward
            .store(to.duration_since(Timestamp::now()).as_secs(), Ordering::Relaxed);
    }

    async fn settled(&self) -> Known {
        let known = self.certs.0.known(&Name::parse(DOMAIN).unwrap()).await.unwrap();
        let mut changes = known.subscribe();
        let settled = changes.wait_for(|known| !known.issuing);
        let settled = tokio::time::timeout(Duration::from_secs(60), settled).await;
        settled.expect("the issuance ends").unwrap().clone()
    }

    async fn error(&self) -> (String, Option<Timestamp>) {
        match self.certs.get(DOMAIN).await.unwrap_err() {
            Error::Certificate { reason, retry_at, .. } => (reason, retry_at),
            other => panic!("{other}"),
        }
    }
}

fn memory() -> Arc<dyn StateStore> {
    Arc::new(MemoryStore::default())
}

/// What a client does that trusts the authority.
fn verify(certificate: &Certificate, root: &rustls_pki_types::CertificateDer<'static>, name: &'static str) {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), tls::provider())
        .build()
        .unwrap();
    let [leaf, intermediates @ ..] = certificate.chain.as_slice() else {
        panic!("a chain")
    };
    let name = ServerName::try_from(name).unwrap();
    verifier
        .verify_server_cert(leaf, intermediates, &name, &[], UnixTime::now())
        .unwrap();
}

#[tokio::test]
async fn a_certificate_lives_through_issuance_restart_renewal_and_loss_of_the_authority() {
    let pebble = Arc::new(Pebble::start().await);
    let rig = Rig::on(&pebble, Dns::Publish, memory());
    let upper = DOMAIN.to_uppercase() + ".";
    let (one, two) = tokio::join!(rig.certs.get(DOMAIN), rig.certs.get(&upper));
    let (first, two) = (one.unwrap(), two.unwrap());
    assert!(
        Arc::ptr_eq(&first, &two) && rig.calls() == 1,
        "one issuance for both"
    );
    verify(&first, &pebble.root().await, DOMAIN);
    let status: serde_json::Value = serde_json::from_str(&rig.certs.tls_cert_status(DOMAIN).await).unwrap();
    assert_eq!(
        (&status["Valid"], &status["NotAfter"]),
        (&true.into(), &first.not_after.to_string().into())
    );

    // A restart finds it in the store; to be asked about it is no reason to keep it fresh.
    let again = Rig::on(&pebble, Dns::Refuse, rig.store.clone());
    let told: serde_json::Value = serde_json::from_str(&again.certs.tls_cert_status(DOMAIN).await).unwrap();
    assert_eq!(told, status);
    assert!(again.certs.0.names.lock().is_empty());
    assert_eq!(again.certs.get(DOMAIN).await.unwrap().chain, first.chain);
    assert_eq!(again.calls(), 0);

    // Due: the old one is served while a new one is made.
    let validity = rig.settled().await.pair.unwrap().validity;
    let life = validity.not_after.duration_since(validity.not_before);
    rig.set_time(validity.not_before + life.mul_f64(0.7));
    assert!(Arc::ptr_eq(&first, &rig.certs.get(DOMAIN).await.unwrap()));
    let second = rig.settled().await.pair.expect("a new one").certificate;
    assert_ne!(second.chain, first.chain);
    let stored = rig
        .store
        .read("grafana.example.ts.net.crt")
        .await
        .unwrap()
        .unwrap();
    let key = rig
        .store
        .read("grafana.example.ts.net.key")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        Pair::parse(DOMAIN, &stored, &key).unwrap().certificate.chain,
        second.chain
    );

    // Without the authority it is served until its end, then there is none.
    pebble.stop();
    rig.set_time(second.not_after - SignedDuration::from_mins(5));
    assert!(Arc::ptr_eq(&second, &rig.certs.get(DOMAIN).await.unwrap()));
    let failed = rig.settled().await.failed.expect("the authority is gone");
    assert!(
        failed.reason.starts_with("register with the authority"),
        "{}",
        failed.reason
    );
    assert!(Arc::ptr_eq(&second, &rig.certs.get(DOMAIN).await.unwrap()));
    rig.set_time(second.not_after + SignedDuration::from_secs(1));
    let (_, retry_at) = rig.error().await;
    assert!(retry_at.unwrap() > second.not_after);
    assert!(
        rig.certs
            .tls_cert_status(DOMAIN)
            .await
            .contains(r#""Expired":true"#)
    );
}

#[tokio::test]
async fn a_wildcard_comes_with_its_base() {
    let pebble = Arc::new(Pebble::start().await);
    let rig = Rig::on(&pebble, Dns::Publish, memory());
    let certificate = rig.certs.get("*.app.example.ts.net").await.unwrap();
    let root = pebble.root().await;
    verify(&certificate, &root, "app.example.ts.net");
    verify(&certificate, &root, "x.app.example.ts.net");
    assert_eq!(rig.calls(), 2);
    assert!(
        rig.store
            .read("wildcard_.app.example.ts.net.crt")
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_proof_that_the_authority_does_not_see_is_named() {
    let pebble = Arc::new(Pebble::start().await);
    let rig = Rig::on(&pebble, Dns::Forget, memory());
    let (reason, retry_at) = rig.error().await;
    assert!(
        reason.contains("does not accept the proof for grafana.example.ts.net"),
        "{reason}"
    );
    assert!(retry_at.is_some());
    assert!(
        rig.certs
            .tls_cert_status(DOMAIN)
            .await
            .contains(r#""Missing":true"#)
    );
}

#[tokio::test]
async fn after_a_failure_nobody_is_asked_again_too_soon() {
    let pebble = Arc::new(Pebble::start().await);
    let rig = Rig::on(&pebble, Dns::Refuse, memory());
    let (reason, retry_at) = rig.error().await;
    assert!(reason.contains("not a cert domain"), "{reason}");
    assert_eq!(rig.error().await, (reason, retry_at));
    assert_eq!(rig.calls(), 1);
    // The authority has made an order by then: the wait grows.
    let second = retry_at.unwrap() + SignedDuration::from_secs(1);
    rig.set_time(second);
    let (_, retry_at) = rig.error().await;
    assert_eq!(rig.calls(), 2);
    let pause = retry_at.unwrap().duration_since(second).as_secs();
    assert!((590..660).contains(&pause), "{pause}");
}

#[tokio::test]
async fn a_name_that_is_forgotten_while_its_certificate_is_issued_is_not_ordered_twice() {
    let pebble = Arc::new(Pebble::start().await);
    let rig = Rig::on(&pebble, Dns::Publish, memory());
    let (first, again) = tokio::join!(rig.certs.get(DOMAIN), async {
        rig.certs.forget(DOMAIN);
        assert!(!format!("{:?}", rig.certs).contains(DOMAIN));
        rig.certs.get(DOMAIN).await
    });
    assert_eq!(first.unwrap().chain, again.unwrap().chain);
    assert_eq!(rig.calls(), 1);
}

#[tokio::test]
async fn what_could_not_be_stored_is_not_used() {
    /// A disk that is full for everything but the account's key.
    #[derive(Debug, Default)]
    struct Full(MemoryStore);

    impl StateStore for Full {
        fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
            self.0.read(key)
        }
        fn write(&self, values: BTreeMap<String, Vec<u8>>) -> StoreFuture<'_, ()> {
            if values.contains_key("acme-account.key.pem") {
                return self.0.write(values);
            }
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull).into();
            let what = values.into_keys().next().unwrap();
            Box::pin(async move {
                Err(StateError::Io {
                    action: "write",
                    what,
                    source,
                })
            })
        }
        fn clear(&self) -> StoreFuture<'_, ()> {
            self.0.clear()
        }
    }

    let pebble = Arc::new(Pebble::start().await);
    let rig = Rig::on(&pebble, Dns::Publish, Arc::new(Full::default()));
    let (reason, _) = rig.error().await;
    assert!(
        reason.starts_with("write grafana.example.ts.net.crt: "),
        "{reason}"
    );
    assert!(rig.settled().await.pair.is_none());
}

#[tokio::test]
async fn closing_ends_an_issuance() {
    let pebble = Arc::new(Pebble::start().await);
    let rig = Rig::on(&pebble, Dns::Hang, memory());
    let waiting = rig.certs.get(DOMAIN);
    let close = async {
        let called = async {
            while rig.calls() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), called)
            .await
            .expect("set-dns is called");
        rig.cancel.cancel();
    };
    let (result, ()) = tokio::join!(waiting, close);
    assert!(result.unwrap_err().to_string().contains("the node is closed"));
    rig.tasks.close();
    tokio::time::timeout(Duration::from_secs(5), rig.tasks.wait())
        .await
        .expect("no task is left");
}

#[tokio::test]
async fn a_name_that_is_none_is_refused() {
    let control = Control {
        pebble: None,
        dns: Dns::Refuse,
        calls: AtomicUsize::new(0),
        store: memory(),
    };
    let rig = Rig::new("https://127.0.0.1:1/dir", &[], control);
    assert!(
        rig.certs
            .get("localhost")
            .await
            .unwrap_err()
            .to_string()
            .contains("no full DNS name")
    );
    rig.certs.get(DOMAIN).await.unwrap_err();
}

fn on_stub(stub: &Stub, store: Arc<dyn StateStore>) -> Rig {
    let control = Control {
        pebble: None,
        dns: Dns::Refuse,
        calls: AtomicUsize::new(0),
        store,
    };
    Rig::new(&stub.directory(), std::slice::from_ref(&stub.ca), control)
}

#[tokio::test]
async fn the_authoritys_pause_is_kept() {
    let cancel = CancellationToken::new();
    let stub = Stub::start(None, cancel.clone()).await;
    let rig = on_stub(&stub, memory());
    let (reason, retry_at) = rig.error().await;
    assert!(reason.contains("too many orders"), "{reason}");
    let pause = retry_at.unwrap().duration_since(Timestamp::now()).as_secs();
    assert!((7000..=7200).contains(&pause), "{pause}");
    // One order, though the first nonce of each request was refused.
    let wanted = serde_json::json!([{"identifiers": [{"type": "dns", "value": DOMAIN}]}]);
    assert_eq!(serde_json::Value::from(stub.orders()), wanted);

    let end = retry_at.unwrap();
    rig.set_time(end - SignedDuration::from_secs(10));
    assert_eq!(rig.error().await.1, retry_at);
    rig.certs.forget(DOMAIN);
    assert_eq!(rig.error().await.1, retry_at);
    assert_eq!(stub.orders().len(), 1);
    rig.set_time(end + SignedDuration::from_secs(1));
    rig.error().await;
    assert_eq!(stub.orders().len(), 2);
    cancel.cancel();
}

#[tokio::test]
async fn all_names_of_a_node_have_one_account_also_after_a_restart() {
    /// Takes its time, so that who reads before another one has written is found out.
    #[derive(Debug, Default)]
    struct Slow(MemoryStore);

    impl StateStore for Slow {
        fn read<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                self.0.read(key).await
            })
        }
        fn write(&self, values: BTreeMap<String, Vec<u8>>) -> StoreFuture<'_, ()> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                self.0.write(values).await
            })
        }
        fn clear(&self) -> StoreFuture<'_, ()> {
            self.0.clear()
        }
    }

    let cancel = CancellationToken::new();
    let stub = Stub::start(None, cancel.clone()).await;
    let rig = on_stub(&stub, Arc::new(Slow::default()));
    let (one, two) = tokio::join!(rig.certs.get(DOMAIN), rig.certs.get("b.example.ts.net"));
    assert!(one.is_err() && two.is_err(), "this authority gives none");
    let again = on_stub(&stub, rig.store.clone());
    again.certs.get("c.example.ts.net").await.unwrap_err();
    let keys = stub.account_keys();
    assert_eq!((keys.len(), stub.orders().len()), (3, 3));
    assert!(
        keys.iter().all(|key| key.is_object() && *key == keys[0]),
        "{keys:?}"
    );
    cancel.cancel();
}

#[tokio::test]
async fn the_authority_may_want_a_renewal_early_and_hears_what_it_replaces() {
    // The certificate of the example in RFC 9773 §4.1, and its identifier.
    const SERIAL: [u8; 4] = [0x87, 0x65, 0x43, 0x21];
    const KEY_ID: &str = "69885b6b87464041e1b37b847ba0ae2cde01c8d4";
    const ID: &str = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE";
    let (ca_key, key) = (
        rcgen::KeyPair::generate().unwrap(),
        rcgen::KeyPair::generate().unwrap(),
    );
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(hex::decode(KEY_ID).unwrap());
    let mut params = rcgen::CertificateParams::new(vec![DOMAIN.to_owned()]).unwrap();
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&SERIAL));
    params.use_authority_key_identifier_extension = true;
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    let certificate = params.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
    let store = memory();
    let (chain_key, key_key) = Name::parse(DOMAIN).unwrap().keys();
    let pair = [
        (chain_key, certificate.pem().into_bytes()),
        (key_key, key.serialize_pem().into_bytes()),
    ];
    store.write(pair.into()).await.unwrap();

    let cancel = CancellationToken::new();
    let window = ["2021-01-01T00:00:00Z", "2021-01-03T00:00:00Z"];
    let stub = Stub::start(Some(window), cancel.clone()).await;
    let rig = on_stub(&stub, store);
    let old = rig.certs.get(DOMAIN).await.unwrap();
    assert!(rig.settled().await.failed.is_none(), "by its age nothing is due");
    let known = rig.certs.0.known(&Name::parse(DOMAIN).unwrap()).await.unwrap();
    rig.certs.0.ask_for_window(&known).await;
    assert_eq!(stub.renewals(), [ID]);
    // It wants to be asked every six hours.
    let asked = Timestamp::now();
    rig.set_time(asked + SignedDuration::from_mins(359));
    rig.certs.0.ask_for_window(&known).await;
    assert_eq!(stub.renewals().len(), 1);
    rig.set_time(asked + SignedDuration::from_mins(361));
    rig.certs.0.ask_for_window(&known).await;
    assert_eq!(stub.renewals(), [ID, ID]);

    let still = rig.certs.get(DOMAIN).await.unwrap();
    assert!(Arc::ptr_eq(&old, &still), "served while another one is ordered");
    let failed = rig.settled().await.failed.expect("this authority gives none");
    assert!(failed.reason.contains("too many orders"), "{}", failed.reason);
    let orders = stub.orders();
    assert_eq!((orders.len(), &orders[0]["replaces"]), (1, &ID.into()));
    cancel.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_asks_for_is_renewed_too() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![DOMAIN.to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    let store = memory();
    let name = Name::parse(DOMAIN).unwrap();
    let chain = params.self_signed(&key).unwrap().pem().into_bytes();
    let pair = [
        (name.keys().0, chain),
        (name.keys().1, key.serialize_pem().into_bytes()),
    ];
    store.write(pair.into()).await.unwrap();
    let control = Control {
        pebble: None,
        dns: Dns::Refuse,
        calls: AtomicUsize::new(0),
        store,
    };
    let rig = Rig::new("https://127.0.0.1:1/dir", &[], control);
    rig.certs.get(DOMAIN).await.unwrap();
    assert!(rig.settled().await.failed.is_none(), "nothing is due yet");

    rig.set_time("2090-01-01T00:00:00Z".parse().unwrap());
    let known = rig.certs.0.known(&name).await.unwrap();
    let mut changes = known.subscribe();
    let tried = changes.wait_for(|known| known.failed.is_some());
    // On the paused clock hours are nothing.
    let tried = tokio::time::timeout(CHECK_INTERVAL * 3, tried).await;
    tried.expect("a renewal is tried").unwrap();
    rig.certs.get(DOMAIN).await.expect("the old one is still valid");
}
