//! A tailnet with a provider on it, and a browser that walks through its pages.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use postern_idp::{
    Arrival, CAPABILITY, Client, Config, Identify, Issuer, Key, Machine, Peer, Provider, Store, User,
    store::MemoryStore,
};
use serde_json::{Value, json, value::RawValue};

pub(crate) const ISSUER: &str = "https://idp.example.ts.net";
pub(crate) const ALICE: u8 = 1;
pub(crate) const BOB: u8 = 2;
/// A tagged machine.
pub(crate) const SERVER: u8 = 3;
/// Nobody.
pub(crate) const STRANGER: u8 = 9;

/// Who is on the tailnet, changed by tests.
#[derive(Default)]
pub(crate) struct People {
    peers: Mutex<BTreeMap<u8, Peer>>,
}

impl People {
    pub(crate) fn change(&self, who: u8, change: impl FnOnce(&mut Peer)) {
        change(self.peers.lock().get_mut(&who).unwrap());
    }

    pub(crate) fn remove(&self, who: u8) {
        self.peers.lock().remove(&who);
    }

    pub(crate) fn grant(&self, who: u8, rules: &[Value]) {
        let values = rules
            .iter()
            .map(|rule| RawValue::from_string(rule.to_string()).unwrap());
        self.change(who, |peer| {
            peer.capabilities.insert(CAPABILITY.to_owned(), values.collect());
        });
    }
}

impl Identify for People {
    fn whois(&self, peer: IpAddr, _: IpAddr) -> Option<Peer> {
        let IpAddr::V4(address) = peer else { return None };
        self.peers.lock().get(&address.octets()[3]).cloned()
    }

    fn again(&self, node: i64) -> Option<Peer> {
        self.peers.lock().get(&u8::try_from(node).ok()?).cloned()
    }
}

/// A provider with its tailnet and its store.
#[derive(Clone)]
pub(crate) struct Tailnet {
    pub(crate) people: Arc<People>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) provider: Arc<Provider>,
    /// Ahead of the clock.
    pub(crate) ahead: Arc<Mutex<SignedDuration>>,
}

/// The id and secret of the client that every tailnet here has.
pub(crate) const APP: (&str, &str) = ("app", "the-secret-of-app");
pub(crate) const REDIRECT: &str = "https://app.example.com/cb?tenant=1";
pub(crate) const PROGRAM: &str = "program";
pub(crate) const PROGRAM_REDIRECT: &str = "http://127.0.0.1/callback";

