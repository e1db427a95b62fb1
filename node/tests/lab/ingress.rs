//! What control hears of Funnel before anybody uses it.

use postern_node::funnel::FunnelMode;
use serde_json::{Value, json};

use crate::lab::{Lab, eventually, up, with_lab};

/// What control was told: `WireIngress` and `IngressEnabled`.
async fn told(lab: &Lab, host: &str) -> [Value; 2] {
    let info = &lab.device(host).await["hostinfo"];
    ["WireIngress", "IngressEnabled"].map(|field| info[field].clone())
}

/// A Go node whose serve config has an entry for Funnel, which is on or off.
async fn told_by_go(lab: &mut Lab, host: &str, on: bool) -> [Value; 2] {
    let config = json!({
        "TCP": {"443": {"HTTPS": true}},
        "Web": {"${TS_CERT_DOMAIN}:443": {"Handlers": {"/": {"Text": "hello"}}}},
        "AllowFunnel": {"${TS_CERT_DOMAIN}:443": on},
    });
    let path = lab.path(&format!("{host}.json"));
    std::fs::write(&path, config.to_string()).unwrap();
    let go = lab.start_peer("serve-config", host, &["-serve", path.to_str().unwrap()]);
    lab.says(go, "serving").await;
    eventually("control hears of Funnel", async || {
        told(lab, host).await != [Value::Null, Value::Null]
    })
    .await;
    told(lab, host).await
}

#[test]
fn control_hears_of_funnel_what_it_hears_from_go() {
    with_lab(async |lab| {
        let may_come = told_by_go(lab, "go-prepared", false).await;
        let is_on = told_by_go(lab, "go-funnel", true).await;
        let (node, _) = up(lab.config("prepared", Some("tskey-auth-tagged"))).await;
        let hears = async |wanted: &[Value; 2]| {
            let what = format!("control hears {wanted:?}");
            eventually(&what, async || told(lab, "prepared").await == *wanted).await;
        };
        let nothing = [Value::Null, Value::Null];
        assert_eq!(told(lab, "prepared").await, nothing);
        node.prepare_funnel(true);
        hears(&may_come).await;
        let listener = node.listen_funnel(8443, FunnelMode::FunnelOnly).await.unwrap();
        hears(&is_on).await;
        drop(listener);
        hears(&may_come).await;
        node.prepare_funnel(false);
        hears(&nothing).await;
        node.close().await;
    });
}
