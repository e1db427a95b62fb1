//! Several providers over one store: what one begins another can end, and nothing works twice.

use std::sync::Arc;

use futures::future::join_all;
use http::StatusCode;
use postern_idp::{Key, Store, store::DirectoryStore};

use crate::tailnet::{ALICE, Tailnet, at, get};

async fn another(tailnet: &Tailnet) -> Tailnet {
    Tailnet::replica(tailnet.store.clone(), tailnet.people.clone(), |_| {}).await
}

#[tokio::test]
async fn a_code_of_one_replica_is_good_at_another_and_once_in_all() {
    let tailnet = Tailnet::new().await;
    let replicas = join_all((0..4).map(|_| another(&tailnet))).await;
    let code = tailnet.code(ALICE, &[]).await;
    let answers = join_all(replicas.iter().map(|replica| replica.redeem(&code))).await;
    let good: Vec<_> = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::OK)
        .collect();
    assert_eq!(good.len(), 1, "{answers:?}");
    // A code that comes twice has been stolen by one of them: nothing of it stays good.
    let (_, tokens) = good[0];
    assert!(!tailnet.is_active(tokens).await);
    assert_eq!(tailnet.refresh(tokens).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_login_outlives_the_process_that_began_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = || -> Arc<dyn Store> { Arc::new(DirectoryStore::open(dir.path()).unwrap()) };
    let first = Tailnet::on(open(), |_| {}).await;
    let code = first.code(ALICE, &[]).await;
    let people = first.people.clone();
    drop(first);
    let second = Tailnet::replica(open(), people.clone(), |_| {}).await;
    let (status, tokens) = second.redeem(&code).await;
    assert_eq!(status, StatusCode::OK, "{tokens}");
    drop(second);
    let third = Tailnet::replica(open(), people, |_| {}).await;
    let (status, refreshed) = third.refresh(&tokens).await;
    assert_eq!(status, StatusCode::OK, "{refreshed}");
    assert!(third.is_active(&tokens).await);
    // The consent was kept too.
    let answer = third
        .send(at(ALICE), get(&crate::tailnet::authorize_url(&[])))
        .await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn workers_that_refresh_at_once_get_the_same_token() {
    let tailnet = Tailnet::new().await;
    let other = another(&tailnet).await;
    let tokens = tailnet.login(ALICE, &[]).await;
    let (first, second) = (tailnet.refresh(&tokens).await, other.refresh(&tokens).await);
    assert_eq!((first.0, second.0), (StatusCode::OK, StatusCode::OK));
    assert_eq!(first.1["refresh_token"], second.1["refresh_token"]);
    assert_ne!(first.1["refresh_token"], tokens["refresh_token"]);
}

#[tokio::test]
async fn nothing_is_written_before_somebody_is_proven() {
    let tailnet = Tailnet::new().await;
    let documents = async || {
        let mut versions = Vec::new();
        for key in Key::all() {
            versions.push(
                tailnet
                    .store
                    .read(key)
                    .await
                    .unwrap()
                    .map(|document| document.version),
            );
        }
        versions
    };
    let before = documents().await;
    let mut browser = tailnet.browser(ALICE);
    browser.get(&crate::tailnet::authorize_url(&[])).await;
    tailnet.redeem("made up").await;
    let form = [("grant_type", "refresh_token"), ("refresh_token", "prt_x.0.y")];
    tailnet.post_as_app("/token", &form).await;
    assert_eq!(documents().await, before);
}
