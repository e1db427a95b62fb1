//! The environment of Tailscale's container, by name (Go: `cmd/containerboot`): what has no meaning here is
//! refused with the reason, or passed over with a line, so that nobody wonders.
//!
//! `TS_AUTHKEY` and what else may log in, `TS_HOSTNAME`, `TS_STATE_DIR`, `TS_SERVE_CONFIG`, `TS_SOCKET`,
//! `TS_SOCKS5_SERVER`, `TS_OUTBOUND_HTTP_PROXY_LISTEN` and `TS_EXTRA_ARGS` are read where they are used.

use std::net::{Ipv6Addr, SocketAddr};

use super::StandaloneError;

/// What the environment asks for beside what is served.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Where `/healthz` and `/metrics` are, if any.
    pub probes: Option<Probes>,
    /// `TSNET_FORCE_LOGIN`: log in at the start although the state holds a login.
    pub force_login: bool,
    /// What is passed over, and why.
    pub notes: Vec<String>,
}

/// `TS_ENABLE_HEALTH_CHECK` and `TS_ENABLE_METRICS` at `TS_LOCAL_ADDR_PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probes {
    /// The address.
    pub addr: SocketAddr,
    /// `/healthz`.
    pub health: bool,
    /// `/metrics`.
    pub metrics: bool,
}

/// As in the container: port 9002 of every interface.
const PROBES: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 9002);

/// Set and not empty, these can't be had.
const REFUSED: &[(&str, &str)] = &[
    (
        "TS_DEST_IP",
        "forwarding to an address needs a network interface, which postern-proxy does without: name the ports in TCPForward of TS_SERVE_CONFIG",
    ),
    (
        "TS_EXPERIMENTAL_DEST_DNS_NAME",
        "forwarding to a name needs a network interface: name the ports in TCPForward of TS_SERVE_CONFIG",
    ),
    ("TS_TAILNET_TARGET_IP", EGRESS),
    ("TS_TAILNET_TARGET_FQDN", EGRESS),
    ("TS_EGRESS_PROXIES_CONFIG_PATH", EGRESS),
    (
        "TS_INGRESS_PROXIES_CONFIG_PATH",
        "it is written by another operator: postern-operator configures its own proxies",
    ),
    (
        "TS_ROUTES",
        "postern-proxy is no subnet router: run tailscale for the routes, or leave it empty",
    ),
    (
        "TS_KUBE_SECRET",
        "state in a Secret is for pods that postern-operator makes: set it to \"\" and TS_STATE_DIR to a volume",
    ),
    (
        "TS_EXPERIMENTAL_VERSIONED_CONFIG_DIR",
        "a tailscaled configuration is not read: use TS_HOSTNAME, TS_EXTRA_ARGS and TS_SERVE_CONFIG",
    ),
    (
        "TS_HEALTHCHECK_ADDR_PORT",
        "it is deprecated: set TS_ENABLE_HEALTH_CHECK=true and TS_LOCAL_ADDR_PORT",
    ),
];
const EGRESS: &str = "traffic is led out by a network interface, which postern-proxy does without: let the application use TS_SOCKS5_SERVER or TS_OUTBOUND_HTTP_PROXY_LISTEN";

/// Set and not empty, these change nothing.
const NOTED: &[(&str, &str)] = &[
    ("TS_ACCEPT_DNS", "the machine's DNS is never changed"),
    ("TS_TAILSCALED_EXTRA_ARGS", "there is no tailscaled"),
    (
        "TS_DEBUG_ADDR_PORT",
        "there is no debug port: POSTERN_ADMIN_PORT has /metrics",
    ),
    ("TS_DEBUG_FIREWALL_MODE", "there is no firewall to be set up"),
    (
        "TS_EXPERIMENTAL_ENABLE_FORWARDING_OPTIMIZATIONS",
        "there is no network interface",
    ),
    (
        "TS_BOOT_TIMEOUT",
        "the control server is waited for as long as it takes",
    ),
];

