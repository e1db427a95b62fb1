//! The whole session against a fake server, on paused time.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Method;
use tokio::time::{Instant, sleep, timeout};

use super::{
    fake::{Call, MapStream, Network, Server, server},
    *,
};
use crate::{
    credential::{IdToken, WorkloadIdentity},
    key::NodePublic,
    state::StateError,
};

mod requests;

const OK: &str = r#"{"MachineAuthorized":true}"#;

/// Remembers what was stored.
#[derive(Default)]
struct Store {
    states: Mutex<Vec<NodeState>>,
    broken: AtomicBool,
}

impl Persist for Store {
    fn persist(&self, state: NodeState) -> crate::state::StoreFuture<'_, ()> {
        Box::pin(async move {
            if self.broken.load(Ordering::Relaxed) {
                return Err(StateError::InUse {
                    what: "store".to_owned(),
                });
            }
            self.states.lock().unwrap().push(state);
            Ok(())
        })
    }
}

impl Store {
    fn last(&self) -> (NodePublic, bool) {
        let states = self.states.lock().unwrap();
        let last = states.last().unwrap();
        (last.node_key.public(), last.registered)
    }
}

struct Answers;
impl C2n for Answers {}

/// A session and everything around it.
struct Lab {
    network: Arc<Network>,
    server: Server,
    store: Arc<Store>,
    local: watch::Sender<LocalState>,
    control: Control,
    node_key: NodeKeyWatch,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

fn lab(auth_key: Option<&str>, registered: bool) -> Lab {
    lab_with(auth_key.map(|key| Credential::key(key).unwrap()), registered)
}

fn lab_with(credential: Option<Credential>, registered: bool) -> Lab {
    let (network, server) = server();
    let mut state = NodeState::generate().unwrap();
    state.registered = registered;
    let config = ControlConfig {
        url: "http://control.test".to_owned(),
        credential,
        hostname: "h".to_owned(),
        tags: vec!["tag:a".to_owned()],
        ..ControlConfig::default()
    };
    let store = Arc::new(Store::default());
    let (local, watch) = watch::channel(LocalState::default());
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let (control, node_key) = spawn_with(
        Arc::clone(&network) as Arc<dyn Dial>,
        config,
        state,
        Arc::clone(&store) as Arc<dyn Persist>,
        Arc::new(Answers),
        watch,
        &tasks,
        cancel.clone(),
    );
    Lab {
        network,
        server,
        store,
        local,
        control,
        node_key,
        tasks,
        cancel,
    }
}

fn self_node(fields: &str) -> String {
    let key = NodePublic::from_bytes([1; 32]);
    format!(
        r#"{{"Node":{{"ID":1,"Key":"{key}","Name":"h.example.ts.net.","Addresses":["100.64.0.1/32"],
            "MachineAuthorized":true{fields}}},"Domain":"d"}}"#
    )
}

impl Lab {
    /// Waits until the status is as wanted.
    async fn status(&mut self, wanted: impl Fn(&ControlStatus) -> bool) -> ControlStatus {
        let wait = self.control.status.wait_for(|status| wanted(status));
        let status = timeout(Duration::from_secs(3600), wait).await;
        status.expect("the status in time").unwrap().clone()
    }

    async fn running(&mut self) {
        self.status(|s| *s == ControlStatus::Running).await;
    }