impl Tailnet {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        store.swap(Key::Keys, None, keys().clone()).await.unwrap();
        Self::on(store, configure).await
    }

    pub(crate) async fn on(store: Arc<dyn Store>, configure: impl FnOnce(&mut Config)) -> Self {
        let people = Arc::new(People::default());
        for (id, login, name, tags) in [
            (ALICE, "alice@example.com", "Alice", vec![]),
            (BOB, "bob@github", "Bob", vec![]),
            (SERVER, "", "", vec!["tag:server".to_owned()]),
        ] {
            let machine = Machine {
                id: id.into(),
                name: format!(
                    "{}.example.ts.net",
                    if login.is_empty() { "server" } else { name }
                )
                .to_lowercase(),
                key: format!("nodekey:{:064x}", id),
                addresses: vec![format!("100.64.0.{id}/32")],
                tags,
            };
            let user = (!login.is_empty()).then(|| User {
                id: 1000 + i64::from(id),
                login: login.to_owned(),
                name: name.to_owned(),
                picture: "https://pictures.example.com/1.png".to_owned(),
                groups: vec!["group:eng".to_owned()],
            });
            let peer = Peer {
                machine,
                user,
                capabilities: BTreeMap::new(),
            };
            people.peers.lock().insert(id, peer);
        }
        Self::replica(store, people, configure).await
    }

    /// A provider over a store and a tailnet that are there.
    pub(crate) async fn replica(
        store: Arc<dyn Store>,
        people: Arc<People>,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::new(Issuer::new("idp.example.ts.net", 443).unwrap());
        configure(&mut config);
        let provider = Provider::start(config, store.clone(), people.clone(), None, Timestamp::now());
        let provider = Arc::new(provider.await.unwrap());
        let app: Client = serde_json::from_value(json!({
            "name": "The App", "redirectUris": ["https://other.example.com", REDIRECT], "signing": "RS256",
            "secrets": [{"hash": postern_idp::Hash::of(APP.1)}],
        }))
        .unwrap();
        let program: Client = serde_json::from_value(json!({
            "name": "A Program", "redirectUris": [PROGRAM_REDIRECT], "kind": "public",
        }))
        .unwrap();
        let declared = [(APP.0.to_owned(), app), (PROGRAM.to_owned(), program)];
        provider.config().declared.replace(declared.into());
        Self {
            people,
            store,
            provider,
            ahead: Arc::default(),
        }
    }

    pub(crate) fn wait(&self, seconds: i64) {
        *self.ahead.lock() += SignedDuration::from_secs(seconds);
    }

    pub(crate) async fn send(&self, arrival: Arrival, request: Request<Bytes>) -> Response<Bytes> {
        let now = Timestamp::now() + *self.ahead.lock();
        self.provider.handle(arrival, request, now).await
    }

    /// What a server sends: it knows no peer.
    pub(crate) async fn post(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let request = form_request(path, form);
        let answer = self.send(Arrival::BackChannel, request).await;
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store", "{path}");
        assert_eq!(
            answer.headers()[header::CONTENT_TYPE],
            "application/json",
            "{path}"
        );
        let body = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
        (answer.status(), body)
    }

    /// As the client `app`, with its secret in the form.
    pub(crate) async fn post_as_app(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let mut all = vec![("client_id", APP.0), ("client_secret", APP.1)];
        all.extend(form);
        self.post(path, &all).await
    }

    pub(crate) fn browser(&self, who: u8) -> Browser {
        Browser {
            tailnet: self.clone(),
            who,
            cookie: None,
        }
    }

    /// A whole login at `app`: the tokens.
    pub(crate) async fn login(&self, who: u8, more: &[(&str, &str)]) -> Value {
        let code = self.code(who, more).await;
        let (status, tokens) = self.redeem(&code).await;
        assert_eq!(status, StatusCode::OK, "{tokens}");
        tokens
    }

    /// A code for `app`.
    pub(crate) async fn code(&self, who: u8, more: &[(&str, &str)]) -> String {
        let location = self.browser(who).authorize(&authorize_url(more)).await;
        query(&location)
            .remove("code")
            .unwrap_or_else(|| panic!("{location}"))
    }

    pub(crate) async fn redeem(&self, code: &str) -> (StatusCode, Value) {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT),
        ];
        self.post_as_app("/token", &form).await
    }

    pub(crate) async fn refresh(&self, tokens: &Value) -> (StatusCode, Value) {
        let token = tokens["refresh_token"].as_str().unwrap();
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        self.post_as_app("/token", &form).await
    }

    /// Whether the access token is good.
    pub(crate) async fn is_active(&self, tokens: &Value) -> bool {
        let token = tokens["access_token"].as_str().unwrap();
        let (status, claims) = self.post_as_app("/introspect", &[("token", token)]).await;
        assert_eq!(status, StatusCode::OK);
        claims["active"].as_bool().unwrap()
    }

    pub(crate) async fn user_info(&self, tokens: &Value) -> (StatusCode, Value) {
        let token = tokens["access_token"].as_str().unwrap();
        let request = Request::get("/userinfo").header(header::AUTHORIZATION, format!("Bearer {token}"));
        let answer = self
            .send(Arrival::BackChannel, request.body(Bytes::new()).unwrap())
            .await;
        (answer.status(), serde_json::from_slice(answer.body()).unwrap())
    }
}

/// Making RSA keys takes seconds without optimisation: all tests have the same.
fn keys() -> &'static zeroize::Zeroizing<Vec<u8>> {
    static KEYS: LazyLock<zeroize::Zeroizing<Vec<u8>>> = LazyLock::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let made = std::thread::spawn(move || {
            runtime.block_on(async {
                let store = Arc::new(MemoryStore::default());
                let config = Config::new(Issuer::new("x", 443).unwrap());
                let people = Arc::new(People::default());
                Provider::start(config, store.clone(), people, None, Timestamp::now())
                    .await
                    .unwrap();
                store.read(Key::Keys).await.unwrap().unwrap().bytes
            })
        });
        made.join().unwrap()
    });
    &KEYS
}

