use proptest::prelude::*;

use super::*;

const KEY: &str = "nodekey:0101010101010101010101010101010101010101010101010101010101010101";

fn node(fields: &str) -> Node {
    serde_json::from_str(&format!(r#"{{"ID":7,"Key":"{KEY}"{fields}}}"#)).unwrap()
}

fn node_is_broken(fields: &str) {
    let message =
        format!(r#"{{"Peers":[{{"ID":7,"Key":"{KEY}"{fields}}},{{"ID":8,"Key":"{KEY}"}}],"Domain":"d"}}"#);
    let response = map(&message);
    assert_eq!(response.peers.dropped, 1, "{fields}");
    assert_eq!(response.dropped(), 1);
    assert_eq!(response.peers[0].id, 8);
    assert_eq!(response.domain, "d");
}

fn map(text: &str) -> MapResponse {
    MapResponse::from_json(text.as_bytes()).unwrap()
}

#[test]
fn escapes_are_read_everywhere() {
    let m = map(
        r#"{"UserProfiles":[{"ID":1,"LoginName":"r\u0026d@x","DisplayName":"Bob \"x\" R\u0026D",
            "ProfilePicURL":"https:\/\/x\/?a=1\u0026b=2"}],
            "DNSConfig":{"Resolvers":[{"Addr":"https://x/?a\u0026b"}],"CertDomains":["a\u002eb"]},
            "PacketFilter":[{"SrcIPs":["\u002a"],"DstPorts":[{"IP":"\u002a","Ports":{"First":1,"Last":2}}]}],
            "Health":["a\nb"],"Domain":"R\u0026D"}"#,
    );
    assert_eq!(m.user_profiles[0].display_name, "Bob \"x\" R&D");
    assert_eq!(m.user_profiles[0].profile_pic_url, "https://x/?a=1&b=2");
    let dns = m.dns_config.unwrap();
    assert_eq!(dns.resolvers[0].addr, "https://x/?a&b");
    assert_eq!(dns.cert_domains, ["a.b"]);
    assert_eq!(m.packet_filter.unwrap()[0].dst_ports[0].ip, "*");
    assert_eq!(m.domain, "R&D");
    let escaped = KEY.replace("nodekey", r"nodeke\u0079");
    let node: Node = serde_json::from_str(&format!(r#"{{"ID":1,"Key":"{escaped}"}}"#)).unwrap();
    assert_eq!(node.key.to_string(), KEY);
}

#[test]
fn a_node_may_have_one_address_family_or_ipv6_first() {
    let one = node(r#","Addresses":["fd7a:115c:a1e0::1/128"]"#);
    assert_eq!(one.addresses.len(), 1);
    let two = node(r#","Addresses":["fd7a:115c:a1e0::1/128","100.64.0.1/32"]"#);
    assert!(two.addresses[0].addr().is_ipv6() && two.addresses[1].addr().is_ipv4());
}

#[test]
fn hostinfo_is_spelt_as_go_spells_it() {
    let peer = node(
        r#","Hostinfo":{"OS":"linux","Hostname":"h","Services":[{"Proto":"peerapi4","Port":1234},
            {"Proto":"peerapi6","Port":"x"}],"NetInfo":{"PreferredDERP":3,"WorkingUDP":null,"WorkingIPv6":true}}"#,
    );
    assert_eq!(peer.hostinfo.os, "linux");
    assert_eq!(
        peer.hostinfo.services,
        [Service {
            proto: "peerapi4".to_owned(),
            port: 1234
        }]
    );
    let net_info = peer.hostinfo.net_info.unwrap();
    assert_eq!((net_info.preferred_derp, net_info.working_ipv6), (3, Some(true)));
}

#[test]
fn ping_requests_need_no_field_and_may_be_of_an_unknown_kind() {
    let m =
        map(r#"{"PingRequest":{"URL":"https://x","Types":"warp","Payload":"aGk=","IP":7},"KeepAlive":true}"#);
    let ping = m.ping_request.unwrap();
    assert!(!ping.url_is_noise && m.keep_alive);
    assert_eq!(
        (ping.types.as_str(), ping.payload.as_slice()),
        ("warp", b"hi".as_slice())
    );
}

#[test]
fn null_is_the_empty_value() {
    let m = map(
        r#"{"KeepAlive":null,"PingRequest":null,"Node":null,"DERPMap":null,"Peers":null,
            "PeersChanged":null,"PeersRemoved":null,"PeersChangedPatch":null,"PeerSeenChange":null,
            "OnlineChange":null,"DNSConfig":null,"Domain":null,"PacketFilter":null,"PacketFilters":null,
            "UserProfiles":null,"Health":null,"DisplayMessages":null,"ControlTime":null,"Debug":null}"#,
    );
    assert_eq!(m.dropped(), 0);
    assert!(m.packet_filter.is_none() && m.health.is_none() && m.peers.is_empty());

    let n = node(
        r#","StableID":null,"Name":null,"User":null,"KeyExpiry":null,"Machine":null,"DiscoKey":null,
            "Addresses":null,"AllowedIPs":null,"Endpoints":null,"DERP":null,"HomeDERP":null,
            "Hostinfo":null,"Cap":null,"Tags":null,"LastSeen":null,"Online":null,
            "MachineAuthorized":null,"Capabilities":null,"CapMap":null,"UnsignedPeerAPIOnly":null,
            "Expired":null,"IsWireGuardOnly":null,"IsJailed":null"#,
    );
    assert!(n.allowed_ips.is_none() && n.tags.is_empty() && !n.expired);

    let m = map(
        r#"{"PacketFilter":[{"SrcIPs":null,"SrcBits":null,"DstPorts":null,"IPProto":null,
            "CapGrant":[{"Dsts":null,"Caps":null,"CapMap":null}]}],
            "DERPMap":{"HomeParams":null,"Regions":{"1":null,"2":{"Nodes":null}}},
            "DNSConfig":{"Resolvers":null,"Routes":{"a":null,"b":[]},"CertDomains":null},
            "UserProfiles":[{"ID":1,"Groups":null}]}"#,
    );
    assert_eq!(m.dropped(), 0);
    assert_eq!(m.packet_filter.unwrap().len(), 1);
    assert_eq!(m.dns_config.unwrap().routes.len(), 2);
    let regions = m.derp_map.unwrap().regions.unwrap();
    assert!(regions[&1].is_none() && regions[&2].is_some());
}

