use std::{fmt, str::FromStr};

use super::ServiceError;

/// The name of a Tailscale Service: `svc:` and a DNS label (Go: `tailcfg.ServiceName`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(String);

const PREFIX: &str = "svc:";

impl ServiceName {
    /// With `svc:`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without `svc:`.
    pub fn label(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// The full name in a tailnet with this MagicDNS suffix.
    pub fn fqdn(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.label()).to_ascii_lowercase()
    }
}

impl FromStr for ServiceName {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        let is_label = |label: &str| {
            let inside = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(inside)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        match text.strip_prefix(PREFIX).is_some_and(is_label) {
            true => Ok(Self(text.to_owned())),
            false => Err(ServiceError::Name {
                name: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_behind_svc() {
        let name: ServiceName = "svc:web-1".parse().unwrap();
        assert_eq!(
            (name.label(), name.fqdn("example.ts.net").as_str()),
            ("web-1", "web-1.example.ts.net")
        );
        let long = format!("svc:{}", "x".repeat(64));
        for bad in [
            "web", "svc:", "svc:-a", "svc:a-", "svc:a.b", "svc:a b", "SVC:a", "svc:ä", &long,
        ] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
    }
}
