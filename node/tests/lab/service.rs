//! A Tailscale Service, reached by Go clients.

use serde_json::{Value, json};

use crate::{
    examples::example,
    lab::{Lab, eventually, with_lab},
};

const SERVICE: &str = "svc:clock";

/// Waits until bob reaches the service on this host.
async fn reaches(lab: &Lab, url: &str, host: &str) {
    let end = format!(" on {host}.lab-tailnet.ts.net\n");
    eventually(&format!("{url}{end}"), async || {
        let answer = lab.fetch("bob", url).await;
        let body = answer["body"].as_str().unwrap_or_default();
        body.starts_with("bob@example.com reached ") && body.ends_with(&end)
    })
    .await;
}

#[test]
fn a_service_is_reached_on_another_host_when_one_ends() {
    with_lab(async |lab| {
        lab.start_authority().await;
        lab.start_clients().await;
        let definition = json!({"name": SERVICE, "ports": ["tcp:80", "tcp:443"]});
        let (_, defined) = lab
            .admin("PUT", &format!("/services/{SERVICE}"), Some(definition))
            .await;
        let defined: Value = serde_json::from_str(&defined).unwrap();
        let by_v6 = format!("http://[{}]/", defined["addrs"][1].as_str().unwrap());
        let (plain, secure) = (
            "http://clock.lab-tailnet.ts.net/",
            "https://clock.lab-tailnet.ts.net/",
        );

        let one = lab.start_example(&example("service"), "tskey-auth-tagged", &[]);
        lab.says(one, "approved=true").await;
        reaches(lab, plain, "clock-host").await;
        reaches(lab, secure, "clock-host").await;
        reaches(lab, &by_v6, "clock-host").await;
        let (_, listed) = lab.admin("GET", "/nodes/clock-host/c2n/vip-services", None).await;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let wanted = json!([{"Name": SERVICE, "Ports": ["tcp:80", "tcp:443"], "Active": true}]);
        assert_eq!(listed["VIPServices"], wanted);

        let approved = format!("/services/{SERVICE}/hosts/clock-host");
        lab.admin("PUT", &approved, Some(json!({"approved": false})))
            .await;
        lab.says(one, "approved=false").await;
        lab.admin("PUT", &approved, Some(json!({"approved": true}))).await;
        reaches(lab, plain, "clock-host").await;

        let two = lab.start_example(&example("service"), "tskey-auth-tagged", &[]);
        lab.says(two, "approved=true").await;
        lab.kill(one);
        reaches(lab, plain, "clock-host-1").await;
        reaches(lab, secure, "clock-host-1").await;

        // Users' nodes host nothing, and hear why.
        let untagged = lab.start_example(&example("service"), "tskey-auth-alice", &[]);
        lab.says(untagged, "Untagged").await;
    });
}