#[test]
fn absent_and_empty_lists_differ_where_go_says_so() {
    let m = map(r#"{"PacketFilter":[],"Health":[]}"#);
    assert!(m.packet_filter.unwrap().is_empty() && m.health.unwrap().is_empty());
    assert!(map("{}").packet_filter.is_none() && map("{}").health.is_none());
    assert_eq!(node(r#","AllowedIPs":[]"#).allowed_ips, Some(Vec::new()));
    assert_eq!(node("").allowed_ips, None);
    let m = map(
        r#"{"PeersChangedPatch":[{"NodeID":1,"Endpoints":[],"CapMap":{},"KeyExpiry":"0001-01-01T00:00:00Z"},
            {"NodeID":2}]}"#,
    );
    let [first, second] = &m.peers_changed_patch[..] else {
        panic!("two patches");
    };
    assert!(first.endpoints.is_some() && first.cap_map.is_some());
    assert_eq!(first.key_expiry, Some(None));
    assert!(second.endpoints.is_none() && second.cap_map.is_none() && second.key_expiry.is_none());
    let m =
        map(r#"{"PacketFilters":{"*":null,"base":[],"x":7},"DisplayMessages":{"*":null,"a":{"Title":"t"}}}"#);
    assert!(m.packet_filters["*"].is_none() && m.packet_filters["base"].is_some());
    assert!(!m.packet_filters.contains_key("x"));
    assert!(m.display_messages["*"].is_none() && m.display_messages["a"].is_some());
}

#[test]
fn a_mistyped_field_is_as_if_absent() {
    let m = map(
        r#"{"New":{"x":[1]},"KeepAlive":"no","PeerSeenChange":{"1":true,"x":true,"2":7},"PeersRemoved":[1,"x",2],
            "DERPMap":[],"DNSConfig":"x","Health":{"a":1},"ControlTime":"today","Debug":{"SleepSeconds":"x"},
            "Node":{"ID":1,"Key":"NODEKEY","Name":7,"Online":"yes","Endpoints":["1.2.3.4:5","[fe80::1%eth0]:1",9],
            "Addresses":["100.64.0.1/32","x"],"DiscoKey":"discokey:1","Hostinfo":[],"HomeDERP":-1,"LastSeen":5,
            "CapMap":{"a":null,"b":[1,{"x": 1.50}],"c":"x"}},"Domain":"example.com"}"#
            .replace("NODEKEY", KEY)
            .as_str(),
    );
    assert_eq!(m.domain, "example.com");
    assert_eq!(m.peer_seen_change.len(), 1);
    assert_eq!(m.peers_removed, [1, 2]);
    let node = m.node.unwrap();
    assert_eq!((node.endpoints.len(), node.addresses.len()), (1, 1));
    assert_eq!(node.cap_map.keys().collect::<Vec<_>>(), ["a", "b"]);
    // The bytes of a value are kept, not its meaning.
    assert_eq!(node.cap_map["b"][1].get(), r#"{"x": 1.50}"#);
}

#[test]
fn a_peer_that_would_get_more_rights_by_a_broken_field_is_dropped() {
    node_is_broken(r#","Tags":"tag:x""#);
    node_is_broken(r#","Tags":[7]"#);
    node_is_broken(r#","Expired":"true""#);
    node_is_broken(r#","KeyExpiry":"yesterday""#);
    node_is_broken(r#","UnsignedPeerAPIOnly":1"#);
    node_is_broken(r#","IsJailed":1"#);
    node_is_broken(r#","Key":null"#);
}

#[test]
fn a_rule_that_would_get_wider_by_a_broken_field_is_dropped() {
    let m = map(
        r#"{"PacketFilter":[{"SrcIPs":["*"],"IPProto":["tcp"]},{"SrcIPs":["*",7],"IPProto":[6],
            "DstPorts":[{"IP":"*"},{"IP":"*","Ports":{"First":80,"Last":80}}]}]}"#,
    );
    let rules = m.packet_filter.unwrap();
    assert_eq!((rules.len(), rules.dropped), (1, 1));
    assert_eq!((rules[0].src_ips.len(), rules[0].dst_ports.len()), (1, 1));
}

#[test]
fn zero_times_and_keys_are_none() {
    let disco = "discokey:0000000000000000000000000000000000000000000000000000000000000000";
    let zero = node(&format!(
        r#","KeyExpiry":"0001-01-01T00:00:00Z","DiscoKey":"{disco}""#
    ));
    assert!(zero.key_expiry.is_none() && zero.disco_key.is_none());
    let some = node(r#","KeyExpiry":"2030-01-02T03:04:05.123456789+02:00""#);
    assert_eq!(
        some.key_expiry.unwrap().to_string(),
        "2030-01-02T01:04:05.123456789Z"
    );
}

#[test]
fn text_that_is_no_unicode_breaks_nothing_else() {
    let m = MapResponse::from_json(b"{\"Domain\":\"a\xffb\",\"Health\":[\"\\ud800\",\"ok\"]}").unwrap();
    assert_eq!(m.domain, "a\u{fffd}b");
    assert_eq!(m.health.unwrap(), ["ok"]);
}

#[test]
fn requests_look_as_go_writes_them() {
    let key: crate::key::NodePublic = KEY.parse().unwrap();
    let register = RegisterRequest {
        version: 113,
        node_key: key,
        old_node_key: crate::key::NodePublic::from_bytes([0; 32]),
        nl_key: "nlpub:00".to_owned(),
        auth: Some(RegisterAuth {
            auth_key: crate::control::AuthKey::new("tskey-auth-x"),
        }),
        expiry: None,
        followup: String::new(),
        hostinfo: Hostinfo {
            hostname: "h".to_owned(),
            request_tags: vec!["tag:x".to_owned()],
            userspace: Some(true),
            net_info: Some(NetInfo {
                preferred_derp: 2,
                derp_latency: [("2-v4".to_owned(), 0.5)].into(),
                ..NetInfo::default()
            }),
            ..Hostinfo::default()
        },
        ephemeral: true,
    };
    let value = serde_json::to_value(&register).unwrap();
    let zeros = "0".repeat(64);
    assert_eq!(
        value,
        serde_json::json!({
            "Version": 113, "NodeKey": KEY, "OldNodeKey": format!("nodekey:{zeros}"),
            "NLKey": "nlpub:00", "Auth": {"AuthKey": "tskey-auth-x"},
            "Expiry": "0001-01-01T00:00:00Z", "Followup": "", "Ephemeral": true,
            "Hostinfo": {"Hostname": "h", "RequestTags": ["tag:x"], "Userspace": true,
                "NetInfo": {"PreferredDERP": 2, "DERPLatency": {"2-v4": 0.5}}},
        })
    );
    assert!(!format!("{register:?}").contains("tskey"));
}

/// A message with most fields, to be mutated.
const RICH: &str = r#"{"Node":{"ID":1,"Key":"nodekey:0101010101010101010101010101010101010101010101010101010101010101",
"Addresses":["100.64.0.1/32"],"KeyExpiry":"2030-01-02T03:04:05Z","CapMap":{"https":null,"a":[{"b":1}]},
"Hostinfo":{"Services":[{"Proto":"peerapi4","Port":1}]},"Endpoints":["1.2.3.4:5"]},"Peers":[{"ID":2,
"Key":"nodekey:0201010101010101010101010101010101010101010101010101010101010101","Tags":["tag:a"]}],
"DERPMap":{"Regions":{"1":{"RegionID":1,"Nodes":[{"Name":"1a","STUNPort":-1}]}}},"OnlineChange":{"2":true},
"PacketFilters":{"base":[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}]},
"UserProfiles":[{"ID":1,"LoginName":"a\u0026b"}],"PingRequest":{"URL":"x","Payload":"aGk="}}"#;

proptest! {
    #[test]
    fn no_message_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = MapResponse::from_json(&bytes);
    }

    #[test]
    fn no_mutation_makes_the_reader_panic(
        cuts in proptest::collection::vec((0..RICH.len(), 0..30usize, "[\\[\\]{}\",:0-9a-z\\\\-]{0,4}"), 1..4)
    ) {
        let mut message = RICH.as_bytes().to_vec();
        for (at, length, insert) in cuts {
            let at = at.min(message.len());
            let end = (at + length).min(message.len());
            message.splice(at..end, insert.bytes());
        }
        let _ = MapResponse::from_json(&message);
    }
}
