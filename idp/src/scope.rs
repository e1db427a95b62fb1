//! Scopes: which claims a client asks for.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize, de};

/// What a client may ask for (OpenID Connect Core, section 5.4). `address` and `phone` are known so that asking
/// for them is no error; a tailnet knows neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Openid,
    Email,
    Profile,
    Groups,
    OfflineAccess,
    Address,
    Phone,
}

impl Scope {
    pub(crate) const ALL: [Self; 7] = [
        Self::Openid,
        Self::Email,
        Self::Profile,
        Self::Groups,
        Self::OfflineAccess,
        Self::Address,
        Self::Phone,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Openid => "openid",
            Self::Email => "email",
            Self::Profile => "profile",
            Self::Groups => "groups",
            Self::OfflineAccess => "offline_access",
            Self::Address => "address",
            Self::Phone => "phone",
        }
    }

    /// What a user reads on the consent page; `None` where there is nothing to say.
    pub(crate) fn in_words(self) -> Option<&'static str> {
        match self {
            Self::Openid => Some("know who you are on this tailnet, and from which machine you come"),
            Self::Email => Some("see your e-mail address"),
            Self::Profile => Some("see your name, user name and picture"),
            Self::Groups => Some("see your groups"),
            Self::OfflineAccess => Some("keep access while you are away"),
            Self::Address | Self::Phone => None,
        }
    }
}

/// A set of scopes; written as one text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// Reads what a client asks for. Nothing at all means `openid`, as tsidp has it. Unknown scopes are left
    /// out, as OpenID Connect Core (3.1.2.1) wants, and the answer says what was granted. Portainer separates
    /// by commas.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let Some(text) = text else {
            return Self([Scope::Openid].into());
        };
        let words: BTreeSet<&str> = text.split([' ', ',', '\t', '\n', '\r']).collect();
        let known = Scope::ALL
            .into_iter()
            .filter(|scope| words.contains(scope.as_str()));
        Self(known.collect())
    }

    pub(crate) fn contains(&self, scope: Scope) -> bool {
        self.0.contains(&scope)
    }

    /// Whether the other one asks for nothing more.
    pub(crate) fn cover(&self, other: &Self) -> bool {
        self.0.is_superset(&other.0)
    }

    /// Those in both.
    pub(crate) fn narrowed_to(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }

    /// Those in either.
    pub(crate) fn joined_with(&self, other: &Self) -> Self {
        Self(&self.0 | &other.0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Scope> {
        self.0.iter().copied()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, scope) in self.0.iter().enumerate() {
            let space = if i > 0 { " " } else { "" };
            write!(f, "{space}{}", scope.as_str())?;
        }
        Ok(())
    }
}

impl Serialize for Scopes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self::parse(Some(&text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_clients_write_them() {
        let read = |text: &str| Scopes::parse(Some(text)).to_string();
        assert_eq!(Scopes::parse(None).to_string(), "openid");
        assert_eq!(read("openid    email   profile"), "openid email profile");
        assert_eq!(read("profile,openid,email"), "openid email profile");
        assert_eq!(read("openid mcp:tools address openid"), "openid address");
        assert_eq!(read("unknown"), "");
    }
}
