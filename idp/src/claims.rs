//! Claims: what tokens and userinfo say about a user. Names and values are tsidp's, so that who comes from
//! there keeps the accounts in his applications, with those that applications missed there.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    error::Error,
    grant::Grants,
    identify::{Machine, NodeId, User, UserId},
    issuer::Issuer,
    scope::{Scope, Scopes},
    session::SessionId,
};

/// Clocks of clients may be behind by so much.
const SKEW: i64 = 300;

/// A user as seen on the tailnet now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) issuer: &'a Issuer,
    pub(crate) user: &'a User,
    pub(crate) machine: &'a Machine,
    pub(crate) grants: &'a Grants,
}

/// What an ID token says about the login.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdToken<'a> {
    pub(crate) client: &'a str,
    pub(crate) scopes: &'a Scopes,
    pub(crate) resources: &'a [String],
    pub(crate) nonce: Option<&'a str>,
    pub(crate) auth_time: i64,
    pub(crate) session: &'a SessionId,
    /// The access token that comes with it.
    pub(crate) access_token: &'a str,
    pub(crate) jti: &'a str,
}

/// `sub` of a user; never to change, since applications know their accounts by it.
pub(crate) fn sub(user: UserId) -> String {
    format!("userid:{user}")
}

impl Subject<'_> {
    /// For OpenID Connect Core, section 2.
    pub(crate) fn id_token(self, token: IdToken<'_>, life: i64, now: i64) -> Result<Value, Error> {
        let mut claims = self.described(token.scopes);
        let tailnet = self.machine.name.split_once('.').map_or("", |(_, suffix)| suffix);
        claims.extend(fields(json!({
            "iss": self.issuer.as_str(),
            "sub": sub(self.user.id),
            "aud": Audience::new(token.client, token.resources),
            "iat": now,
            "nbf": now - SKEW,
            "exp": now + life,
            "jti": token.jti,
            "auth_time": token.auth_time,
            "sid": token.session.as_str(),
            "at_hash": at_hash(token.access_token),
            // Of the tailnet. Go writes names with their dot.
            "key": self.machine.key,
            "addresses": self.machine.addresses,
            "nid": self.machine.id,
            "node": format!("{}.", self.machine.name),
            "tailnet": format!("{tailnet}."),
            "uid": self.user.id,
        })));
        if let Some(nonce) = token.nonce {
            claims.insert("nonce".to_owned(), nonce.into());
        }
        if !token.resources.is_empty() {
            claims.insert("azp".to_owned(), token.client.into());
        }
        add_extra(&mut claims, self.grants.claims()?);
        Ok(Value::Object(claims))
    }

    /// For OpenID Connect Core, section 5.3.
    pub(crate) fn user_info(self, scopes: &Scopes) -> Result<Value, Error> {
        let mut claims = self.described(scopes);
        claims.insert("sub".to_owned(), sub(self.user.id).into());
        add_extra(&mut claims, self.grants.user_info_claims()?);
        Ok(Value::Object(claims))
    }

    /// The part before the `@`.
    pub(crate) fn username(self) -> String {
        let login = &self.user.login;
        login
            .split_once('@')
            .map_or(login.as_str(), |(name, _)| name)
            .to_owned()
    }

    /// The login as an address, and whether somebody has verified it: `alice@github` is none, and gets our
    /// host behind it, as tsidp has it.
    pub(crate) fn email(self) -> (String, bool) {
        let login = &self.user.login;
        match login.rsplit_once('@') {
            Some((_, "github" | "passkey")) => (format!("{login}.{}", self.issuer.host()), false),
            Some((_, domain)) => (login.clone(), domain.contains('.')),
            None => (login.clone(), false),
        }
    }

    /// The claims of the scopes.
    pub(crate) fn described(self, scopes: &Scopes) -> Map<String, Value> {
        let mut claims = Map::new();
        if scopes.contains(Scope::Email) {
            let (email, verified) = self.email();
            claims.insert("email".to_owned(), email.into());
            claims.insert("email_verified".to_owned(), verified.into());
        }
        if scopes.contains(Scope::Profile) {
            claims.insert("preferred_username".to_owned(), self.username().into());
            // As the first tsidp called it; its clients may still ask for it.
            claims.insert("username".to_owned(), self.username().into());
            if !self.user.name.is_empty() {
                claims.insert("name".to_owned(), self.user.name.clone().into());
            }
            if !self.user.picture.is_empty() {
                claims.insert("picture".to_owned(), self.user.picture.clone().into());
            }
        }
        let groups = scopes.contains(Scope::Groups) || scopes.contains(Scope::Profile);
        if groups && !self.user.groups.is_empty() {
            claims.insert("groups".to_owned(), self.user.groups.clone().into());
        }
        claims
    }
}

