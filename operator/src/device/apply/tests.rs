//! The order of a removal, against a mock of the API server.

use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::json;
use tower_test::mock;

use super::*;
use crate::{
    context::Settings, metrics::Metrics, runtime, stores::fixtures::filled, tailnet_api::SecretText,
};

type Server = mock::Handle<Request<Body>, Response<Body>>;

fn context() -> (std::sync::Arc<Context>, Server) {
    let (service, server) = mock::pair::<Request<Body>, Response<Body>>();
    let settings = Settings {
        namespace: "postern".into(),
        cluster_id: "c".into(),
        proxy_image: "i".into(),
        pull_policy: "Never".into(),
        proxy_log: "info".into(),
    };
    let client = Client::new(service, "default");
    (
        runtime::context(client, settings, filled("postern", ""), "test", Metrics::new()),
        server,
    )
}

fn inputs(record: Record) -> Inputs {
    Inputs {
        record,
        released: None,
        reusable: Some((SecretText::new("the-key"), "s@1".into())),
        api: Some(tailnet_api::Api::None),
        report: None,
        configured: false,
        in_use: false,
        now: jiff::Timestamp::from_second(1_000).unwrap(),
    }
}

fn record() -> Record {
    Record {
        secret: "default-a-node".into(),
        group: "default".into(),
        hostname: "a".into(),
        owner: "Ingress/apps/a".into(),
        ..Record::default()
    }
}

async fn answer(server: &mut Server, code: u16) -> (String, String) {
    let (request, send) = server.next_request().await.expect("a call");
    let line = format!("{} {}", request.method(), request.uri().path());
    let body = request.into_body().collect_bytes().await.unwrap();
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": code, "reason": "", "message": "",
        "status": if code < 300 { "Success" } else { "Failure" }});
    let response = Response::builder()
        .status(code)
        .body(Body::from(status.to_string().into_bytes()))
        .unwrap();
    send.send_response(response);
    (line, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn the_record_goes_last_and_what_is_gone_already_is_a_success() {
    let (context, mut server) = context();
    let inputs = inputs(record());
    let step = Step::Remove { give_up: false };
    let (result, calls) = tokio::join!(apply(&context, &inputs, &step), async {
        [answer(&mut server, 404).await.0, answer(&mut server, 404).await.0]
    });
    result.unwrap();
    assert_eq!(
        calls,
        [
            "DELETE /api/v1/namespaces/postern/secrets/default-a-tls",
            "DELETE /api/v1/namespaces/postern/secrets/default-a-node"
        ]
    );
}

#[tokio::test]
async fn a_device_that_nobody_can_delete_is_named_in_an_event() {
    let (context, mut server) = context();
    let inputs = inputs(Record {
        key_revision: 1,
        node_id: Some("n1".into()),
        ..record()
    });
    let step = Step::Remove { give_up: false };
    let (result, (line, body)) = tokio::join!(apply(&context, &inputs, &step), async {
        let event = answer(&mut server, 201).await;
        answer(&mut server, 200).await;
        answer(&mut server, 200).await;
        event
    });
    result.unwrap();
    assert_eq!(line, "POST /apis/events.k8s.io/v1/namespaces/apps/events");
    assert!(body.contains("DeviceLeft") && body.contains("n1"), "{body}");
}

#[tokio::test]
async fn a_key_is_put_in_with_a_new_revision() {
    let (context, mut server) = context();
    let inputs = inputs(Record {
        key_revision: 1,
        ..record()
    });
    let (result, (line, body)) = tokio::join!(
        apply(&context, &inputs, &Step::PutReusable),
        answer(&mut server, 404)
    );
    result.unwrap();
    assert_eq!(line, "PATCH /api/v1/namespaces/postern/secrets/default-a-node");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["stringData"]["authkey"], "the-key");
    assert_eq!(body["metadata"]["annotations"][KEY_REVISION], "2");
    assert_eq!(body["metadata"]["annotations"][PROBLEM], Value::Null);
}
