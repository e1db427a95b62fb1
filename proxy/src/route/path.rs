//! One form of a path for policy and backend alike.
//!
//! What a backend could read differently than our rules did is refused, not repaired: dot segments (also
//! encoded, and with the `;` parameters that Tomcat cuts), empty segments, encoded slashes, backslashes,
//! NUL. What RFC 3986 calls equivalent (6.2.2: escapes of unreserved characters, case of hex digits) is
//! brought to one form, and that form is what is sent on.

use std::fmt;

/// A path in its one form: starts with `/`, and no two readers disagree about its segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Asterisk or authority form where a path is needed.
    #[error("the path doesn't start with a slash")]
    NotAbsolute,
    /// Control characters, non-ASCII or a backslash.
    #[error("a character of the path must be percent-encoded")]
    Character,
    /// `%` without two hex digits.
    #[error("a percent sign of the path isn't followed by two hex digits")]
    Escape,
    /// `%00`, `%2f`, `%5c`, or a byte that occurs only in overlong UTF-8.
    #[error("the path has an encoded slash, backslash or NUL")]
    Forbidden,
    /// `.` or `..`.
    #[error("the path has dot segments")]
    Dots,
    /// `//`.
    #[error("the path has empty segments")]
    Empty,
}

impl Path {
    /// Checks and normalises the path of a request target (without query).
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn parse(raw: &str) -> Result<Self, PathError> {
        let path = Self(unescape(raw)?);
        let mut segments = path.0[1..].split('/').peekable();
        while let Some(segment) = segments.next() {
            let bare = without_parameters(segment);
            if bare == "." || bare == ".." {
                return Err(PathError::Dots);
            }
            if bare.is_empty() && (!segment.is_empty() || segments.peek().is_some()) {
                return Err(PathError::Empty);
            }
        }
        Ok(path)
    }

    /// The path as it is sent on.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What routes are compared with: segments without their `;` parameters. A trailing slash gives an
    /// empty last segment; `/` alone gives none.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        let inner = &self.0[1..];
        (!inner.is_empty())
            .then(|| inner.split('/').map(without_parameters))
            .into_iter()
            .flatten()
    }

    /// What follows the first `count` segments: empty, or starting with a slash.
    pub fn after(&self, count: usize) -> &str {
        if count == 0 {
            return if self.0 == "/" { "" } else { &self.0 };
        }
        match self.0[1..].match_indices('/').nth(count - 1) {
            Some((at, _)) => &self.0[at + 1..],
            None => "",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn without_parameters(segment: &str) -> &str {
    segment.split(';').next().unwrap_or_default()
}

fn unescape(raw: &str) -> Result<String, PathError> {
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    let mut out = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) else {
                    return Err(PathError::Escape);
                };
                match high << 4 | low {
                    0 | b'/' | b'\\' | 0xc0 | 0xc1 => return Err(PathError::Forbidden),
                    decoded if unreserved(decoded) => out.push(char::from(decoded)),
                    _ => {
                        out.push('%');
                        out.push(char::from(HEX[usize::from(high)]));
                        out.push(char::from(HEX[usize::from(low)]));
                    }
                }
            }
            b'\\' | ..=b' ' | 0x7f.. => return Err(PathError::Character),
            other => out.push(char::from(other)),
        }
    }
    Ok(out)
}

fn hex(digit: Option<u8>) -> Option<u8> {
    char::from(digit?).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for (raw, why) in [
            ("*", PathError::NotAbsolute),
            ("", PathError::NotAbsolute),
            ("/a/../b", PathError::Dots),
            ("/a/%2e%2e/b", PathError::Dots),
            ("/a/.%2E", PathError::Dots),
            ("/./a", PathError::Dots),
            ("/a/..;x=1/b", PathError::Dots),
            ("/a/%2e;/b", PathError::Dots),
            ("/a%2fb", PathError::Forbidden),
            ("/a%5Cb", PathError::Forbidden),
            ("/a%00", PathError::Forbidden),
            ("/a/%c0%af", PathError::Forbidden),
            ("/a\\b", PathError::Character),
            ("/a b", PathError::Character),
            ("/\u{e9}", PathError::Character),
            ("//a", PathError::Empty),
            ("/a//b", PathError::Empty),
            ("/a//", PathError::Empty),
            ("/;x/admin", PathError::Empty),
            ("/a%2", PathError::Escape),
            ("/a%zz", PathError::Escape),
        ] {
            assert_eq!(Path::parse(raw), Err(why), "{raw}");
        }
    }

    #[test]
    fn equivalent_escapes_get_one_form() {
        for (raw, want) in [
            ("/", "/"),
            ("/%41%7e%2d", "/A~-"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%252e%252e", "/a%252e%252e"),
            ("/a/", "/a/"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/...", "/..."),
        ] {
            assert_eq!(Path::parse(raw).unwrap().as_str(), want, "{raw}");
        }
    }

    #[test]
    fn segments_are_without_parameters_and_remainders_with_them() {
        let path = Path::parse("/admin;x=1/b;y/").unwrap();
        assert_eq!(path.segments().collect::<Vec<_>>(), ["admin", "b", ""]);
        assert_eq!(path.after(1), "/b;y/");
        assert_eq!(path.after(2), "/");
        assert_eq!(path.after(3), "");
        let root = Path::parse("/").unwrap();
        assert_eq!(root.segments().count(), 0);
        assert_eq!(root.after(0), "");
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(raw in "(/|/[a-z%.;0-9A-Fa-f/~]{0,30}|\\PC{0,20})") {
            if let Ok(once) = Path::parse(&raw) {
                prop_assert!(!once.as_str().contains("//"));
                prop_assert!(once.segments().all(|s| s != ".." && s != "."));
                prop_assert_eq!(Path::parse(once.as_str()).unwrap(), once);
            }
        }
    }
}