/// What an access token says (RFC 9068, section 2.2); the provider reads its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AccessToken {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: Audience,
    pub(crate) client_id: String,
    pub(crate) iat: i64,
    pub(crate) nbf: i64,
    pub(crate) exp: i64,
    pub(crate) jti: String,
    pub(crate) auth_time: i64,
    pub(crate) scope: Scopes,
    pub(crate) uid: UserId,
    pub(crate) nid: NodeId,
    /// While its session goes on the token is good.
    pub(crate) sid: SessionId,
    /// Who acts for the user (RFC 8693, section 4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) act: Option<Value>,
}

impl AccessToken {
    /// The time before which it isn't good, for a token made now.
    pub(crate) fn not_before(now: i64) -> i64 {
        now - SKEW
    }
}

/// One or several; one is written as a text, since not every client reads a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    /// Of an ID token: the client and what else the login is for.
    pub(crate) fn new(client: &str, resources: &[String]) -> Self {
        if resources.is_empty() {
            return Self::One(client.to_owned());
        }
        let rest = resources.iter().filter(|resource| *resource != client).cloned();
        Self::Several(std::iter::once(client.to_owned()).chain(rest).collect())
    }

    /// Of an access token: the resources that it is for and nobody else (RFC 8707, section 2), or the client.
    pub(crate) fn of_access(client: &str, resources: &[String]) -> Self {
        match resources {
            [] => Self::One(client.to_owned()),
            [one] => Self::One(one.clone()),
            several => Self::Several(several.to_vec()),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        let list = match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        };
        list.iter().map(String::as_str)
    }
}

/// Groups of the tailnet and of the policy are one list; else the policy says more than we know.
fn add_extra(claims: &mut Map<String, Value>, extra: Map<String, Value>) {
    for (name, value) in extra {
        match (name.as_str(), claims.get_mut(&name), value) {
            ("groups", Some(Value::Array(known)), Value::Array(more)) => {
                for group in more {
                    if !known.contains(&group) {
                        known.push(group);
                    }
                }
            }
            (_, _, value) => {
                claims.insert(name, value);
            }
        }
    }
}

