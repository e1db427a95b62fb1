//! The arguments of `tailscale up` that the container is given.

/// What `TS_EXTRA_ARGS` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// `--login-server`.
    pub login_server: Option<String>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--advertise-tags`.
    pub tags: Vec<String>,
    /// Understood to be of no meaning here.
    pub ignored: Vec<String>,
}

impl Extra {
    /// Reads arguments as Tailscale's container splits them: at white space.
    ///
    /// # Errors
    /// Names the first argument that is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut extra = Self::default();
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let (flag, inline) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (word, None),
            };
            let name = flag.trim_start_matches('-');
            let mut value = || {
                inline
                    .or_else(|| words.next())
                    .map(str::to_owned)
                    .ok_or_else(|| format!("TS_EXTRA_ARGS: {flag} needs a value"))
            };
            match name {
                "login-server" => extra.login_server = Some(value()?),
                "hostname" => extra.hostname = Some(value()?),
                "advertise-tags" => extra.tags = value()?.split(',').map(str::to_owned).collect(),
                _ if flag.starts_with('-') && name.starts_with("accept-") => {
                    extra.ignored.push(word.to_owned());
                }
                _ => {
                    return Err(format!(
                        "TS_EXTRA_ARGS: {flag} is not understood: --login-server, --hostname, --advertise-tags are"
                    ));
                }
            }
        }
        Ok(extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_arguments_are_understood_or_refused_by_name() {
        let extra = Extra::parse("--login-server=http://x:1 --hostname app --advertise-tags=tag:a,tag:b --accept-dns=false --accept-routes")
            .unwrap();
        assert_eq!(extra.login_server.as_deref(), Some("http://x:1"));
        assert_eq!(extra.hostname.as_deref(), Some("app"));
        assert_eq!(extra.tags, ["tag:a", "tag:b"]);
        assert_eq!(extra.ignored, ["--accept-dns=false", "--accept-routes"]);
        assert!(
            Extra::parse("--ssh")
                .unwrap_err()
                .contains("--ssh is not understood")
        );
        assert!(Extra::parse("--hostname").unwrap_err().contains("needs a value"));
    }
}
