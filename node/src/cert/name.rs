use std::fmt;

use rustls_pki_types::DnsName;

/// A name that a certificate can be for: lower case, without trailing dot; maybe a wildcard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(String);

impl Name {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        let base = name.strip_prefix("*.").unwrap_or(&name);
        match DnsName::try_from(base) {
            Ok(_) if base.contains('.') => Ok(Self(name)),
            _ => Err("it is no full DNS name"),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Keys of chain and private key in the store, named as Go's files are.
    pub(super) fn keys(&self) -> (String, String) {
        let stem = match self.0.strip_prefix("*.") {
            Some(base) => format!("wildcard_.{base}"),
            None => self.0.clone(),
        };
        (format!("{stem}.crt"), format!("{stem}.key"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_full_and_make_safe_keys() {
        assert_eq!(
            Name::parse("X.Example.ts.net.").unwrap().keys().0,
            "x.example.ts.net.crt"
        );
        assert_eq!(
            Name::parse("*.x.ts.net").unwrap().keys().1,
            "wildcard_.x.ts.net.key"
        );
        for bad in [
            "",
            ".",
            "x",
            "../x.y",
            "a/b.c",
            "*.*.x.y",
            "x.*.y",
            "100.64.0.1:443",
        ] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }
}
