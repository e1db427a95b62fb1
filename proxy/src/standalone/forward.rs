//! `POSTERN_FORWARD_PORTS`: ports that go on to the same ports of this machine, as userspace `tailscaled`
//! does with all of them. Here it is done where it was said.

use std::collections::BTreeSet;

use postern_proxy_config::group::{Backend, Listener, Protocol, Scheme, Tcp};

use super::StandaloneError;

/// Stands for all ports.
const ALL: u16 = 0;

/// Reads a list of ports, or `all`.
pub(super) fn ports(words: &[String]) -> Result<BTreeSet<u16>, StandaloneError> {
    words
        .iter()
        .map(|word| word.trim())
        .filter(|word| !word.is_empty())
        .map(|word| {
            let port = word.parse().ok().filter(|port| *port != ALL);
            let port = if word == "all" { Some(ALL) } else { port };
            port.ok_or_else(|| StandaloneError::ForwardPorts(word.to_owned()))
        })
        .collect()
}

/// Adds what nothing else serves.
pub(super) fn add(listeners: &mut Vec<Listener>, ports: &BTreeSet<u16>) {
    let taken: BTreeSet<u16> = listeners.iter().map(|listener| listener.port).collect();
    let free = ports.difference(&taken);
    listeners.extend(free.map(|port| Listener {
        port: *port,
        protocol: Protocol::Tcp(Tcp {
            backend: Backend::Address {
                address: format!("127.0.0.1:{port}"),
                scheme: Scheme::Http,
                path: String::new(),
            },
            proxy_protocol: None,
            access: None,
        }),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_ports_go_on_where_nothing_else_serves_them() {
        let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let ports = ports(&words("11434, 8080,")).unwrap();
        let mut listeners = vec![Listener {
            port: 8080,
            protocol: Protocol::RedirectToHttps { port: 443 },
        }];
        add(&mut listeners, &ports);
        assert_eq!(listeners.len(), 2);
        assert_eq!(listeners[1].port, 11_434);
        let all = super::ports(&words("all")).unwrap();
        add(&mut listeners, &all);
        let Protocol::Tcp(tcp) = &listeners[2].protocol else {
            panic!()
        };
        assert!(matches!(&tcp.backend, Backend::Address { address, .. } if address == "127.0.0.1:0"));
        for bad in ["http", "0", "70000", "1-2"] {
            let error = super::ports(&words(bad)).unwrap_err().to_string();
            assert!(
                error.starts_with("POSTERN_FORWARD_PORTS") && error.contains(bad),
                "{error}"
            );
        }
    }
}