pub(crate) fn authorize_url(more: &[(&str, &str)]) -> String {
    let mut parameters = BTreeMap::from([
        ("response_type", "code"),
        ("client_id", APP.0),
        ("redirect_uri", REDIRECT),
        ("scope", "openid email profile"),
        ("state", "a state"),
    ]);
    parameters.extend(more.iter().copied());
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters);
    format!("/authorize?{}", query.finish())
}

pub(crate) fn form_request(path: &str, form: &[(&str, &str)]) -> Request<Bytes> {
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(form);
    Request::post(path)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Bytes::from(body.finish()))
        .unwrap()
}

pub(crate) fn query(location: &str) -> BTreeMap<String, String> {
    let (_, query) = location.split_once('?').unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// The claims of a token, unverified.
pub(crate) fn claims(token: &Value) -> Value {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let claims = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

pub(crate) fn at(who: u8) -> Arrival {
    Arrival::Tailnet {
        peer: Ipv4Addr::new(100, 64, 0, who).into(),
        local: Ipv4Addr::new(100, 64, 0, 100).into(),
    }
}

/// A user's browser: it keeps the cookie, and sends forms as they are on the page.
pub(crate) struct Browser {
    pub(crate) tailnet: Tailnet,
    pub(crate) who: u8,
    pub(crate) cookie: Option<String>,
}

impl Browser {
    pub(crate) async fn get(&mut self, url: &str) -> Response<Bytes> {
        let path = url.strip_prefix(ISSUER).unwrap_or(url);
        self.send(Request::get(path).body(Bytes::new()).unwrap()).await
    }

    /// Sends the form of a page of ours.
    pub(crate) async fn submit(&mut self, path: &str, form: &[(&str, &str)]) -> Response<Bytes> {
        let mut request = form_request(path, form);
        request
            .headers_mut()
            .insert(header::ORIGIN, ISSUER.parse().unwrap());
        self.send(request).await
    }

    pub(crate) async fn send(&mut self, mut request: Request<Bytes>) -> Response<Bytes> {
        if let Some(cookie) = &self.cookie {
            request
                .headers_mut()
                .insert(header::COOKIE, cookie.parse().unwrap());
        }
        let answer = self.tailnet.send(at(self.who), request).await;
        if let Some(set) = answer.headers().get(header::SET_COOKIE) {
            self.cookie = set.to_str().unwrap().split(';').next().map(str::to_owned);
        }
        answer
    }

    /// Goes to the authorization endpoint, continues if there is a consent page: where it ends.
    pub(crate) async fn authorize(&mut self, url: &str) -> String {
        let answer = self.get(url).await;
        let answer = match answer.status() {
            StatusCode::OK => {
                let form = hidden(&answer);
                let mut form: Vec<(&str, &str)> =
                    form.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                form.push(("decision", "allow"));
                self.submit("/consent", &form).await
            }
            _ => answer,
        };
        location(&answer)
    }
}

/// Where an answer leads to.
pub(crate) fn location(answer: &Response<Bytes>) -> String {
    let location = answer.headers().get(header::LOCATION);
    let location = location.unwrap_or_else(|| panic!("{} {}", answer.status(), text(answer)));
    location.to_str().unwrap().to_owned()
}

pub(crate) fn text(answer: &Response<Bytes>) -> String {
    String::from_utf8(answer.body().to_vec()).unwrap()
}

/// The hidden fields of the first form.
pub(crate) fn hidden(page: &Response<Bytes>) -> Vec<(String, String)> {
    let page = text(page);
    let form = page
        .split("<form")
        .nth(1)
        .unwrap()
        .split("</form>")
        .next()
        .unwrap()
        .to_owned();
    let fields = form.split("<input type=\"hidden\" ").skip(1);
    let between = |text: &str, before: &str| {
        let (_, rest) = text.split_once(before).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    fields
        .map(|field| (between(field, "name=\""), between(field, "value=\"")))
        .collect()
}

pub(crate) fn get(path: &str) -> Request<Bytes> {
    Request::builder()
        .method(Method::GET)
        .uri(path)
        .body(Bytes::new())
        .unwrap()
}
