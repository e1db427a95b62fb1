use k8s_openapi::api::core::v1::Namespace;

use super::*;
use crate::stores::fixtures::filled;

const CLUSTER: &str = "
apiVersion: postern.dev/v1alpha1
kind: ProxyGroup
metadata: { name: idps }
spec: {}
---
apiVersion: postern.dev/v1alpha1
kind: IdentityProvider
metadata: { name: idp, namespace: auth, uid: u-idp }
spec: { proxyGroupName: idps }
---
apiVersion: postern.dev/v1alpha1
kind: OIDCClient
metadata: { name: grafana, namespace: monitoring, uid: u-grafana }
spec: { identityProviderRef: { name: idp, namespace: auth }, redirectURIs: [\"https://a.example/\"] }
---
apiVersion: postern.dev/v1alpha1
kind: OIDCClient
metadata: { name: other, namespace: monitoring, uid: u-other }
spec: { identityProviderRef: { name: idp }, redirectURIs: [\"https://a.example/\"] }
---
apiVersion: v1
kind: Secret
metadata:
  name: idps-idp-idp-declared
  namespace: postern
  labels: { postern.dev/role: clients, postern.dev/proxy-group: idps, postern.dev/owner-uid: u-idp }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: idps-0-report, namespace: postern, labels: { postern.dev/proxy-group: idps } }
";

#[test]
fn a_client_and_its_provider_hear_of_each_other() {
    let stores = filled("postern", CLUSTER);
    let grafana = Woken::OidcClient {
        namespace: "monitoring".into(),
        name: "grafana".into(),
    };
    let provider = Woken::IdentityProvider {
        namespace: "auth".into(),
        name: "idp".into(),
    };
    let group = Woken::ProxyGroup("idps".into());
    let clients = stores.oidc_clients.state();
    let client = clients.iter().find(|client| client.name_any() == "grafana");
    // Its deletion too: the provider takes away what it had.
    assert_eq!(
        oidc_client(&stores, client.unwrap()),
        [grafana.clone(), provider.clone()]
    );
    let secret = stores.secret("idps-idp-idp-declared").unwrap();
    assert_eq!(
        super::secret(&stores, &secret),
        [group, provider, grafana.clone()]
    );
    let object = &stores.identity_providers.state()[0];
    let report = stores.config_map("idps-0-report").unwrap();
    let namespace = Namespace {
        metadata: kube::core::ObjectMeta {
            name: Some("monitoring".into()),
            ..Default::default()
        },
        ..Namespace::default()
    };
    for (event, woken) in [
        ("the issuer is known", identity_provider(&stores, object)),
        ("the proxy has taken it", config_map(&stores, &report)),
        ("labels of its namespace", super::namespace(&stores, &namespace)),
        ("the operator starts", everything(&stores)),
    ] {
        assert!(woken.contains(&grafana), "{event}: {woken:?}");
    }
    // One of another provider, which doesn't exist, is nobody's here.
    let other = Woken::OidcClient {
        namespace: "monitoring".into(),
        name: "other".into(),
    };
    assert!(!identity_provider(&stores, object).contains(&other));
}
