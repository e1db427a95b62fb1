//! A directory that Go's tsnet has used.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postern_node::{
    node::Config,
    state::{DirStore, StateStore},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;

use crate::lab::{eventually, stored, up, with_lab};

#[test]
fn the_node_that_tsnet_was_is_taken_over() {
    with_lab(async |lab| {
        let go = lab.start_clients().await;
        // The request fails, but starts the node.
        lab.fetch("alice-old", "http://100.100.100.100/").await;
        let before = lab.device("alice-old").await;
        assert!(before["key"].is_string(), "{before}");
        lab.kill(go);
        eventually("control has seen Go's node go", async || {
            lab.device("alice-old").await["online"] == false
        })
        .await;

        let dir = lab.path("clients/alice-old");
        let gos = std::fs::read(dir.join("tailscaled.state")).unwrap();
        let gos: Value = serde_json::from_slice(&gos).unwrap();
        let machine_key = STANDARD.decode(gos["_machinekey"].as_str().unwrap()).unwrap();
        let store: Arc<dyn StateStore> = Arc::new(DirStore::open(&dir).unwrap());
        // It keeps its name, too, where it isn't given another one.
        let config = Config {
            store: store.clone(),
            ..lab.config("", None)
        };
        let (node, me) = up(config.clone()).await;
        let after = lab.device("alice-old").await;
        for field in ["stableID", "name", "addresses", "key", "login"] {
            assert_eq!(after[field], before[field], "{field}");
        }
        assert_eq!(after["hostinfo"]["Hostname"], before["hostinfo"]["Hostname"]);
        assert_eq!(before["stableID"], me.stable_id);
        let state = stored(&store).await;
        assert_eq!(state.machine_key.expose_text().as_bytes(), machine_key);
        node.close().await;
        // Go's file is read once.
        let (node, me) = up(config).await;
        assert_eq!(before["stableID"], me.stable_id);
        let after = lab.device("alice-old").await;
        assert_eq!(after["hostinfo"]["Hostname"], before["hostinfo"]["Hostname"]);
        node.close().await;
    });
}

#[test]
fn the_certificate_that_tsnet_had_is_served_on() {
    with_lab(async |lab| {
        const NAME: &str = "gone.lab-tailnet.ts.net";
        lab.start_authority().await;
        lab.start_clients().await;
        let go = lab.start_go_server("gone").await;
        eventually("Go's node has a certificate", async || {
            let answer = lab.fetch("bob", &format!("https://{NAME}/")).await;
            answer["cert"]["names"][0] == NAME
        })
        .await;
        lab.kill(go);

        let dir = lab.path("gone");
        let file = dir.join("certs").join(format!("{NAME}.crt"));
        let gos: Vec<_> = CertificateDer::pem_file_iter(file)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let config = Config {
            store: Arc::new(DirStore::open(&dir).unwrap()),
            // Nobody is there who could issue another one.
            acme_directory: "https://127.0.0.1:1/dir".to_owned(),
            ..lab.config("gone", None)
        };
        let (node, me) = up(config).await;
        assert_eq!(me.name, NAME);
        assert_eq!(node.cert(NAME).await.unwrap().chain, gos);
        node.close().await;
    });
}
