//! Reading and writing a [`NodeState`] in a store.

use zeroize::Zeroizing;

use super::{NodeState, STATE_KEY, StateError, StateStore, tailscaled};

impl NodeState {
    /// The state that the store holds. A store without one gets a new identity, which is written before it
    /// is returned; in a directory that Go's `tsnet` or `tailscaled` has used, its identity is taken over.
    ///
    /// # Errors
    /// When the store fails, or holds a state that makes no sense or is of a newer layout.
    pub async fn load(store: &dyn StateStore) -> Result<Self, StateError> {
        if let Some(bytes) = store.read(STATE_KEY).await? {
            return Self::parse(&Zeroizing::new(bytes));
        }
        let state = match store.read(tailscaled::KEY).await? {
            Some(bytes) => tailscaled::take_over(&Zeroizing::new(bytes))?,
            None => Self::generate().map_err(|error| StateError::Io {
                action: "generate",
                what: "a new identity".to_owned(),
                source: error.into(),
            })?,
        };
        state.save(store).await?;
        Ok(state)
    }

    /// Replaces the state in the store.
    ///
    /// # Errors
    /// When the store fails; it then still holds the old state.
    pub async fn save(&self, store: &dyn StateStore) -> Result<(), StateError> {
        let bytes = serde_json::to_vec(self).map_err(|error| invalid(error.to_string()))?;
        store.write([(STATE_KEY.to_owned(), bytes)].into()).await
    }

    fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        #[derive(serde::Deserialize)]
        struct Format {
            format: u32,
        }
        let broken = |error: serde_json::Error| {
            // The message of a type error quotes the value, which may be a key.
            let at = format!("line {} column {}", error.line(), error.column());
            invalid(format!(
                "{at} makes no sense; restore it, or remove it to start as a new node"
            ))
        };
        let Format { format } = serde_json::from_slice(bytes).map_err(broken)?;
        if format > Self::FORMAT {
            return Err(invalid(format!(
                "its format {format} is newer than {}; run the version that wrote it",
                Self::FORMAT
            )));
        }
        serde_json::from_slice(bytes).map_err(broken)
    }
}

fn invalid(reason: String) -> StateError {
    StateError::Invalid {
        what: format!("the stored value {STATE_KEY:?}"),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{DirStore, HandOver, MemoryStore},
        *,
    };

    #[tokio::test]
    async fn a_new_identity_is_kept() {
        let store = MemoryStore::default();
        let mut first = NodeState::load(&store).await.unwrap();
        assert!(!first.registered);
        first.registered = true;
        first.hand_over = HandOver {
            udp_port: Some(41641),
            ..HandOver::default()
        };
        first.save(&store).await.unwrap();
        let second = NodeState::load(&store).await.unwrap();
        assert_eq!(second.node_key.public(), first.node_key.public());
        assert_eq!(second.machine_key.public(), first.machine_key.public());
        assert_eq!(
            (second.registered, second.hand_over.udp_port),
            (true, Some(41641))
        );
    }

    #[tokio::test]
    async fn what_is_newer_or_broken_is_refused_and_stays() {
        let store = MemoryStore::default();
        let secret = format!("privkey:{}", "ab".repeat(31));
        for (value, reason) in [
            (r#"{"format":2,"new":true}"#.to_owned(), "newer than 1"),
            (r#"{"format":1}"#.to_owned(), "makes no sense"),
            (
                format!(r#"{{"format":1,"nodeKey":"{secret}"}}"#),
                "makes no sense",
            ),
            (String::new(), "makes no sense"),
        ] {
            let values = [(STATE_KEY.to_owned(), value.clone().into_bytes())].into();
            store.write(values).await.unwrap();
            let error = NodeState::load(&store).await.unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("abab"), "{error}");
            assert_eq!(store.read(STATE_KEY).await.unwrap().unwrap(), value.as_bytes());
        }
    }

    /// Laid out as tsnet 1.102 does it; the keys are made up.
    #[tokio::test]
    async fn the_identity_of_a_go_node_is_taken_over() {
        use base64::{Engine as _, engine::general_purpose::STANDARD};

        let go = NodeState::generate().unwrap();
        let machine = go.machine_key.expose_text();
        let profile = serde_json::json!({
            "ControlURL": "https://controlplane.tailscale.com", "Hostname": "grafana",
            "Config": {"PrivateNodeKey": go.node_key.expose_text(), "NodeID": "nCNTRL"},
        });
        let file = serde_json::json!({
            "_machinekey": STANDARD.encode(&machine),
            "_current-profile": STANDARD.encode("profile-a1b2"),
            "_profiles": STANDARD.encode("{}"),
            "profile-a1b2": STANDARD.encode(profile.to_string()),
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tailscaled.state"), file.to_string()).unwrap();
        std::fs::create_dir(dir.path().join("certs")).unwrap();
        std::fs::write(dir.path().join("certs/x.crt"), "chain").unwrap();

        let store = DirStore::open(dir.path()).unwrap();
        for _ in 0..2 {
            let state = NodeState::load(&store).await.unwrap();
            assert_eq!(state.machine_key.public(), go.machine_key.public());
            assert_eq!(state.node_key.public(), go.node_key.public());
            assert!(state.registered);
            assert_eq!(state.hostname.as_deref(), Some("grafana"));
        }
        assert_eq!(store.read("x.crt").await.unwrap().unwrap(), b"chain");

        store.clear().await.unwrap();
        let state = NodeState::load(&store).await.unwrap();
        assert_ne!(state.machine_key.public(), go.machine_key.public());
        assert_eq!(store.read("x.crt").await.unwrap(), None);
    }

    #[test]
    fn a_go_node_that_was_given_no_name_had_the_machines() {
        use base64::{Engine as _, engine::general_purpose::STANDARD};

        let machine = NodeState::generate().unwrap().machine_key;
        let file = serde_json::json!({"_machinekey": STANDARD.encode(machine.expose_text())});
        let state = tailscaled::take_over(file.to_string().as_bytes()).unwrap();
        assert!(!state.registered);
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(state.hostname.as_deref(), name.trim().split('.').next());
    }
}
