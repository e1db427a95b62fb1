//! OIDCClient → the client that the provider is told: pure, and every problem names its field.

use std::collections::BTreeMap;

use http::Uri;
use kube::{
    ResourceExt,
    core::{Selector, SelectorExt},
};
use postern_crds::{
    ClientNamespacesFrom, IdentityProvider, OIDCClient, SigningAlgorithm, conditions::reasons,
};
use postern_proxy_config::{
    FORMAT,
    access::{Access, Principal},
    clients::Client,
    group::Signing,
};

use crate::{
    model::Problem, name::judge::all_of, oidc_client::dereference::provider_of, tailnet_ingress::validate,
};

const PROVIDER: &str = "spec.identityProviderRef";

/// Translates one object for a provider that lets it; the client has no secret yet.
///
/// # Errors
/// Why the provider doesn't take it: an invalid object may keep what it had, one that isn't let in may not.
pub fn validate(
    object: &OIDCClient,
    provider: Option<&IdentityProvider>,
    namespace: &BTreeMap<String, String>,
) -> Result<Client, Problem> {
    let (of, name) = provider_of(object);
    let provider = provider.filter(|provider| provider.metadata.deletion_timestamp.is_none());
    let Some(provider) = provider else {
        let message = format!("IdentityProvider {of}/{name} doesn't exist: make it, or name another");
        return Err(Problem::new(
            reasons::IDENTITY_PROVIDER_NOT_FOUND,
            PROVIDER,
            message,
        ));
    };
    permit(object, provider, namespace)?;
    let spec = &object.spec;
    let mut problems = Vec::new();
    for (i, uri) in spec.redirect_uris.iter().enumerate() {
        if let Err(reason) = redirect_uri(uri) {
            problems.push(Problem::invalid(format!("spec.redirectURIs[{i}]"), reason));
        }
    }
    let access = (spec.access.as_ref()).map(|access| validate::access("spec.access", access, &mut problems));
    problems.extend(access.iter().flat_map(nobodies));
    if !problems.is_empty() {
        return Err(all_of(&problems));
    }
    Ok(Client {
        format: FORMAT,
        generation: object.metadata.generation.unwrap_or_default(),
        name: (spec.display_name.clone()).unwrap_or_else(|| object.name_any()),
        redirect_uris: spec.redirect_uris.clone(),
        public: spec.public,
        signing: match provider.spec.signing.algorithm {
            SigningAlgorithm::Es256 => Signing::Es256,
            SigningAlgorithm::Rs256 => Signing::Rs256,
        },
        access,
        secrets: Vec::new(),
    })
}

fn permit(
    object: &OIDCClient,
    provider: &IdentityProvider,
    namespace: &BTreeMap<String, String>,
) -> Result<(), Problem> {
    let allowed = &provider.spec.clients.allowed_namespaces;
    let lets_in = match allowed.from {
        ClientNamespacesFrom::Same => object.namespace() == provider.namespace(),
        ClientNamespacesFrom::All => true,
        ClientNamespacesFrom::Selector => (allowed.selector.clone())
            .and_then(|selector| Selector::try_from(selector).ok())
            .is_some_and(|selector| selector.matches(namespace)),
    };
    if lets_in {
        return Ok(());
    }
    let (of, name) = provider_of(object);
    let message = format!(
        "IdentityProvider {of}/{name} doesn't allow clients of this namespace (spec.clients.allowedNamespaces)"
    );
    Err(Problem::new(reasons::NOT_ALLOWED, PROVIDER, message))
}

/// What the schema can't say: the parts of a URL.
fn redirect_uri(text: &str) -> Result<(), &'static str> {
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("has characters that have to be percent-encoded");
    }
    let scheme = text.split(':').next().unwrap_or_default().to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        return Ok(());
    }
    let uri: Uri = text.parse().map_err(|_| "is no valid URL")?;
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => Err("has a user name, which browsers hide"),
        Some(authority) if !authority.host().is_empty() => Ok(()),
        _ => Err("has no host"),
    }
}