    /// Logged in, with a stream that has said who we are, and the first update taken.
    async fn start() -> (Self, MapStream) {
        let mut lab = lab(None, true);
        lab.server.register().await.answer(200, OK);
        let stream = lab.server.stream().await.open();
        stream.send(&self_node(""));
        lab.running().await;
        lab.server.update().await.answer(200, "");
        (lab, stream)
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_login_is_stored_before_it_is_used() {
    let mut lab = lab(Some("tskey-auth-1"), false);
    let register = lab.server.register().await;
    assert_eq!(register.body["Auth"]["AuthKey"], "tskey-auth-1");
    assert_eq!(register.body["Version"], CAPABILITY_VERSION);
    let key = lab.node_key.borrow().public();
    assert_eq!(register.body["NodeKey"], key.to_string());
    assert_eq!(lab.store.last(), (key, false));
    register.answer(200, OK);
    let stream = lab.server.stream().await;
    assert_eq!(lab.store.last(), (key, true));
    assert_eq!(stream.body["Hostinfo"]["Hostname"], "h");
    let stream = stream.open();
    stream.send(&self_node(""));
    lab.running().await;
    let netmap = lab.control.netmap.borrow_and_update().clone().unwrap();
    assert_eq!(netmap.self_node.name, "h.example.ts.net");
    stream.send(r#"{"Domain":"other"}"#);
    lab.control.netmap.changed().await.unwrap();
    assert_eq!(lab.control.netmap.borrow().as_ref().unwrap().domain, "other");
}

#[tokio::test(start_paused = true)]
async fn a_login_that_cannot_be_stored_is_not_used() {
    let mut lab = lab(Some("tskey-auth-1"), false);
    let register = lab.server.register().await;
    lab.store.broken.store(true, Ordering::Relaxed);
    register.answer(200, OK);
    let status = lab
        .status(|s| {
            matches!(
                s,
                ControlStatus::Connecting {
                    last_error: Some(_),
                    ..
                }
            )
        })
        .await;
    assert!(format!("{status:?}").contains("keep the login"), "{status:?}");
    lab.store.broken.store(false, Ordering::Relaxed);
    lab.server.register().await.answer(200, OK);
    lab.server.stream().await;
    assert!(lab.store.last().1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_replaced_and_keep_alives_prevent_that() {
    let (mut lab, stream) = Lab::start().await;
    for _ in 0..5 {
        sleep(Duration::from_secs(100)).await;
        stream.send(r#"{"KeepAlive":true}"#);
    }
    assert_eq!(lab.server.waiting(), 0);
    let silent_since = Instant::now();
    let again = lab.server.stream().await.open();
    let after = silent_since.elapsed().as_secs();
    assert!((120..=121).contains(&after), "{after}");
    let before = lab.control.netmap.borrow_and_update().clone().unwrap();
    again.send(&self_node(""));
    lab.running().await;
    let netmap = lab.control.netmap.borrow().clone().unwrap();
    assert!(netmap.generation > before.generation);
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_one_after_the_other_and_the_newest_last() {
    let (mut lab, _stream) = Lab::start().await;
    let region = |region| move |local: &mut LocalState| local.net_info.preferred_derp = Some(region);
    lab.local.send_modify(region(1));
    let first = lab.server.update().await;
    assert_eq!(first.body["Hostinfo"]["NetInfo"]["PreferredDERP"], 1);
    assert_eq!(first.body.get("Stream"), None);
    for n in 2..9 {
        lab.local.send_modify(region(n));
        tokio::task::yield_now().await;
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(lab.server.waiting(), 0, "one at a time");
    first.answer(200, "");
    let failing = lab.server.update().await;
    assert_eq!(failing.body["Hostinfo"]["NetInfo"]["PreferredDERP"], 8);
    failing.answer(500, "");
    let repeated = lab.server.update().await;
    assert_eq!(repeated.body["Hostinfo"]["NetInfo"]["PreferredDERP"], 8);
    repeated.answer(200, "");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(lab.server.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_and_survived() {
    let (mut lab, stream) = Lab::start().await;
    lab.network.down.store(true, Ordering::Relaxed);
    drop(stream);
    sleep(Duration::from_secs(600)).await;
    let status = lab.control.status.borrow().clone();
    assert!(
        matches!(&status, ControlStatus::Connecting { last_error: Some(e), retry_at: Some(_) } if e.contains("connect to http://control.test")),
        "{status:?}"
    );
    assert!(lab.control.netmap.borrow().is_some(), "the last map stays");
    lab.network.down.store(false, Ordering::Relaxed);
    let back = Instant::now();
    let stream = lab.server.stream().await.open();
    assert!(back.elapsed() <= Duration::from_secs(31), "{:?}", back.elapsed());
    stream.send(&self_node(""));
    lab.running().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_with_a_new_key_is_found_again() {
    let (mut lab, stream) = Lab::start().await;
    lab.network.change_key();
    drop(stream);
    let stream = lab.server.stream().await.open();
    stream.send(&self_node(""));
    lab.running().await;
}

/// As with a dial plan whose addresses are all dead: DNS has its turn after 5 s.
#[tokio::test(start_paused = true)]
async fn dials_that_take_most_of_the_time_are_no_end_even_when_the_key_must_be_fetched() {
    let (mut lab, stream) = Lab::start().await;
    *lab.network.slowness.lock().unwrap() = Duration::from_secs(6);
    lab.network.change_key();
    drop(stream);
    let again = timeout(Duration::from_secs(120), lab.server.stream()).await;
    let stream = again.expect("a session").open();
    stream.send(&self_node(""));
    lab.running().await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_make_no_sense_cost_a_stream_and_not_the_session() {
    let (mut lab, stream) = Lab::start().await;
    stream.send("{");
    let stream = lab.server.stream().await.open();
    stream.send(r#"{"Peers":[]}"#);
    let stream = lab.server.stream().await.open();
    stream.raw(&u32::MAX.to_le_bytes());
    let stream = lab.server.stream().await.open();
    stream.raw(b"\x05\x00\x00\x00{");
    drop(stream);
    let stream = lab.server.stream().await.open();
    stream.send(&self_node(r#","Cap":"x","Strange":{}"#));
    lab.running().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_auth_key_is_told_and_tried_again_later() {
    let mut lab = lab(Some("tskey-auth-1"), false);
    lab.server.register().await.answer(401, "authkey expired\n");
    let status = lab.status(|s| matches!(s, ControlStatus::Refused { .. })).await;
    assert!(format!("{status:?}").contains("authkey expired"), "{status:?}");
    lab.server
        .register()
        .await
        .answer(200, r#"{"Error":"invalid key"}"#);
    let register = lab.server.register().await;
    assert_eq!(register.body["Auth"]["AuthKey"], "tskey-auth-1");
    register.answer(200, OK);
    lab.server.stream().await;
}

#[tokio::test(start_paused = true)]
async fn an_oauth_client_makes_a_key_for_each_login() {
    let secret = "tskey-client-x?baseURL=http://api.test&preauthorized=true";
    let mut lab = lab(Some(secret), false);
    for key in ["tskey-auth-1", "tskey-auth-2"] {
        let token = lab.server.path("/api/v2/oauth/token").await;
        assert!(String::from_utf8_lossy(&token.raw).contains("client_secret=tskey-client-x"));
        token.answer(200, r#"{"access_token":"t","expires_in":3600}"#);
        let made = lab.server.path("/api/v2/tailnet/-/keys").await;
        let create = &made.body["capabilities"]["devices"]["create"];
        assert_eq!(
            (&create["tags"][0], &create["preauthorized"]),
            (&"tag:a".into(), &true.into())
        );
        made.answer(200, &format!(r#"{{"id":"k","key":"{key}"}}"#));
        // A lost answer: the same key is tried again.
        lab.server.register().await.answer(503, "");
        let register = lab.server.register().await;
        assert_eq!(register.body["Auth"]["AuthKey"], key);
        register.answer(200, r#"{"Error":"revoked"}"#);
    }
    lab.server
        .path("/api/v2/oauth/token")
        .await
        .answer(401, r#"{"message":"API token invalid"}"#);
    let told =
        |s: &ControlStatus| matches!(s, ControlStatus::Refused { reason } if reason.contains("OAuth client"));
    let status = format!("{:?}", lab.status(told).await);
    assert!(
        status.contains("401") && status.contains("API token invalid"),
        "{status}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_workload_identity_reads_its_token_for_each_login() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let token = IdToken::File(file.path().to_owned());
    let identity = WorkloadIdentity::new("id-1?ephemeral=true", token).unwrap();
    let mut lab = lab_with(Some(Credential::WorkloadIdentity(identity)), false);
    let status = lab
        .status(|s| matches!(s, ControlStatus::Refused { reason } if reason.contains("ID token")))
        .await;
    assert!(
        format!("{status:?}").contains(&file.path().display().to_string()),
        "{status:?}"
    );
    std::fs::write(file.path(), "a.b.c\n").unwrap();
    let exchange = lab.server.path("/api/v2/oauth/token-exchange").await;
    let form = String::from_utf8_lossy(&exchange.raw).into_owned();
    assert!(form.ends_with("client_id=id-1&jwt=a.b.c"), "{form}");
    exchange.answer(200, r#"{"access_token":"t"}"#);
    let made = lab.server.path("/api/v2/tailnet/-/keys").await;
    assert_eq!(made.body["capabilities"]["devices"]["create"]["ephemeral"], true);
    made.answer(200, r#"{"key":"tskey-auth-1"}"#);
    let register = lab.server.register().await;
    assert_eq!(register.body["Auth"]["AuthKey"], "tskey-auth-1");
    register.answer(200, OK);
    lab.server.stream().await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_is_kept() {
    let mut lab = lab(Some("tskey-auth-1"), false);
    let register = lab.server.register().await;
    let asked = Instant::now();
    register.answer_with(429, "slow down", &[("retry-after", "17")]);
    lab.server.register().await.answer(200, OK);
    assert_eq!(asked.elapsed().as_secs(), 17);
}

#[tokio::test(start_paused = true)]
async fn somebody_logs_in_by_url() {
    let mut lab = lab(None, false);
    lab.server
        .register()
        .await
        .answer(200, r#"{"AuthURL":"http://control.test/a/1?x\u0026y"}"#);
    let url = "http://control.test/a/1?x&y".to_owned();
    lab.status(|s| *s == ControlStatus::NeedsLogin { url: url.clone() })
        .await;
    let waiting = lab.server.register().await;
    assert_eq!(waiting.body["Followup"], url);
    sleep(Duration::from_secs(1000)).await;
    // The server gives up and the session asks again; the login stays the same.
    waiting.answer(500, "");
    let waiting = lab.server.register().await;
    assert_eq!(waiting.body["Followup"], url);
    assert_eq!(*lab.control.status.borrow(), ControlStatus::NeedsLogin { url });
    waiting.answer(200, r#"{"MachineAuthorized":false}"#);
    lab.status(|s| *s == ControlStatus::NeedsApproval).await;
    let stream = lab.server.stream().await.open();
    stream.send(&self_node(r#","MachineAuthorized":false"#).replace(r#""MachineAuthorized":true,"#, ""));
    assert_eq!(*lab.control.status.borrow(), ControlStatus::NeedsApproval);
    stream.send(&self_node(""));
    lab.running().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_has_ended_is_replaced_by_the_auth_key() {
    let mut lab = lab(Some("tskey-auth-1"), true);
    let old = lab.node_key.borrow_and_update().public();
    let refresh = lab.server.register().await;
    assert_eq!(refresh.body["NodeKey"], old.to_string());
    assert_eq!(refresh.body.get("Auth"), None);
    refresh.answer(200, r#"{"NodeKeyExpired":true}"#);
    let renewal = lab.server.register().await;
    assert_eq!(renewal.body["OldNodeKey"], old.to_string());
    assert_eq!(renewal.body["Auth"]["AuthKey"], "tskey-auth-1");
    let new = renewal.body["NodeKey"].clone();
    renewal.answer(200, OK);
    let stream = lab.server.stream().await;
    assert_eq!(stream.body["NodeKey"], new);
    assert!(lab.node_key.has_changed().unwrap());
    assert_eq!(lab.node_key.borrow().public().to_string(), new);
    assert_eq!(lab.store.last().0.to_string(), new);
    // It ends again, this time in the middle of a stream.
    let stream = stream.open();
    stream.send(&self_node(""));
    lab.running().await;
    stream.send(&self_node(r#","KeyExpiry":"2020-01-02T03:04:05Z""#));
    let renewal = lab.server.register().await;
    assert_eq!(renewal.body["OldNodeKey"], new);
    renewal.answer(200, r#"{"Error":"key is used up"}"#);
    lab.status(|s| *s == ControlStatus::KeyExpired).await;
    // Somebody has put the end off.
    let refresh = lab.server.register().await;
    assert_eq!(refresh.body["NodeKey"], new);
    assert_eq!(refresh.body.get("Auth"), None);
    refresh.answer(200, OK);
    let stream = lab.server.stream().await.open();
    stream.send(&self_node(""));
    lab.running().await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_extended_ends_the_wait_for_a_login() {
    let waits = |call: &Call| call.body["Followup"].as_str().is_some_and(|url| !url.is_empty());
    let (mut lab, stream) = Lab::start().await;
    let key = lab.node_key.borrow_and_update().public();
    stream.send(&self_node(r#","KeyExpiry":"2020-01-02T03:04:05Z""#));
    let url = r#"{"AuthURL":"http://control.test/a/1"}"#;
    lab.server.register().await.answer(200, url);
    let _followup = lab.server.call(waits).await;
    for answer in [r#"{"NodeKeyExpired":true}"#, url, OK] {
        let refresh = timeout(Duration::from_secs(600), lab.server.register()).await;
        let refresh = refresh.expect("the old key is asked about");
        assert_eq!(refresh.body["NodeKey"], key.to_string());
        assert_eq!(refresh.body["Followup"], "");
        let status = lab.control.status.borrow().clone();
        assert!(matches!(status, ControlStatus::NeedsLogin { .. }), "{status:?}");
        refresh.answer(200, answer);
    }
    let stream = lab.server.stream().await;
    assert_eq!(stream.body["NodeKey"], key.to_string());
    let stream = stream.open();
    stream.send(&self_node(""));
    lab.running().await;
    assert!(!lab.node_key.has_changed().unwrap());

    // And who logs in after all has the new key.
    stream.send(&self_node(r#","KeyExpiry":"2020-01-02T03:04:05Z""#));
    lab.server.register().await.answer(200, url);
    let followup = lab.server.call(waits).await;
    let refresh = lab.server.register().await;
    refresh.answer(200, r#"{"NodeKeyExpired":true}"#);
    let new = followup.body["NodeKey"].clone();
    assert_ne!(new, key.to_string());
    followup.answer(200, OK);
    assert_eq!(lab.server.stream().await.body["NodeKey"], new);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_control_has_forgotten_registers_again() {
    let (mut lab, stream) = Lab::start().await;
    drop(stream);
    lab.server.stream().await.answer(404, "node not found");
    let register = lab.server.register().await;
    register.answer(200, OK);
    let stream = lab.server.stream().await.open();
    stream.send(&self_node(""));
    lab.running().await;
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_every_task_in_every_state() {
    async fn ends(lab: Lab) {
        lab.cancel.cancel();
        lab.tasks.close();
        timeout(Duration::from_secs(1), lab.tasks.wait()).await.unwrap();
    }
    ends(lab(None, true)).await;
    let mut registering = lab(None, true);
    let _unanswered = registering.server.register().await;
    ends(registering).await;
    let (streaming, stream) = Lab::start().await;
    stream.send(r#"{"PingRequest":{"URL":"https://unused/x","URLIsNoise":true}}"#);
    ends(streaming).await;
    let down = lab(None, true);
    down.network.down.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(100)).await;
    ends(down).await;
}

#[tokio::test]
async fn a_url_that_makes_no_sense_is_refused() {
    let state = NodeState::generate().unwrap();
    let (_local, watch) = watch::channel(LocalState::default());
    let config = ControlConfig {
        url: "example.com".to_owned(),
        ..ControlConfig::default()
    };
    let tasks = TaskTracker::new();
    let (control, _key) = spawn(
        config,
        state,
        Arc::new(Store::default()),
        Arc::new(Answers),
        watch,
        &tasks,
        CancellationToken::new(),
    );
    let status = control.status.borrow().clone();
    assert!(
        matches!(&status, ControlStatus::Refused { reason } if reason.contains("example.com")),
        "{status:?}"
    );
}
