//! The way to the API server from inside of a pod: the cluster's address, its authority, and the pod's token.
//!
//! kube's own client would also read kubeconfigs and run the programs that they name for credentials. A data plane has no
//! use for that, and without it the program is a MiB smaller.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use http::{HeaderValue, Request, Uri, header, uri::Scheme};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{Client, Config, client::Body};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::CertificateDer;
use tower::BoxError;

/// For the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From a request to the head of its answer; watches have theirs at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// An API server that is gone without a word is noticed after a few of these.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A client as the pod's ServiceAccount. The API server need not be there yet.
///
/// # Errors
/// Outside of a pod, and where its ServiceAccount isn't mounted.
pub(super) fn client() -> anyhow::Result<Client> {
    let config = Config::incluster().context("find the API server: this is no pod with a ServiceAccount")?;
    let token = config
        .auth_info
        .token_file
        .context("the ServiceAccount has no token")?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(config.root_cert.into_iter().flatten().map(CertificateDer::from));
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let (server, token): (Uri, Arc<Path>) = (config.cluster_url, PathBuf::from(token).into());
    let service = tower::service_fn(move |request| {
        let (http, server, token) = (http.clone(), server.clone(), token.clone());
        async move {
            let request = addressed(request, &server, &token)?;
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, http.request(request)).await?;
            Ok::<_, BoxError>(answer?)
        }
    });
    Ok(Client::new(service, config.default_namespace))
}

/// The request as it leaves: to the server, with the token as it is now, since the kubelet renews it.
fn addressed(mut request: Request<Body>, server: &Uri, token: &Path) -> Result<Request<Body>, BoxError> {
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some(server.scheme().cloned().unwrap_or(Scheme::HTTPS));
    uri.authority = server.authority().cloned();
    *request.uri_mut() = Uri::from_parts(uri)?;
    let token = fs::read_to_string(token)
        .map_err(|e| format!("read the ServiceAccount's token {}: {e}", token.display()))?;
    let mut authorization = HeaderValue::try_from(format!("Bearer {}", token.trim_end()))?;
    authorization.set_sensitive(true);
    request.headers_mut().insert(header::AUTHORIZATION, authorization);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_to_the_server_with_the_newest_token() {
        let token = tempfile::NamedTempFile::new().unwrap();
        let server = Uri::from_static("https://10.0.0.1");
        for (text, sent) in [("first\n", "Bearer first"), ("second", "Bearer second")] {
            fs::write(&token, text).unwrap();
            let asked = Request::get("/api/v1/namespaces/a/configmaps?watch=true")
                .body(Body::empty())
                .unwrap();
            let request = addressed(asked, &server, token.path()).unwrap();
            let uri = "https://10.0.0.1/api/v1/namespaces/a/configmaps?watch=true";
            assert_eq!(request.uri(), uri);
            assert_eq!(request.headers()[header::AUTHORIZATION], sent);
            assert!(!format!("{request:?}").contains(sent));
        }
        drop(token);
        let asked = Request::get("/").body(Body::empty()).unwrap();
        let error = addressed(asked, &server, Path::new("/nowhere/token")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/token"));
    }
}
