//! tsidp's flags and environment (`tsidp-server.go`), and the few that ours has besides.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, builder::BoolishValueParser};
use postern_node::node::LETS_ENCRYPT;

/// See `run`. Flags may have one hyphen, as Go's have.
#[derive(Debug, Args)]
pub struct Idp {
    /// Port of the provider on the tailnet.
    #[arg(long, default_value_t = 443, env = "TSIDP_PORT")]
    pub port: u16,
    /// Port on loopback for what clients ask; -1: none. Unlike tsidp's it is no way to the admin pages.
    #[arg(long, default_value_t = -1, env = "TSIDP_LOCAL_PORT", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i32).range(-1..=65535))]
    local_port: i32,
    /// Not offered: the provider is a node of its own.
    #[arg(long, env = "TSIDP_USE_LOCAL_TAILSCALED", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    use_local_tailscaled: bool,
    /// Let clients on the internet reach it by Funnel; users still log in on the tailnet.
    #[arg(long, env = "TSIDP_USE_FUNNEL", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub funnel: bool,
    /// The name on the tailnet, and so the issuer's.
    #[arg(long, default_value = "idp", env = "TS_HOSTNAME")]
    pub hostname: String,
    /// Where node, keys and clients are kept; a directory of tsidp's is taken over.
    #[arg(long, value_name = "DIR", env = "TS_STATE_DIR")]
    dir: Option<PathBuf>,
    /// Token exchange (RFC 8693).
    #[arg(long, env = "TSIDP_ENABLE_STS", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub enable_sts: bool,
    /// Tags to ask for, separated by commas.
    #[arg(long, value_name = "TAGS", env = "TS_ADVERTISE_TAGS", default_value = "")]
    advertise_tags: String,
    /// debug, info, warn or error; or a filter as `run --log` takes.
    #[arg(long, default_value = "info", env = "TSIDP_LOG")]
    pub log: String,
    /// Log every request with its parameters; secrets, codes and tokens are left out.
    #[arg(long, env = "TSIDP_DEBUG_ALL_REQUESTS", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub debug_all_requests: bool,
    /// Log what the node does.
    #[arg(long, env = "TSIDP_DEBUG_TSNET", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    debug_tsnet: bool,
    /// Log in anew although the directory holds a login (TSNET_FORCE_LOGIN).
    #[arg(long)]
    pub force_login: bool,
    /// The coordination server (TS_CONTROL_URL).
    #[arg(long, value_name = "URL")]
    pub login_server: Option<String>,
    /// Another ACME directory than Let's Encrypt's.
    #[arg(
        long,
        value_name = "URL",
        env = "TS_DEBUG_ACME_DIRECTORY_URL",
        default_value = LETS_ENCRYPT
    )]
    pub acme_directory: String,
}

impl Idp {
    /// The directory, if all flags can be followed.
    ///
    /// # Errors
    /// Names the flag that can't.
    pub(super) fn check(&self) -> anyhow::Result<&Path> {
        if self.use_local_tailscaled {
            anyhow::bail!(
                "-use-local-tailscaled (TSIDP_USE_LOCAL_TAILSCALED) is not offered: the provider is a node of its \
                 own; leave the flag out, and give it an auth key in TS_AUTHKEY"
            );
        }
        if self.port == 0 {
            anyhow::bail!("-port can't be 0");
        }
        let dir = self.dir.as_deref().filter(|dir| !dir.as_os_str().is_empty());
        dir.context("-dir (TS_STATE_DIR) is missing: where node, keys and clients are kept over restarts")
    }

    /// See the flag.
    pub(super) fn local_port(&self) -> Option<u16> {
        u16::try_from(self.local_port).ok()
    }

    pub(super) fn tags(&self) -> Vec<String> {
        let tags = self.advertise_tags.split(',').map(str::trim);
        tags.filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
    }

    /// The log's filter.
    pub fn filter(&self) -> String {
        match self.debug_tsnet {
            true => format!("{},postern_node=debug", self.log),
            false => self.log.clone(),
        }
    }
}

/// After the subcommand `idp`, flags with one hyphen become flags with two.
pub fn go_flags(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    if words.get(1).is_none_or(|word| word != "idp") {
        return words;
    }
    for word in words.iter_mut().skip(2) {
        let Some(text) = word.to_str() else { continue };
        let is_go_flag = text
            .strip_prefix('-')
            .is_some_and(|name| name.len() > 1 && name.starts_with(|c: char| c.is_ascii_alphabetic()));
        if is_go_flag {
            *word = format!("-{text}").into();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Command {
        Idp(Box<Idp>),
    }

    fn parse(line: &str) -> Idp {
        let words = go_flags(
            format!("postern-proxy idp {line}")
                .split_whitespace()
                .map(OsString::from),
        );
        let Command::Idp(idp) = Line::try_parse_from(words).unwrap().command;
        *idp
    }

    #[test]
    fn the_flags_of_tsidp_are_understood() {
        let idp = parse(
            "-port 8443 -local-port=9090 -funnel -hostname=login -dir /var/lib/tsidp -enable-sts=true \
             -advertise-tags tag:a,tag:b -log debug -debug-all-requests -debug-tsnet=false",
        );
        assert_eq!((idp.port, idp.local_port()), (8443, Some(9090)));
        assert!(idp.funnel && idp.enable_sts && idp.debug_all_requests && !idp.debug_tsnet);
        assert_eq!(
            (idp.hostname.as_str(), idp.tags()),
            ("login", vec!["tag:a".to_owned(), "tag:b".to_owned()])
        );
        assert_eq!(idp.filter(), "debug");
        assert!(idp.check().is_ok());
        let idp = parse("-local-port -1 --debug-tsnet");
        assert_eq!(
            (idp.port, idp.local_port(), idp.hostname.as_str()),
            (443, None, "idp")
        );
        assert_eq!(idp.filter(), "info,postern_node=debug");
    }

    #[test]
    fn the_variables_of_tsidp_stand_for_its_flags() {
        let command = Idp::augment_args(clap::Command::new("idp"));
        let variable = |flag: &str| {
            let argument = command
                .get_arguments()
                .find(|argument| argument.get_long() == Some(flag));
            argument.and_then(|argument| argument.get_env()?.to_str())
        };
        for (flag, name) in [
            ("port", "TSIDP_PORT"),
            ("local-port", "TSIDP_LOCAL_PORT"),
            ("use-local-tailscaled", "TSIDP_USE_LOCAL_TAILSCALED"),
            ("funnel", "TSIDP_USE_FUNNEL"),
            ("hostname", "TS_HOSTNAME"),
            ("dir", "TS_STATE_DIR"),
            ("enable-sts", "TSIDP_ENABLE_STS"),
            ("advertise-tags", "TS_ADVERTISE_TAGS"),
            ("log", "TSIDP_LOG"),
            ("debug-all-requests", "TSIDP_DEBUG_ALL_REQUESTS"),
            ("debug-tsnet", "TSIDP_DEBUG_TSNET"),
        ] {
            assert_eq!(variable(flag), Some(name), "-{flag}");
        }
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        let refused = |line: &str| parse(line).check().unwrap_err().to_string();
        assert!(refused("-use-local-tailscaled -dir /x").contains("-use-local-tailscaled"));
        assert!(refused("").contains("-dir"));
        assert!(refused("-port 0 -dir /x").contains("-port"));
    }

    #[test]
    fn other_subcommands_keep_their_words() {
        let words = ["postern-proxy", "run", "-h"].map(OsString::from);
        assert_eq!(go_flags(words.clone()), words);
    }
}
