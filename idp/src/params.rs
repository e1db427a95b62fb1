//! Parameters of a query or a form (`application/x-www-form-urlencoded`).

use crate::error::{Code, Error};

/// In the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Params(Vec<(String, String)>);

/// No request of any standard has as many.
const MOST: usize = 100;

impl Params {
    /// Reads a query or body.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut pairs = form_urlencoded::parse(bytes).map(|(k, v)| (k.into_owned(), v.into_owned()));
        let params: Vec<_> = pairs.by_ref().take(MOST).collect();
        if pairs.next().is_some() {
            return Err(Code::InvalidRequest.because("too many parameters"));
        }
        Ok(Self(params))
    }

    /// The one value; `None` when it is missing or empty. RFC 6749, section 3.1: a parameter without a value
    /// is as if it were missing, and none may come twice.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&str>, Error> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Code::InvalidRequest.because(format!("{name} is there more than once")));
        }
        Ok(first)
    }

    /// The one value.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Error> {
        self.one(name)?
            .ok_or_else(|| Code::InvalidRequest.because(format!("{name} is required")))
    }

    /// Every value that isn't empty, for the parameters that may come more than once.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(key, _)| key == name);
        named
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_is_missing_and_twice_is_refused() {
        let params = Params::parse(b"a=1&b=&c=x%20y+z&d=1&d=2&e=&e=3").unwrap();
        assert_eq!(params.one("a").unwrap(), Some("1"));
        assert_eq!(params.one("b").unwrap(), None);
        assert_eq!(params.one("c").unwrap(), Some("x y z"));
        assert_eq!(params.one("e").unwrap(), Some("3"));
        assert!(
            params
                .one("d")
                .unwrap_err()
                .description
                .contains("more than once")
        );
        assert_eq!(params.all("d").collect::<Vec<_>>(), ["1", "2"]);
        assert!(
            params
                .required("b")
                .unwrap_err()
                .description
                .contains("b is required")
        );
        assert!(Params::parse("a=1&".repeat(101).as_bytes()).is_err());
    }
}
