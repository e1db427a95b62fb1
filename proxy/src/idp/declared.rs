//! Clients of the cluster's objects, as the provider knows clients.

use std::collections::BTreeMap;

use postern_idp::{Algorithm, Allow, Client, ClientSecret, Hash, Kind};
use postern_proxy_config::{
    access::{Access, Principal},
    clients::{self, Clients},
    group::Signing,
};

/// All of them by their ids.
pub fn declared(clients: Option<&Clients>) -> BTreeMap<String, Client> {
    let clients = clients.into_iter().flat_map(|clients| &clients.clients);
    clients
        .map(|(id, declared)| (id.clone(), client(declared)))
        .collect()
}

fn client(declared: &clients::Client) -> Client {
    Client {
        name: declared.name.clone(),
        redirect_uris: declared.redirect_uris.clone(),
        kind: match declared.public {
            true => Kind::Public,
            false => Kind::Confidential,
        },
        secrets: (declared.secrets.iter())
            .map(|secret| ClientSecret {
                hash: Hash::of_hex(&secret.sha256),
                expires: secret.expires.map(|end| end.as_second()),
            })
            .collect(),
        signing: algorithm(declared.signing),
        allow: declared.access.as_ref().map(allow),
        ..Client::default()
    }
}

/// Machines and addresses don't log in: nobody does by those entries.
fn allow(access: &Access) -> Vec<Allow> {
    let allow = access.allow.iter().filter_map(|principal| match principal {
        Principal::User(login) => Some(Allow::User(login.clone())),
        Principal::Group(group) => Some(Allow::Group(group.clone())),
        Principal::Capability(capability) => Some(Allow::Capability(capability.clone())),
        Principal::Tag(_) | Principal::Source(_) => None,
    });
    allow.collect()
}

pub(super) fn algorithm(signing: Signing) -> Algorithm {
    match signing {
        Signing::Es256 => Algorithm::Es256,
        Signing::Rs256 => Algorithm::Rs256,
    }
}

#[cfg(test)]
mod tests {
    use postern_proxy_config::{FORMAT, clients::ClientSecret as Declared};

    use super::*;

    #[test]
    fn a_client_keeps_what_its_object_says() {
        let old = Declared {
            expires: Some(jiff::Timestamp::from_second(5).unwrap()),
            ..Declared::of("old")
        };
        let declared = clients::Client {
            format: FORMAT,
            generation: 1,
            name: "Grafana".into(),
            redirect_uris: vec!["https://a.example/cb".into()],
            public: false,
            signing: Signing::Rs256,
            access: Some(Access {
                allow: vec![
                    Principal::Group("group:eng".into()),
                    Principal::Tag("tag:ci".into()),
                ],
            }),
            secrets: vec![Declared::of("new"), old],
        };
        let client = client(&declared);
        assert_eq!(client.kind, Kind::Confidential);
        assert_eq!(client.allow, Some(vec![Allow::Group("group:eng".into())]));
        assert_eq!(client.signing, Algorithm::Rs256);
        let secrets = [("new", None), ("old", Some(5))].map(|(text, expires)| ClientSecret {
            hash: Hash::of(text),
            expires,
        });
        assert_eq!(client.secrets, secrets);
        assert_eq!((client.name.as_str(), client.redirect_uris.len()), ("Grafana", 1));
    }
}
