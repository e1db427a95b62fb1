//! From the internet and from inside of the cluster there is what clients need, and nothing that knows a person.

use http::{StatusCode, header};
use postern_idp::Arrival;

use crate::tailnet::{ALICE, Tailnet, at, authorize_url, form_request, get};

#[tokio::test]
async fn persons_are_known_on_the_tailnet_alone() {
    let tailnet = Tailnet::new().await;
    tailnet.people.grant(
        ALICE,
        &[serde_json::json!({"allow_admin_ui": true, "allow_dcr": true})],
    );
    for arrival in [Arrival::Funnel, Arrival::BackChannel] {
        for path in ["/", "/new", "/edit/app", &authorize_url(&[])] {
            let mut request = get(path);
            // What a proxy of ours would never let pass, and what must not matter.
            for name in ["tailscale-user-login", "x-forwarded-for", "x-real-ip"] {
                request.headers_mut().insert(name, "100.64.0.1".parse().unwrap());
            }
            assert_eq!(
                tailnet.send(arrival, request).await.status(),
                StatusCode::FORBIDDEN,
                "{path}"
            );
        }
        let form = form_request("/consent", &[("decision", "allow")]);
        assert_eq!(tailnet.send(arrival, form).await.status(), StatusCode::FORBIDDEN);
        let mut register = form_request("/register", &[]);
        *register.body_mut() = r#"{"redirect_uris":["https://a/cb"]}"#.into();
        assert_eq!(
            tailnet.send(arrival, register).await.status(),
            StatusCode::FORBIDDEN
        );
    }
}

#[tokio::test]
async fn clients_find_the_same_everywhere_but_the_registration() {
    let tailnet = Tailnet::new().await;
    let document = async |arrival, path: &str| {
        let answer = tailnet.send(arrival, get(path)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        serde_json::from_slice::<serde_json::Value>(answer.body()).unwrap()
    };
    let oidc = "/.well-known/openid-configuration";
    let mut inside = document(at(ALICE), oidc).await;
    assert_eq!(
        document(at(ALICE), "/.well-known/oauth-authorization-server").await,
        inside
    );
    let registration = inside.as_object_mut().unwrap().remove("registration_endpoint");
    assert_eq!(registration.unwrap(), "https://idp.example.ts.net/register");
    assert_eq!(document(Arrival::Funnel, oidc).await, inside);
    assert_eq!(document(Arrival::BackChannel, oidc).await, inside);
    let keys = document(Arrival::Funnel, "/.well-known/jwks.json").await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 4);
    let resource = document(Arrival::Funnel, "/.well-known/oauth-protected-resource").await;
    assert_eq!(resource["authorization_servers"][0], "https://idp.example.ts.net");
}