impl Environment {
    /// Reads it.
    ///
    /// # Errors
    /// Names the first variable that can't be honoured, with the reason and what to do.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, StandaloneError> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let refuse = |name: &'static str, reason: &str| StandaloneError::Environment {
            name,
            reason: reason.to_owned(),
        };
        if let Some((name, reason)) = REFUSED.iter().find(|(name, _)| set(name).is_some()) {
            return Err(refuse(name, reason));
        }
        let flag = |name: &'static str, default: bool| match set(name) {
            None => Ok(default),
            Some(text) => {
                boolean(&text).ok_or_else(|| refuse(name, &format!("{text:?} is neither true nor false")))
            }
        };
        if !flag("TS_USERSPACE", true)? {
            let reason = "postern-proxy has no network interface and needs no privileges: leave it out, or set it to true";
            return Err(refuse("TS_USERSPACE", reason));
        }
        if !flag("TS_EXPERIMENTAL_SERVICE_AUTO_ADVERTISEMENT", true)? {
            let reason = "Services of TS_SERVE_CONFIG are advertised as soon as they can be served: leave it out, and the Service out of the file while nobody should come";
            return Err(refuse("TS_EXPERIMENTAL_SERVICE_AUTO_ADVERTISEMENT", reason));
        }
        let mut notes: Vec<String> = NOTED
            .iter()
            .filter(|(name, _)| set(name).is_some())
            .map(|(name, reason)| format!("{name}: {reason}"))
            .collect();
        if set("TS_AUTH_ONCE").is_some() && !flag("TS_AUTH_ONCE", false)? {
            notes.push("TS_AUTH_ONCE: a login that is kept in TS_STATE_DIR is never made again".to_owned());
        }
        let (health, metrics) = (
            flag("TS_ENABLE_HEALTH_CHECK", false)?,
            flag("TS_ENABLE_METRICS", false)?,
        );
        let addr = match set("TS_LOCAL_ADDR_PORT") {
            None => PROBES,
            Some(text) => address(&text)
                .ok_or_else(|| refuse("TS_LOCAL_ADDR_PORT", &format!("{text:?} is no ADDRESS:PORT")))?,
        };
        if set("KUBERNETES_SERVICE_HOST").is_some()
            && variable("TS_KUBE_SECRET").is_none()
            && set("TS_STATE_DIR").is_none()
        {
            let reason = "in a pod Tailscale's container would keep its state in the Secret \"tailscale\", postern-proxy needs a volume here";
            return Err(refuse("TS_STATE_DIR", reason));
        }
        let probes = (health || metrics).then_some(Probes {
            addr,
            health,
            metrics,
        });
        Ok(Self {
            probes,
            force_login: flag("TSNET_FORCE_LOGIN", false)?,
            notes,
        })
    }
}