/// Entries by which nobody could log in.
fn nobodies(access: &Access) -> Vec<Problem> {
    let entries = access.allow.iter().enumerate();
    let problems = entries.filter_map(|(i, principal)| {
        let (kind, message) = match principal {
            Principal::Tag(_) => ("tag", "tagged machines have no user and can't log in"),
            Principal::Source(_) => ("source", "who logs in is a user, wherever the machine is"),
            Principal::User(_) | Principal::Group(_) | Principal::Capability(_) => return None,
        };
        let field = format!("spec.access.allow[{i}].{kind}");
        Some(Problem::invalid(
            field,
            format!("{message}: name a user, group or capability"),
        ))
    });
    problems.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(allowed: &str) -> IdentityProvider {
        serde_saphyr::from_str(&format!(
            "apiVersion: postern.dev/v1alpha1\nkind: IdentityProvider\nmetadata: {{ name: idp, namespace: auth }}\n\
             spec: {{ clients: {{ allowedNamespaces: {allowed} }} }}"
        ))
        .unwrap()
    }

    fn client(spec: &str) -> OIDCClient {
        serde_saphyr::from_str(&format!(
            "apiVersion: postern.dev/v1alpha1\nkind: OIDCClient\n\
             metadata: {{ name: grafana, namespace: monitoring, uid: u, generation: 3 }}\n\
             spec: {{ identityProviderRef: {{ name: idp, namespace: auth }}, {spec} }}"
        ))
        .unwrap()
    }

    fn judged(allowed: &str, spec: &str) -> Result<Client, Problem> {
        let labels = [("team".to_owned(), "eng".to_owned())].into();
        validate(&client(spec), Some(&provider(allowed)), &labels)
    }

    const URI: &str = "redirectURIs: ['https://grafana.example.ts.net/login']";

    #[test]
    fn the_provider_says_whose_clients_it_takes() {
        for (allowed, lets_in) in [
            ("{ from: All }", true),
            ("{ from: Same }", false),
            (
                "{ from: Selector, selector: { matchLabels: { team: eng } } }",
                true,
            ),
            (
                "{ from: Selector, selector: { matchLabels: { team: ops } } }",
                false,
            ),
        ] {
            let judged = judged(allowed, URI);
            assert_eq!(judged.is_ok(), lets_in, "{allowed}");
            if let Err(problem) = judged {
                assert_eq!(problem.reason, reasons::NOT_ALLOWED);
                assert!(problem.message.contains("allowedNamespaces"), "{problem}");
            }
        }
        let nobody = validate(&client(URI), None, &BTreeMap::new()).unwrap_err();
        assert_eq!(nobody.reason, reasons::IDENTITY_PROVIDER_NOT_FOUND);
        assert!(nobody.message.contains("auth/idp"), "{nobody}");
    }

    #[test]
    fn what_nobody_could_use_is_named_by_its_field() {
        for (spec, field) in [
            (
                "redirectURIs: ['https://a.example/', 'https://user@evil.example/']",
                "spec.redirectURIs[1]",
            ),
            ("redirectURIs: ['https://a.example/ä']", "spec.redirectURIs[0]"),
            (
                "redirectURIs: ['https://a.example/'], access: { allow: [{ user: a@b.c }, { tag: 'tag:ci' }] }",
                "spec.access.allow[1].tag",
            ),
            (
                "redirectURIs: ['https://a.example/'], access: { allow: [{ source: 100.64.0.0/10 }] }",
                "spec.access.allow[0].source",
            ),
        ] {
            let problem = judged("{ from: All }", spec).unwrap_err();
            assert_eq!(
                (problem.reason, problem.field.as_str()),
                (reasons::INVALID, field)
            );
        }
    }

    #[test]
    fn a_client_is_called_by_its_display_name() {
        let name = |spec: &str| judged("{ from: All }", spec).unwrap().name;
        assert_eq!(name(URI), "grafana");
        assert_eq!(name(&format!("{URI}, displayName: Dashboards")), "Dashboards");
    }
}
