//! The password of the TCP form: made anew at each start, in a file that only our user reads.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};

/// See the module. Its `Debug` prints nothing.
#[derive(Clone)]
pub struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Password {
    /// A random one, written to `path` (0600, never through what lies there already).
    ///
    /// # Errors
    /// When there is no randomness, or the file can't be written.
    pub fn write_new(path: &Path) -> io::Result<Self> {
        let mut bytes = [0; 24];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
        let password = Self(hex::encode(bytes));
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(path)?.write_all(password.0.as_bytes())?;
        Ok(password)
    }

    /// Whether the request's Basic credentials hold it, whatever their user; `None`: there are none.
    pub(super) fn admits(&self, headers: &HeaderMap) -> Option<bool> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, encoded) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = STANDARD.decode(encoded.trim()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let given = &decoded[colon + 1..];
        Some(aws_lc_rs::constant_time::verify_slices_are_equal(given, self.0.as_bytes()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_password_is_for_our_user_and_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let other = dir.path().join("other");
        fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let password = Password::write_new(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&other).unwrap(),
            "mine",
            "not written through a link"
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(format!("{password:?}"), "[redacted]");
        let admits = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            password.admits(&headers)
        };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert_eq!(admits(&basic(&format!(":{text}"))), Some(true));
        assert_eq!(admits(&basic(&format!("any:{text}"))), Some(true));
        assert_eq!(admits(&basic(":wrong")), Some(false));
        assert_eq!(admits(&basic(":")), Some(false));
        assert_eq!(admits("Bearer x"), None);
        assert_eq!(password.admits(&HeaderMap::new()), None);
        assert_ne!(
            text,
            fs::read_to_string({
                Password::write_new(&path).unwrap();
                &path
            })
            .unwrap()
        );
    }
}
