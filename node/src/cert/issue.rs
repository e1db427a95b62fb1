//! One certificate from an ACME authority by dns-01 (RFC 8555 §8.4; Go: `feature/acme/cert.go`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use instant_acme::{
    Account, AuthorizationState, AuthorizationStatus, CertificateIdentifier, ChallengeType,
    Error as AcmeError, Identifier, Key, NewOrder, Order, OrderStatus, RetryPolicy,
};
use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};

use super::{SetDns, http::Client};
use crate::{
    control::ControlError,
    proxy::Outbound,
    state::{StateError, StateStore},
};

/// Go's name for it; its nodes' accounts are taken over.
const ACCOUNT_KEY: &str = "acme-account.key.pem";
/// The longest common name that X.509 allows; a longer name is in the SAN alone.
const MAX_COMMON_NAME: usize = 64;

/// How often, and how many times, it is asked whether the authority has looked at our proof.
const PROOF_POLL: Duration = Duration::from_millis(500);
const PROOF_POLLS: u32 = 120;

/// Where certificates come from.
pub(super) struct Authority {
    /// The URL of the ACME directory.
    pub(super) directory: String,
    pub(super) outbound: Outbound,
    pub(super) dns: Arc<dyn SetDns>,
    /// Guards the making of the account's key.
    pub(super) account: tokio::sync::Mutex<()>,
}

