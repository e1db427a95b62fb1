//! Reading the contract's objects.

use serde::{Deserialize, de::DeserializeOwned};

use crate::FORMAT;

/// A value with the fields that this version doesn't know.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed<T> {
    /// The value.
    pub value: T,
    /// JSON paths of ignored fields.
    pub unknown: Vec<String>,
}

/// Why an object was refused.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not the JSON that it should be.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Written by a newer version.
    #[error("format {found} is newer than {FORMAT}, which this version reads: upgrade the proxy")]
    Newer {
        /// Its `format`.
        found: u32,
    },
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Parses an object that the operator or a proxy wrote.
///
/// # Errors
/// When it isn't the expected JSON, or of a newer format.
pub fn parse<T: DeserializeOwned + serde::Serialize>(json: &str) -> Result<Parsed<T>, ParseError> {
    let format = serde_json::from_str::<Format>(json)?.format;
    if format > FORMAT {
        return Err(ParseError::Newer { found: format });
    }
    let value: T = serde_json::from_str(json)?;
    let mut unknown = Vec::new();
    compare(
        &serde_json::from_str(json)?,
        &serde_json::to_value(&value)?,
        "",
        &mut unknown,
    );
    Ok(Parsed { value, unknown })
}

/// Fields of `given` that are missing in `understood` were not understood, unless they are a default that
/// is left out when it is written.
fn compare(given: &serde_json::Value, understood: &serde_json::Value, path: &str, unknown: &mut Vec<String>) {
    use serde_json::Value::{Array, Object};
    match (given, understood) {
        (Object(given), Object(understood)) => {
            for (key, value) in given {
                match understood.get(key) {
                    Some(other) => compare(value, other, &format!("{path}.{key}"), unknown),
                    None if is_empty(value) => {}
                    None => unknown.push(format!("{path}.{key}")),
                }
            }
        }
        (Array(given), Array(understood)) => {
            for (i, (a, b)) in given.iter().zip(understood).enumerate() {
                compare(a, b, &format!("{path}[{i}]"), unknown);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Bool, Null, Object, String};
    match value {
        Null | Bool(false) => true,
        String(s) => s.is_empty(),
        Array(a) => a.is_empty(),
        Object(o) => o.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::Endpoints;

    #[test]
    fn unknown_fields_are_reported_and_newer_formats_refused() {
        let p =
            parse::<Endpoints>(r#"{"format":1,"backends":{"a/b:1":["10.0.0.1:80"]},"zone":"x"}"#).unwrap();
        assert_eq!(p.unknown, [".zone"]);
        assert_eq!(p.value.backends.len(), 1);
        assert!(matches!(
            parse::<Endpoints>(r#"{"format":2}"#),
            Err(ParseError::Newer { found: 2 })
        ));
        assert!(parse::<Endpoints>(r#"{"format":1,"backends":[]}"#).is_err());
    }
}
