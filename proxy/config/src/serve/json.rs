//! The file as it is written (Go: `ipn/serve.go`).

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ServeConfig {
    #[serde(rename = "TCP")]
    pub(super) tcp: Option<BTreeMap<String, TcpPortHandler>>,
    pub(super) web: Option<BTreeMap<String, WebServerConfig>>,
    pub(super) services: Option<BTreeMap<String, ServiceConfig>>,
    pub(super) allow_funnel: Option<BTreeMap<String, bool>>,
    #[serde(rename = "Foreground")]
    pub(super) _foreground: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct ServiceConfig {
    #[serde(rename = "TCP")]
    pub(super) tcp: Option<BTreeMap<String, TcpPortHandler>>,
    pub(super) web: Option<BTreeMap<String, WebServerConfig>>,
    #[serde(default)]
    pub(super) tun: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TcpPortHandler {
    #[serde(rename = "HTTPS", default)]
    pub(super) https: bool,
    #[serde(rename = "HTTP", default)]
    pub(super) http: bool,
    #[serde(rename = "TCPForward", default)]
    pub(super) tcp_forward: String,
    #[serde(rename = "TerminateTLS", default)]
    pub(super) terminate_tls: String,
    #[serde(rename = "ProxyProtocol", default)]
    pub(super) proxy_protocol: u8,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct WebServerConfig {
    pub(super) handlers: Option<BTreeMap<String, HttpHandler>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub(super) struct HttpHandler {
    pub(super) path: String,
    pub(super) proxy: String,
    pub(super) text: String,
    pub(super) redirect: String,
    pub(super) accept_app_caps: Option<BTreeSet<String>>,
}
