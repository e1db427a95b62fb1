//! What the tailnet's policy grants a peer here: the capability that tsidp made known, with its fields and
//! their meaning. Nothing is allowed by default, and what any rule allows is allowed.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    error::{Code, Error},
    identify::Peer,
};

/// The capability's name.
pub const CAPABILITY: &str = "tailscale.com/cap/tsidp";

/// One value of the capability.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Rule {
    allow_admin_ui: bool,
    allow_dcr: bool,
    users: Vec<String>,
    resources: Vec<String>,
    #[serde(rename = "extraClaims")]
    extra_claims: Map<String, Value>,
    #[serde(rename = "includeInUserInfo")]
    include_in_user_info: bool,
}

/// All rules for one peer, in control's order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Grants(Vec<Rule>);

/// Who says `userinfo` or an ID token what is about the protocol, not about the user.
const PROTECTED: [&str; 26] = [
    // What tsidp's discovery lists.
    "sub",
    "aud",
    "exp",
    "iat",
    "iss",
    "jti",
    "nbf",
    "username",
    "email",
    "key",
    "addresses",
    "nid",
    "node",
    "tailnet",
    "tags",
    "user",
    "uid",
    // What would let a policy forge the protocol.
    "nonce",
    "azp",
    "acr",
    "amr",
    "at_hash",
    "auth_time",
    "act",
    "sid",
    "client_id",
];

impl Grants {
    /// Of this peer. A value that makes no sense is left out, and said in the log: a slip of the pen in a policy
    /// must not lock everybody out.
    pub(crate) fn of(peer: &Peer) -> Self {
        let values = peer.capabilities.get(CAPABILITY).into_iter().flatten();
        let rules = values.filter_map(|value| {
            serde_json::from_str(value.get())
                .inspect_err(|error| {
                    tracing::warn!(capability = CAPABILITY, %error, "A grant makes no sense and is left out");
                })
                .ok()
        });
        Self(rules.collect())
    }

    /// May see and change clients.
    pub(crate) fn admin(&self) -> bool {
        self.0.iter().any(|rule| rule.allow_admin_ui)
    }

    /// May register a client.
    pub(crate) fn registration(&self) -> bool {
        self.0.iter().any(|rule| rule.allow_dcr)
    }

    /// Those of the resources that tokens for the user with this login may be for.
    pub(crate) fn resources<'a>(
        &self,
        login: &str,
        wanted: impl IntoIterator<Item = &'a str>,
    ) -> Vec<String> {
        let named = |list: &[String], value: &str| list.iter().any(|entry| entry == "*" || entry == value);
        let rules: Vec<&Rule> = self.0.iter().filter(|rule| named(&rule.users, login)).collect();
        let allowed = |resource: &&str| rules.iter().any(|rule| named(&rule.resources, resource));
        let mut allowed: Vec<String> = wanted.into_iter().filter(allowed).map(str::to_owned).collect();
        allowed.dedup();
        allowed
    }

    /// The extra claims of all rules, for an ID token.
    pub(crate) fn claims(&self) -> Result<Map<String, Value>, Error> {
        merge(self.0.iter())
    }

    /// The extra claims that userinfo has too.
    pub(crate) fn user_info_claims(&self) -> Result<Map<String, Value>, Error> {
        merge(self.0.iter().filter(|rule| rule.include_in_user_info))
    }
}

/// One map of all rules: lists of the same name are joined, without doubles; a single value joins a list. Of two
/// different single values the first one stays (tsidp takes any). Objects are left out.
fn merge<'a>(rules: impl Iterator<Item = &'a Rule>) -> Result<Map<String, Value>, Error> {
    let mut merged = Map::new();
    for (name, value) in rules.flat_map(|rule| &rule.extra_claims) {
        if PROTECTED.contains(&name.as_str()) {
            let text =
                format!("the tailnet's policy sets the claim {name} in extraClaims, which is not allowed");
            return Err(Code::InvalidRequest.because(text));
        }
        if value.is_object() || value.is_null() {
            continue;
        }
        match (merged.get_mut(name), value) {
            (None, Value::Array(values)) => {
                let mut list = Vec::new();
                join(&mut list, values);
                merged.insert(name.clone(), Value::Array(list));
            }
            (None, value) => {
                merged.insert(name.clone(), value.clone());
            }
            (Some(Value::Array(list)), Value::Array(values)) => join(list, values),
            (Some(Value::Array(list)), value) => join(list, std::slice::from_ref(value)),
            (Some(single), Value::Array(values)) => {
                let mut list = vec![single.take()];
                join(&mut list, values);
                *single = Value::Array(list);
            }
            (Some(_), _) => {}
        }
    }
    Ok(merged)
}