/// A chain and its key, as PEM.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    #[error("{step}: {source}")]
    Acme {
        step: &'static str,
        source: AcmeError,
        retry_after: Option<Timestamp>,
    },
    #[error("publish the challenge: {0}")]
    Dns(#[from] ControlError),
    #[error("the authority offers no dns-01 challenge")]
    NoDnsChallenge,
    #[error("the authority does not accept the proof for {name}: {reason}")]
    Refused { name: String, reason: String },
    #[error("make a key: {0}")]
    Key(String),
    #[error("the authority sent a certificate that can't be used: {0}")]
    Unusable(String),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("it took longer than {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("the node is closed")]
    Closed,
}

impl IssueError {
    /// When the authority allows the next attempt, if it said so.
    pub(super) fn retry_after(&self) -> Option<Timestamp> {
        match self {
            Self::Acme { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether it counts against the authority's limits.
    pub(super) fn seen_by_authority(&self) -> bool {
        match self {
            Self::Acme { source, .. } => matches!(source, AcmeError::Api(_) | AcmeError::Timeout(_)),
            Self::Refused { .. } | Self::NoDnsChallenge | Self::Unusable(_) | Self::Timeout(_) => true,
            // The authority has done its part and will be asked for all of it again: each order counts.
            Self::Dns(_) | Self::State(_) => true,
            Self::Key(_) | Self::Closed => false,
        }
    }
}

impl Authority {
    /// Orders a certificate for `domain`; a wildcard includes its base.
    pub(super) async fn issue(
        &self,
        domain: &str,
        replaces: Option<&CertificateDer<'_>>,
        store: &dyn StateStore,
    ) -> Result<Issued, IssueError> {
        let client = Client::new(self.outbound.clone());
        let refused = client.refused();
        let at = |step| {
            let refused = refused.clone();
            move |source| IssueError::Acme {
                step,
                source,
                retry_after: refused.retry_after(),
            }
        };
        let key = self.account_key(store).await?;
        let builder = Account::builder_with_http(Box::new(client));
        let account = builder.create_from_key(key, self.directory.clone());
        let (account, _) = account.await.map_err(at("register with the authority"))?;

        let names: Vec<_> = match domain.strip_prefix("*.") {
            Some(base) => vec![domain.to_owned(), base.to_owned()],
            None => vec![domain.to_owned()],
        };
        let mut order = order(&account, &names, replaces).await.map_err(at("order"))?;
        self.prove(&mut order).await.map_err(|error| match error {
            ProofError::Acme(source) => at("prove the name")(source),
            ProofError::Other(error) => error,
        })?;
        let retries = RetryPolicy::default();
        let ready = order
            .poll_ready(&retries)
            .await
            .map_err(at("wait for the order"))?;
        if ready != OrderStatus::Ready {
            return Err(IssueError::Refused {
                name: domain.to_owned(),
                reason: "the order is invalid".to_owned(),
            });
        }
        let (request, key) = request(&names).map_err(|error| IssueError::Key(error.to_string()))?;
        order.finalize_csr(&request).await.map_err(at("finalize"))?;
        let chain = order
            .poll_certificate(&retries)
            .await
            .map_err(at("fetch the certificate"))?;
        Ok(Issued { chain, key })
    }

    /// The authority's renewal window (RFC 9773), where it has such, and for how long it is not to be asked again.
    pub(super) async fn renewal_window(
        &self,
        leaf: &CertificateDer<'_>,
        store: &dyn StateStore,
    ) -> Option<((Timestamp, Timestamp), Duration)> {
        let id = CertificateIdentifier::try_from(leaf).ok()?;
        let key = self.account_key(store).await.ok()?;
        let builder = Account::builder_with_http(Box::new(Client::new(self.outbound.clone())));
        // Needs no account, but the library asks for one; a made-up number is not sent anywhere.
        let (_, PrivateKeyDer::Pkcs8(key)) = key else {
            return None;
        };
        let account = builder
            .from_parts(String::new(), key, self.directory.clone())
            .await
            .ok()?;
        let (info, pause) = account.renewal_info(&id).await.ok()?;
        let time = |time: i64| Timestamp::from_second(time).ok();
        let window = info.suggested_window;
        let window = (
            time(window.start.unix_timestamp())?,
            time(window.end.unix_timestamp())?,
        );
        Some((window, pause))
    }

    /// The account is its key: it is stored before the authority hears of it, so that no account is lost.
    async fn account_key(&self, store: &dyn StateStore) -> Result<(Key, PrivateKeyDer<'static>), IssueError> {
        let _one = self.account.lock().await;
        let der = match store.read(ACCOUNT_KEY).await? {
            Some(pem) => read_account_key(&pem).map_err(|reason| StateError::Invalid {
                what: ACCOUNT_KEY.to_owned(),
                reason: format!("{reason}; remove it to get a new account"),
            })?,
            None => {
                let key = KeyPair::generate().map_err(|error| IssueError::Key(error.to_string()))?;
                let pem = key.serialize_pem().into_bytes();
                store.write([(ACCOUNT_KEY.to_owned(), pem)].into()).await?;
                PrivatePkcs8KeyDer::from(key.serialize_der())
            }
        };
        let key = Key::from_pkcs8_der(der.clone_key()).map_err(|error| IssueError::Key(error.to_string()))?;
        Ok((key, der.into()))
    }

    /// One name after the other: a wildcard and its base share one TXT record.
    async fn prove(&self, order: &mut Order) -> Result<(), ProofError> {
        let mut asked = BTreeSet::new();
        for _ in 0..PROOF_POLLS {
            order.refresh().await?;
            match self.prove_next(order, &mut asked).await? {
                Proof::Complete => return Ok(()),
                Proof::Started => {}
                Proof::Awaited => tokio::time::sleep(PROOF_POLL).await,
            }
        }
        Err(IssueError::Timeout(PROOF_POLL * PROOF_POLLS).into())
    }

    async fn prove_next(&self, order: &mut Order, asked: &mut BTreeSet<String>) -> Result<Proof, ProofError> {
        let mut names = order.authorizations();
        while let Some(authorization) = names.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                _ => return Err(refused(&authorization).into()),
            }
            if !asked.insert(authorization.url().to_owned()) {
                return Ok(Proof::Awaited);
            }
            let challenge = authorization.challenge(ChallengeType::Dns01);
            let mut challenge = challenge.ok_or(IssueError::NoDnsChallenge)?;
            let Identifier::Dns(name) = challenge.identifier().identifier else {
                return Err(IssueError::NoDnsChallenge.into());
            };
            let name = name.clone();
            let value = challenge.key_authorization().dns_value();
            // Control answers when the record is published.
            let published = self.dns.set_dns(&format!("_acme-challenge.{name}"), &value).await;
            published.map_err(IssueError::from)?;
            return match challenge.set_ready().await {
                // An authority that is quick has looked already, and this answer is its verdict.
                Err(AcmeError::Api(problem)) if !is_rate_limit(&problem) => Err(IssueError::Refused {
                    name,
                    reason: problem.to_string(),
                }
                .into()),
                started => Ok(started.map(|()| Proof::Started)?),
            };
        }
        Ok(Proof::Complete)
    }
}

/// How far the proof of an order's names is.
enum Proof {
    Complete,
    /// The authority was asked to look at one.
    Started,
    /// It hasn't looked yet.
    Awaited,
}

fn refused(authorization: &AuthorizationState) -> IssueError {
    let reasons = authorization
        .challenges
        .iter()
        .filter_map(|challenge| challenge.error.as_ref());
    IssueError::Refused {
        name: authorization.identifier().to_string(),
        reason: reasons.map(ToString::to_string).collect::<Vec<_>>().join("; "),
    }
}

enum ProofError {
    Acme(AcmeError),
    Other(IssueError),
}

impl From<AcmeError> for ProofError {
    fn from(error: AcmeError) -> Self {
        Self::Acme(error)
    }
}

impl From<IssueError> for ProofError {
    fn from(error: IssueError) -> Self {
        Self::Other(error)
    }
}

/// Orders that replace a certificate are exempt from rate limits; an authority may refuse to see it as one
/// (another account's, replaced already), then it is an ordinary order.
async fn order(
    account: &Account,
    names: &[String],
    replaces: Option<&CertificateDer<'_>>,
) -> Result<Order, AcmeError> {
    let names: Vec<_> = names.iter().cloned().map(Identifier::Dns).collect();
    if let Some(id) = replaces.and_then(|leaf| CertificateIdentifier::try_from(leaf).ok()) {
        match account.new_order(&NewOrder::new(&names).replaces(id)).await {
            Err(AcmeError::Api(problem)) if is_rate_limit(&problem) => return Err(problem.into()),
            Err(error) => tracing::debug!(%error, "The order is not accepted as a replacement"),
            order => return order,
        }
    }
    account.new_order(&NewOrder::new(&names)).await
}

fn is_rate_limit(problem: &instant_acme::Problem) -> bool {
    problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:rateLimited")
}

/// A signing request for a new P-256 key, and the key as PEM.
fn request(names: &[String]) -> Result<(Vec<u8>, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    if names[0].len() <= MAX_COMMON_NAME {
        params
            .distinguished_name
            .push(DnType::CommonName, names[0].as_str());
    }
    let request = params.serialize_request(&key)?;
    Ok((request.der().to_vec(), key.serialize_pem()))
}

/// Ours is PKCS #8, Go's is SEC 1.
fn read_account_key(pem: &[u8]) -> Result<PrivatePkcs8KeyDer<'static>, &'static str> {
    match PrivateKeyDer::from_pem_slice(pem).map_err(|_| "it is no PEM")? {
        PrivateKeyDer::Pkcs8(key) => Ok(key),
        PrivateKeyDer::Sec1(key) => {
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let key = EcdsaKeyPair::from_private_key_der(algorithm, key.secret_sec1_der());
            let key = key.and_then(|key| Ok(key.to_pkcs8v1()?));
            key.map(|key| key.as_ref().to_vec().into())
                .map_err(|_| "it is no P-256 key")
        }
        _ => Err("it is no P-256 key"),
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::{AsDer, EcPrivateKeyRfc5915Der},
        signature::KeyPair as _,
    };
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn the_account_of_a_go_node_is_taken_over() {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let der: EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().unwrap();
        let text = STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN EC PRIVATE KEY-----\n{text}\n-----END EC PRIVATE KEY-----\n");
        let ours = read_account_key(pem.as_bytes()).unwrap();
        let ours =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ours.secret_pkcs8_der()).unwrap();
        assert_eq!(ours.public_key().as_ref(), key.public_key().as_ref());
        assert!(read_account_key(b"nothing").is_err());
    }

    #[test]
    fn a_request_has_the_name_twice_where_it_fits() {
        let long = format!("{}.{}.example.ts.net", "a".repeat(40), "b".repeat(40));
        for (name, common) in [("x.example.ts.net", true), (long.as_str(), false)] {
            let (der, _) = request(&[name.to_owned()]).unwrap();
            let occurrences = der
                .windows(name.len())
                .filter(|bytes| *bytes == name.as_bytes())
                .count();
            assert_eq!(occurrences, if common { 2 } else { 1 });
        }
    }
}
