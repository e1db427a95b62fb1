//! The provider: its configuration, its documents, and the way from a request to an answer.

pub(crate) mod route;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;
use zeroize::Zeroizing;

pub use route::LARGEST_BODY;

use crate::{
    client::{self, Client, Clients},
    declared::Declared,
    error::{Code, Error},
    identify::{Identify, NodeId, Peer, User},
    import::Tsidp,
    issuer::Issuer,
    keys::{Algorithm, KeySet, Keys},
    state,
    store::{Document, Key, Store, StoreError, Swap, Version},
};

/// How the provider behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything is below it.
    pub issuer: Issuer,
    /// How ID tokens of new clients are signed.
    pub signing: Algorithm,
    /// Whether tokens may be exchanged (RFC 8693; tsidp: `-enable-sts`).
    pub token_exchange: bool,
    /// Dynamic client registration, for peers whom the policy grants it.
    pub registration: Registration,
    /// How long things are good.
    pub lifetimes: Lifetimes,
    /// Clients that the host has from elsewhere, and may replace at any time.
    pub declared: Declared,
}

impl Config {
    /// The defaults for this issuer.
    pub fn new(issuer: Issuer) -> Self {
        Self {
            issuer,
            signing: Algorithm::default(),
            token_exchange: false,
            registration: Registration::default(),
            lifetimes: Lifetimes::default(),
            declared: Declared::default(),
        }
    }
}

/// How clients may register themselves.
#[derive(Debug, Clone, Copy)]
pub struct Registration {
    /// Whether they may at all; the policy has to grant it to the peer besides (`allow_dcr`).
    pub enabled: bool,
    /// They go after so many seconds; `None`: never.
    pub expire_after: Option<i64>,
    /// In one of [`crate::Shard::COUNT`] parts, so many at once.
    pub most_per_shard: usize,
}

impl Default for Registration {
    fn default() -> Self {
        Self {
            enabled: true,
            expire_after: None,
            most_per_shard: 100,
        }
    }
}

/// How long things are good, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// From the redirect to the token request.
    pub code: i64,
    /// ID and access tokens.
    pub token: i64,
    /// A refresh token that isn't used; each use gives a new one.
    pub refresh: i64,
    /// From showing the consent page to the click.
    pub consent_page: i64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            code: 60,
            token: 300,
            refresh: 30 * 86_400,
            consent_page: 600,
        }
    }
}

/// Where a request came in; what may be done there, and who is asking, follows from it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Over the tailnet: everything.
    Tailnet {
        /// The peer's address, authenticated by the tailnet.
        peer: IpAddr,
        /// The address of ours that it reached.
        local: IpAddr,
    },
    /// From the internet through Funnel: what clients ask, nothing that needs to know a person.
    Funnel,
    /// From inside of the cluster or the machine: the same as for Funnel.
    BackChannel,
}

/// The provider. Any number of them may share a store.
pub struct Provider {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) identify: Arc<dyn Identify>,
    /// Parsed ones with the version that they are of.
    keys: Mutex<Option<(Version, Arc<KeySet>)>>,
}

/// Of several replicas that start at once, all but one find keys after so many tries.
const ATTEMPTS: u32 = 8;