/// As Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Kubernetes puts pods' IPv6 addresses in without brackets.
fn address(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| {
        let (ip, port) = text.rsplit_once(':')?;
        Some(SocketAddr::new(
            ip.parse::<Ipv6Addr>().ok()?.into(),
            port.parse().ok()?,
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Environment, String> {
        let set: Vec<(String, String)> = set
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let variable = |name: &str| set.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
        Environment::read(&variable).map_err(|e| e.to_string())
    }

    /// Every variable of the container, with what becomes of it.
    #[test]
    fn every_variable_is_honoured_or_said_to_be_not() {
        enum Is {
            Fine,
            Noted,
            Refused(&'static str),
        }
        use Is::{Fine, Noted, Refused};
        for (name, value, is) in [
            ("TS_AUTHKEY", "tskey-x", Fine),
            ("TS_HOSTNAME", "app", Fine),
            ("TS_STATE_DIR", "/var/lib/tailscale", Fine),
            ("TS_SERVE_CONFIG", "/etc/serve.json", Fine),
            ("TS_SOCKET", "/tmp/tailscaled.sock", Fine),
            ("TS_EXTRA_ARGS", "--login-server=http://c", Fine),
            ("TS_AUTH_ONCE", "true", Fine),
            ("TS_AUTH_ONCE", "false", Noted),
            ("TSNET_FORCE_LOGIN", "1", Fine),
            ("TSNET_FORCE_LOGIN", "maybe", Refused("neither true nor false")),
            ("TS_USERSPACE", "true", Fine),
            ("TS_USERSPACE", "1", Fine),
            ("TS_USERSPACE", "false", Refused("no network interface")),
            ("TS_USERSPACE", "maybe", Refused("neither true nor false")),
            ("TS_ENABLE_HEALTH_CHECK", "yes", Refused("neither")),
            ("TS_LOCAL_ADDR_PORT", "9002", Refused("ADDRESS:PORT")),
            ("TS_OUTBOUND_HTTP_PROXY_LISTEN", ":1055", Fine),
            ("TS_SOCKS5_SERVER", ":1055", Fine),
            ("TS_ROUTES", "10.0.0.0/8", Refused("subnet router")),
            ("TS_ROUTES", "", Fine),
            ("TS_DEST_IP", "10.0.0.1", Refused("TCPForward")),
            ("TS_EXPERIMENTAL_DEST_DNS_NAME", "db", Refused("TCPForward")),
            ("TS_TAILNET_TARGET_IP", "100.64.0.1", Refused("TS_SOCKS5_SERVER")),
            ("TS_TAILNET_TARGET_FQDN", "a.b", Refused("TS_SOCKS5_SERVER")),
            ("TS_KUBE_SECRET", "tailscale", Refused("TS_STATE_DIR")),
            ("TS_KUBE_SECRET", "", Fine),
            (
                "TS_EXPERIMENTAL_VERSIONED_CONFIG_DIR",
                "/etc/ts",
                Refused("tailscaled"),
            ),
            (
                "TS_HEALTHCHECK_ADDR_PORT",
                ":9002",
                Refused("TS_ENABLE_HEALTH_CHECK"),
            ),
            ("TS_EXPERIMENTAL_SERVICE_AUTO_ADVERTISEMENT", "true", Fine),
            (
                "TS_EXPERIMENTAL_SERVICE_AUTO_ADVERTISEMENT",
                "false",
                Refused("as soon as they can be served"),
            ),
            ("TS_ACCEPT_DNS", "true", Noted),
            ("TS_TAILSCALED_EXTRA_ARGS", "--verbose=1", Noted),
            ("TS_DEBUG_ADDR_PORT", ":9001", Noted),
            ("TS_BOOT_TIMEOUT", "90s", Noted),
        ] {
            match (read(&[(name, value)]), is) {
                (Ok(environment), Fine) => assert!(environment.notes.is_empty(), "{name}={value}"),
                (Ok(environment), Noted) => {
                    assert!(environment.notes.len() == 1, "{name}={value}");
                    assert!(environment.notes[0].starts_with(name), "{:?}", environment.notes);
                }
                (Err(error), Refused(why)) => {
                    assert!(error.starts_with(name) && error.contains(why), "{error}");
                }
                (got, _) => panic!("{name}={value}: {got:?}"),
            }
        }
    }

    #[test]
    fn probes_are_where_the_container_has_them() {
        assert_eq!(read(&[]).unwrap(), Environment::default());
        assert!(read(&[("TSNET_FORCE_LOGIN", "true")]).unwrap().force_login);
        let health = read(&[("TS_ENABLE_HEALTH_CHECK", "true")])
            .unwrap()
            .probes
            .unwrap();
        assert_eq!(
            (health.addr, health.health, health.metrics),
            (PROBES, true, false)
        );
        let metrics = read(&[("TS_ENABLE_METRICS", "1"), ("TS_LOCAL_ADDR_PORT", "fd00::1:9003")]);
        let metrics = metrics.unwrap().probes.unwrap();
        assert_eq!(metrics.addr, "[fd00::1]:9003".parse().unwrap());
        assert!(metrics.metrics && !metrics.health);
    }

    #[test]
    fn a_pod_needs_a_volume_or_says_that_it_has_none() {
        let pod = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        assert!(read(&[pod]).unwrap_err().starts_with("TS_STATE_DIR"));
        assert!(read(&[pod, ("TS_STATE_DIR", "/state")]).is_ok());
        assert!(read(&[pod, ("TS_KUBE_SECRET", "")]).is_ok());
    }
}
