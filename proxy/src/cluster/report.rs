//! Publishes the report: on change alone, one write at a time.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use postern_proxy_config::report::{REPORT_KEY, Report};
use tokio_util::sync::CancellationToken;

use super::REQUEST_TIMEOUT;
use crate::report::Reports;

/// Changes that come together go out together.
const GATHER: Duration = Duration::from_millis(50);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Until `end`, and then what is left to say.
pub(super) async fn publish(api: Api<ConfigMap>, name: String, reports: Reports, end: CancellationToken) {
    let mut report = reports.subscribe();
    let mut published: Option<Report> = None;
    let mut retry = FIRST_RETRY;
    loop {
        let newest = report.borrow_and_update().clone();
        let mut failed = false;
        if published.as_ref() != Some(&newest) {
            match write(&api, &name, &newest).await {
                Ok(()) => {
                    published = Some(newest);
                    retry = FIRST_RETRY;
                }
                Err(error) => {
                    tracing::warn!(object = name, error, "Report not written, trying again");
                    failed = true;
                }
            }
        }
        if end.is_cancelled() {
            return;
        }
        let wait = async {
            if failed {
                tokio::time::sleep(retry).await;
            } else if report.changed().await.is_ok() {
                tokio::time::sleep(GATHER).await;
            }
        };
        tokio::select! {
            biased;
            () = end.cancelled() => {}
            () = wait => {}
        }
        if failed {
            retry = (retry * 2).min(LAST_RETRY);
        }
    }
}

async fn write(api: &Api<ConfigMap>, name: &str, report: &Report) -> Result<(), String> {
    let json = serde_json::to_string(report).map_err(|e| e.to_string())?;
    let patch = Patch::Merge(serde_json::json!({ "data": { REPORT_KEY: json } }));
    let params = PatchParams::default();
    let writing = api.patch(name, &params, &patch);
    match tokio::time::timeout(REQUEST_TIMEOUT, writing).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