impl Provider {
    /// Makes keys if the store has none. On such a first start clients and key of tsidp are taken over, if they
    /// are given.
    ///
    /// # Errors
    /// When the store can't be used.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        identify: Arc<dyn Identify>,
        before: Option<Tsidp>,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let provider = Self {
            config,
            store,
            identify,
            keys: Mutex::default(),
        };
        provider
            .first_start(before.unwrap_or_default(), now.as_second())
            .await?;
        provider.tend(now).await?;
        Ok(provider)
    }

    /// Rotates keys that are due; to be called every few hours.
    ///
    /// # Errors
    /// When the store can't be used. The keys that are there stay good.
    pub async fn tend(&self, now: Timestamp) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            let Some(document) = self.store.read(Key::Keys).await? else {
                return Ok(());
            };
            let mut keys = parse_keys(&document)?;
            let before = write_keys(&keys)?;
            keys.tend(now.as_second()).map_err(|_| no_cryptography())?;
            let after = write_keys(&keys)?;
            if after == before {
                return Ok(());
            }
            if let Swap::Done(_) = self.store.swap(Key::Keys, Some(&document.version), after).await? {
                tracing::info!("Signing keys rotated");
                return Ok(());
            }
        }
        Err(contended())
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    async fn first_start(&self, before: Tsidp, now: i64) -> Result<(), StoreError> {
        if self.store.read(Key::Keys).await?.is_some() {
            return Ok(());
        }
        let Tsidp { key, clients } = before;
        // The keys come last: that they are there says that the rest is done.
        for (id, client) in clients {
            state::change(&*self.store, client::key(&id), now, |clients: &mut Clients| {
                clients.0.entry(id.clone()).or_insert_with(|| client.clone());
            })
            .await?;
        }
        let keys = Keys::generate(key, now).map_err(|_| no_cryptography())?;
        // Another replica may have been first; its keys are as good.
        self.store.swap(Key::Keys, None, write_keys(&keys)?).await?;
        Ok(())
    }

    /// The keys as the store has them.
    pub(crate) async fn keys(&self) -> Result<Arc<KeySet>, Error> {
        let document = self.store.read(Key::Keys).await?;
        let Some(document) = document else {
            tracing::error!("The keys of the identity provider are gone; start it again to make new ones");
            return Err(Code::TemporarilyUnavailable.because("the provider has no keys"));
        };
        if let Some((version, keys)) = &*self.keys.lock()
            && *version == document.version
        {
            return Ok(keys.clone());
        }
        let keys = Arc::new(KeySet::new(&parse_keys(&document)?)?);
        *self.keys.lock() = Some((document.version, keys.clone()));
        Ok(keys)
    }

    /// The client with this id, unless it has expired.
    pub(crate) async fn client(&self, id: &str, now: i64) -> Result<Option<Client>, Error> {
        let found = match self.config.declared.all().get(id) {
            Some(client) => Some(client.clone()),
            None => {
                let mut clients: Clients = state::read(&*self.store, client::key(id)).await?;
                clients.0.remove(id)
            }
        };
        Ok(found.filter(|client| client.expires.is_none_or(|end| end > now)))
    }

    /// All clients, by id.
    pub(crate) async fn clients(&self, now: i64) -> Result<BTreeMap<String, Client>, Error> {
        let mut all = BTreeMap::new();
        for shard in crate::Shard::all() {
            let clients: Clients = state::read(&*self.store, Key::Clients(shard)).await?;
            all.extend(clients.0);
        }
        let declared = self.config.declared.all();
        all.extend(declared.iter().map(|(id, client)| (id.clone(), client.clone())));
        all.retain(|_, client| client.expires.is_none_or(|end| end > now));
        Ok(all)
    }

    /// The peer behind a request. Funnel and the back channel have none, whatever their addresses are.
    pub(crate) fn peer(&self, arrival: Arrival) -> Option<Peer> {
        match arrival {
            Arrival::Tailnet { peer, local } => self.identify.whois(peer, local),
            Arrival::Funnel | Arrival::BackChannel => None,
        }
    }

    /// The user of a login, as the tailnet knows him now on the machine that he came from.
    pub(crate) fn again(&self, node: NodeId, user: i64) -> Option<(Peer, User)> {
        let peer = self.identify.again(node)?;
        let known = peer.user.clone().filter(|known| known.id == user)?;
        Some((peer, known))
    }
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn parse_keys(document: &Document) -> Result<Keys, StoreError> {
    state::parse(Key::Keys, document, Keys::FORMAT)
}

fn write_keys(keys: &Keys) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let bytes = serde_json::to_vec(keys).map_err(|error| StoreError::Io {
        action: "make",
        document: Key::Keys.to_string(),
        source: error.into(),
    })?;
    Ok(Zeroizing::new(bytes))
}

fn no_cryptography() -> StoreError {
    StoreError::Io {
        action: "make keys for",
        document: Key::Keys.to_string(),
        source: "the cryptographic library failed".into(),
    }
}

fn contended() -> StoreError {
    StoreError::Contended {
        document: Key::Keys.to_string(),
    }
}
