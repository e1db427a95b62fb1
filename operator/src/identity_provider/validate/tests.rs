use super::*;

fn provider(spec: &str) -> IdentityProvider {
    let yaml = format!("metadata: {{name: idp, namespace: auth, uid: u, generation: 3}}\nspec: {spec}");
    serde_saphyr::from_str(&yaml).unwrap()
}

fn served(spec: &str) -> config::IdentityProvider {
    let spec = claim(&provider(spec)).spec.unwrap();
    match &spec.ports[..] {
        [
            PortSpec {
                port: 443,
                protocol: PortProtocol::IdentityProvider(provider),
            },
        ] => provider.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_short_form_has_a_group_of_its_own() {
    let claim = claim(&provider("{}"));
    assert!(claim.own_group && claim.group_is_made());
    assert!(claim.group.starts_with("idp-idp-") && claim.group.len() <= LONGEST_GROUP);
    assert_eq!(claim.hostname.unwrap().as_str(), "idp");
    let served = served("{}");
    assert_eq!(served.documents, format!("{}-idp-idp", claim.group));
    assert_eq!((served.token_seconds, served.refresh_seconds), (300, 2_592_000));
    assert_eq!(
        (served.signing, served.registration_seconds),
        (Signing::Es256, None)
    );
    assert!(!served.back_channel && self::served("{backChannel: {enabled: true}}").back_channel);
    let long = IdentityProvider::new(&"a.b".repeat(40), Default::default());
    assert!(group(&long).len() <= LONGEST_GROUP && !group(&long).contains('.'));
    assert_ne!(group(&long), group(&provider("{}")));
}

#[test]
fn what_is_said_is_served() {
    let served = served(
        "{hostname: login, proxyGroupName: keys, tokenExchange: {enabled: true}, signing: {algorithm: RS256}, \
         dynamicRegistration: {enabled: true, expireAfter: 12h}, lifetimes: {tokens: 10m, refresh: 7d}}",
    );
    assert_eq!(
        served,
        config::IdentityProvider {
            documents: "keys-login-idp".into(),
            clients: Some(SecretRef {
                name: "keys-login-idp-declared".into(),
                revision: String::new(),
            }),
            signing: Signing::Rs256,
            token_exchange: true,
            registration_seconds: Some(43_200),
            back_channel: false,
            token_seconds: 600,
            refresh_seconds: 604_800,
        }
    );
}

#[test]
fn what_cannot_be_served_is_named() {
    for (spec, field) in [
        (
            "{proxyGroupName: shared, backChannel: {enabled: true}}",
            "spec.backChannel.enabled",
        ),
        (
            "{clientIdMetadataDocuments: {enabled: true}}",
            "spec.clientIdMetadataDocuments.enabled",
        ),
        ("{signing: {rotateAfter: 1d}}", "spec.signing.rotateAfter"),
        ("{lifetimes: {tokens: 0s}}", "spec.lifetimes.tokens"),
        ("{lifetimes: {refresh: 99999d}}", "spec.lifetimes.refresh"),
        (
            "{dynamicRegistration: {enabled: true, expireAfter: soon}}",
            "spec.dynamicRegistration.expireAfter",
        ),
        ("{hostname: a.b}", "spec.hostname"),
        ("{tags: [nonsense]}", "spec.tags[0]"),
    ] {
        let problems = claim(&provider(spec)).spec.unwrap_err();
        let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, [field]);
    }
}

#[test]
fn the_internet_has_what_clients_ask_where_that_is_said() {
    let funnel = |spec: &str| claim(&provider(spec)).spec.unwrap().funnel;
    assert_eq!(funnel("{}"), None);
    assert_eq!(funnel("{funnel: {sources: [192.0.2.0/24]}}"), None);
    let open = funnel("{funnel: {enabled: true}}").unwrap().unwrap();
    assert!(open.config.unauthenticated && !open.config.only && open.keys.is_empty());
    assert_eq!(open.config.ports, [443].into());
    assert_eq!(open.config.limits, ISSUER_LIMITS);
    let bound =
        "{funnel: {enabled: true, sources: [192.0.2.0/24], limits: {perAddress: {requestsPerMinute: 5}}}}";
    let bound = funnel(bound).unwrap().unwrap().config;
    assert!(!bound.unauthenticated && bound.is_locked());
    let quota = bound.limits.per_address.unwrap();
    assert_eq!(quota.requests_per_minute.map(u32::from), Some(5));
    assert_eq!(bound.limits.connections_per_address, None);
    // The tailnet has its logins all the same.
    for everybody in ["0.0.0.0/0", "nonsense"] {
        let problems = funnel(&format!(
            "{{funnel: {{enabled: true, sources: [\"{everybody}\"]}}}}"
        ));
        assert_eq!(problems.unwrap().unwrap_err()[0].field, "spec.funnel.sources[0]");
    }
}