fn join(list: &mut Vec<Value>, values: &[Value]) {
    for value in values {
        if !(value.is_object() || value.is_array() || value.is_null() || list.contains(value)) {
            list.push(value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::RawValue};

    use super::*;
    use crate::identify::Machine;

    fn grants(values: &[Value]) -> Grants {
        let values = values
            .iter()
            .map(|v| RawValue::from_string(v.to_string()).unwrap());
        Grants::of(&Peer {
            machine: Machine::default(),
            user: None,
            capabilities: [(CAPABILITY.to_owned(), values.collect())].into(),
        })
    }

    #[test]
    fn nothing_is_allowed_by_default_and_rules_add_up() {
        let none = grants(&[]);
        assert!(!none.admin() && !none.registration());
        assert!(none.resources("a@x", ["r"]).is_empty());
        let some = grants(&[
            json!({"allow_admin_ui": true}),
            json!({"allow_dcr": true, "new": 1}),
        ]);
        assert!(some.admin() && some.registration());
        let broken = grants(&[json!({"allow_admin_ui": "yes"}), json!({"allow_dcr": true})]);
        assert!(!broken.admin() && broken.registration());
    }

    #[test]
    fn resources_are_those_of_rules_that_name_the_user() {
        let grants = grants(&[
            json!({"users": ["alice@x"], "resources": ["https://a", "https://b"]}),
            json!({"users": ["*"], "resources": ["https://c"]}),
            json!({"users": ["root@x"], "resources": ["*"]}),
        ]);
        let wanted = ["https://a", "https://c", "https://d"];
        assert_eq!(grants.resources("alice@x", wanted), ["https://a", "https://c"]);
        assert_eq!(grants.resources("bob@x", wanted), ["https://c"]);
        assert_eq!(grants.resources("root@x", wanted), wanted);
        assert!(grants.resources("Alice@x", ["https://a"]).is_empty());
    }

    #[test]
    fn extra_claims_are_joined() {
        let rule = |claims: Value| json!({ "extraClaims": claims });
        let claims = |values: &[Value]| Value::Object(grants(values).claims().unwrap());
        assert_eq!(
            claims(&[
                rule(json!({"roles": ["admin", "user"]})),
                rule(json!({"roles": ["admin", "guest"]}))
            ]),
            json!({"roles": ["admin", "user", "guest"]})
        );
        assert_eq!(
            claims(&[rule(json!({"foo": "bar"})), rule(json!({"foo": ["baz"]}))]),
            json!({"foo": ["bar", "baz"]})
        );
        assert_eq!(
            claims(&[
                rule(json!({"a": "x", "b": true, "c": {"d": 1}})),
                rule(json!({"a": "y", "n": 1.5}))
            ]),
            json!({"a": "x", "b": true, "n": 1.5})
        );
    }

    #[test]
    fn claims_of_the_protocol_cannot_be_set() {
        for name in ["sub", "username", "email", "nonce", "azp", "sid"] {
            let error = grants(&[json!({"extraClaims": {name: "x"}})])
                .claims()
                .unwrap_err();
            assert!(error.description.contains(name), "{error}");
        }
        for name in ["groups", "email_verified", "name", "preferred_username"] {
            assert!(grants(&[json!({"extraClaims": {name: "x"}})]).claims().is_ok());
        }
    }

    #[test]
    fn only_what_is_said_so_is_in_userinfo() {
        let grants = grants(&[
            json!({"extraClaims": {"a": 1}}),
            json!({"extraClaims": {"b": 2}, "includeInUserInfo": true}),
        ]);
        assert_eq!(Value::Object(grants.user_info_claims().unwrap()), json!({"b": 2}));
    }
}