/// OpenID Connect Core, section 3.1.3.6: the left half of the token's SHA-256, which both algorithms use.
fn at_hash(access_token: &str) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let hash = digest(&SHA256, access_token.as_bytes());
    URL_SAFE_NO_PAD.encode(hash.as_ref().get(..16).unwrap_or_default())
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_in_result, reason = "what a test sets up is there")]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::{grant::CAPABILITY, identify::Peer};

    struct Fixture {
        issuer: Issuer,
        user: User,
        machine: Machine,
        grants: Grants,
    }

    impl Fixture {
        fn new(login: &str, grant: Value) -> Self {
            let machine = Machine {
                id: 12,
                name: "laptop.example.ts.net".to_owned(),
                key: "nodekey:00".to_owned(),
                addresses: vec!["100.64.0.1/32".to_owned()],
                tags: Vec::new(),
            };
            let user = User {
                id: 7,
                login: login.to_owned(),
                name: "Alice".to_owned(),
                picture: "https://p/a.png".to_owned(),
                groups: vec!["group:eng".to_owned()],
            };
            let values = vec![RawValue::from_string(grant.to_string()).unwrap()];
            let grants = Grants::of(&Peer {
                machine: machine.clone(),
                user: Some(user.clone()),
                capabilities: [(CAPABILITY.to_owned(), values)].into(),
            });
            Self {
                issuer: Issuer::new("idp.example.ts.net", 443).unwrap(),
                user,
                machine,
                grants,
            }
        }

        fn subject(&self) -> Subject<'_> {
            Subject {
                issuer: &self.issuer,
                user: &self.user,
                machine: &self.machine,
                grants: &self.grants,
            }
        }

        fn id_token(&self, scope: &str, resources: &[String]) -> Result<Value, Error> {
            let session = SessionId::new(7, "app").unwrap();
            let token = IdToken {
                client: "app",
                scopes: &Scopes::parse(Some(scope)),
                resources,
                nonce: Some("n"),
                auth_time: 990,
                session: &session,
                access_token: "access",
                jti: "j",
            };
            self.subject().id_token(token, 300, 1000)
        }
    }

    #[test]
    fn an_id_token_says_what_tsidp_says_and_more() {
        let fixture = Fixture::new(
            "alice@example.com",
            json!({"extraClaims": {"groups": ["admin"], "role": "x"}}),
        );
        let mut claims = fixture.id_token("openid email profile", &[]).unwrap();
        for random in ["sid", "at_hash"] {
            assert!(
                claims.as_object_mut().unwrap().remove(random).is_some(),
                "{random}"
            );
        }
        assert_eq!(
            claims,
            json!({
                "iss": "https://idp.example.ts.net", "sub": "userid:7", "aud": "app",
                "iat": 1000, "nbf": 700, "exp": 1300, "jti": "j", "nonce": "n", "auth_time": 990,
                "key": "nodekey:00", "addresses": ["100.64.0.1/32"], "nid": 12, "uid": 7,
                "node": "laptop.example.ts.net.", "tailnet": "example.ts.net.",
                "email": "alice@example.com", "email_verified": true,
                "preferred_username": "alice", "username": "alice", "name": "Alice", "picture": "https://p/a.png",
                "groups": ["group:eng", "admin"], "role": "x",
            })
        );
    }

    #[test]
    fn scopes_decide_what_is_said() {
        let fixture = Fixture::new("alice@example.com", json!({}));
        let has = |scope: &str, claim: &str| fixture.id_token(scope, &[]).unwrap().get(claim).is_some();
        assert!(!has("openid", "email") && !has("openid", "name") && !has("openid", "groups"));
        assert!(has("openid email", "email_verified") && !has("openid email", "name"));
        assert!(has("openid groups", "groups") && has("openid profile", "groups"));
    }

    #[test]
    fn several_audiences_name_the_party() {
        let fixture = Fixture::new("alice@example.com", json!({}));
        let claims = fixture.id_token("openid", &["https://r".to_owned()]).unwrap();
        assert_eq!(claims["aud"], json!(["app", "https://r"]));
        assert_eq!(claims["azp"], "app");
    }

    #[test]
    fn logins_that_are_no_addresses_get_our_host() {
        for (login, email) in [
            ("alice@github", ("alice@github.idp.example.ts.net", false)),
            ("alice@passkey", ("alice@passkey.idp.example.ts.net", false)),
            ("alice@example.com", ("alice@example.com", true)),
            ("alice@localhost", ("alice@localhost", false)),
            ("alice", ("alice", false)),
        ] {
            let fixture = Fixture::new(login, json!({}));
            let said = fixture.subject().email();
            assert_eq!((said.0.as_str(), said.1), email);
            assert_eq!(fixture.subject().username(), "alice");
        }
    }

    #[test]
    fn userinfo_has_the_extra_claims_that_are_for_it() {
        let fixture = Fixture::new("alice@example.com", json!({"extraClaims": {"role": "x"}}));
        let scopes = Scopes::parse(Some("openid profile"));
        let info = fixture.subject().user_info(&scopes).unwrap();
        assert_eq!(
            (&info["sub"], &info["username"]),
            (&json!("userid:7"), &json!("alice"))
        );
        assert_eq!(info["preferred_username"], "alice");
        assert!(info.get("role").is_none() && info.get("email").is_none());
        let grant = json!({"extraClaims": {"role": "x"}, "includeInUserInfo": true});
        let fixture = Fixture::new("alice@example.com", grant);
        assert_eq!(fixture.subject().user_info(&scopes).unwrap()["role"], "x");
    }

    #[test]
    fn a_policy_cannot_change_who_one_is() {
        let fixture = Fixture::new("alice@example.com", json!({"extraClaims": {"sub": "userid:1"}}));
        assert!(
            fixture
                .id_token("openid", &[])
                .unwrap_err()
                .description
                .contains("sub")
        );
    }
}
