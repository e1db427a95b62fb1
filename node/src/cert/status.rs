//! The answer to c2n `GET /tls-cert-status` (Go: `tailcfg.C2NTLSCertInfo`).

use jiff::Timestamp;
use serde::Serialize;

use super::pair::Pair;

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    valid: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    missing: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expired: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<Timestamp>,
}

pub(super) fn json(pair: Option<&Pair>, now: Timestamp) -> String {
    let info = match pair {
        None => Info {
            missing: true,
            error: "no certificate",
            ..Info::default()
        },
        Some(pair) if !pair.is_valid(now) => Info {
            expired: true,
            error: "cert expired",
            ..Info::default()
        },
        Some(pair) => Info {
            valid: true,
            not_before: Some(pair.validity.not_before),
            not_after: Some(pair.validity.not_after),
            ..Info::default()
        },
    };
    serde_json::to_string(&info).expect("plain fields can be written")
}
