//! Who is asking, and the headers that tell the backend (Go: `ipn/ipnlocal/serve.go`
//! `addTailscaleIdentityHeaders`, `addAppCapabilitiesHeader`).
//!
//! This is the only place that sets them. Client-sent ones were stripped before, always.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use postern_node::netmap::{CapMap, WhoIs};
use postern_proxy_config::{
    access::{self, Access},
    group::IdentityHeaders,
};

use super::q_encoding;

/// What is known about the peer of a connection, with its header values made once.
#[derive(Debug)]
pub struct Caller {
    addr: IpAddr,
    subject: Arc<str>,
    tags: Vec<String>,
    groups: Vec<String>,
    caps: CapMap,
    user: Option<User>,
}

#[derive(Debug)]
struct User {
    login: String,
    login_value: HeaderValue,
    name_value: HeaderValue,
    picture_value: HeaderValue,
}

impl Caller {
    /// From a whois answer for a source address. Tagged nodes act for no user; unknown sources are nobody.
    pub fn new(addr: IpAddr, whois: Option<WhoIs>) -> Arc<Self> {
        let Some(whois) = whois else {
            return Arc::new(Self {
                addr,
                subject: addr.to_string().into(),
                tags: Vec::new(),
                groups: Vec::new(),
                caps: CapMap::new(),
                user: None,
            });
        };
        let user = (!whois.node.is_tagged()).then(|| User {
            login: whois.user.login_name.clone(),
            login_value: encoded(&whois.user.login_name),
            name_value: encoded(&whois.user.display_name),
            // Go passes this one as it is.
            picture_value: HeaderValue::from_bytes(whois.user.profile_pic_url.as_bytes())
                .unwrap_or_else(|_| HeaderValue::from_static("")),
        });
        let subject = match &user {
            Some(user) => user.login.as_str(),
            None => &whois.node.stable_id,
        };
        Arc::new(Self {
            addr,
            subject: subject.into(),
            tags: whois.node.tags.clone(),
            groups: whois.user.groups.clone(),
            caps: whois.caps,
            user,
        })
    }

    /// The login name, or the tags, for logs.
    pub fn id(&self) -> String {
        match &self.user {
            Some(user) => user.login.clone(),
            None => self.tags.join(","),
        }
    }

    /// Whose requests count together: a user's of all devices, a tagged node's of its own.
    pub fn subject(&self) -> Arc<str> {
        self.subject.clone()
    }

    /// Whether a rule lets the caller in; no rule leaves it to the tailnet's policy.
    pub fn may(&self, access: Option<&Access>) -> bool {
        access.is_none_or(|access| {
            let caller = access::Caller {
                addr: self.addr,
                login: self.user.as_ref().map(|u| u.login.as_str()),
                groups: &self.groups,
                tags: &self.tags,
            };
            access.permits(&caller, |cap| self.caps.contains_key(cap))
        })
    }

    /// Sets the headers, those `capabilities` among them that were granted.
    pub fn set_headers(&self, headers: &mut HeaderMap, set: IdentityHeaders, capabilities: &[String]) {
        if let (Some(user), IdentityHeaders::Tailscale) = (&self.user, set) {
            headers.insert(USER_LOGIN, user.login_value.clone());
            headers.insert(USER_NAME, user.name_value.clone());
            headers.insert(USER_PROFILE_PIC, user.picture_value.clone());
            headers.insert(HEADERS_INFO, HeaderValue::from_static(HEADERS_INFO_URL));
        }
        if !capabilities.is_empty() && !self.caps.is_empty() {
            let granted = app_capabilities(&self.caps, capabilities);
            headers.insert(APP_CAPABILITIES, encoded(&granted));
        }
    }
}

/// Tells the backend that the request comes from the internet, where nobody has an identity.
pub fn mark_funnel(headers: &mut HeaderMap) {
    headers.insert(FUNNEL_REQUEST, HeaderValue::from_static("?1"));
}

const FUNNEL_REQUEST: HeaderName = HeaderName::from_static("tailscale-funnel-request");
const USER_LOGIN: HeaderName = HeaderName::from_static("tailscale-user-login");
const USER_NAME: HeaderName = HeaderName::from_static("tailscale-user-name");
const USER_PROFILE_PIC: HeaderName = HeaderName::from_static("tailscale-user-profile-pic");
const HEADERS_INFO: HeaderName = HeaderName::from_static("tailscale-headers-info");
const HEADERS_INFO_URL: &str = "https://tailscale.com/s/serve-headers";
const APP_CAPABILITIES: HeaderName = HeaderName::from_static("tailscale-app-capabilities");

fn encoded(text: &str) -> HeaderValue {
    // Encoded text is printable ASCII and tabs: always a header value.
    HeaderValue::from_str(&q_encoding::encode(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The accepted subset as Go's `json.Marshal` writes a map of raw messages: keys sorted, values compacted
/// and escaped for HTML, numbers as control wrote them.
fn app_capabilities(caps: &CapMap, accepted: &[String]) -> String {
    let mut out = String::from("{");
    for (cap, values) in caps.iter().filter(|(cap, _)| accepted.contains(cap)) {
        if out.len() > 1 {
            out.push(',');
        }
        // A JSON string of a string can't fail.
        compact(&serde_json::to_string(cap).unwrap_or_default(), &mut out);
        out.push_str(":[");
        for (i, value) in values.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            compact(value.get(), &mut out);
        }
        out.push(']');
    }
    out.push('}');
    out
}

/// Go: `encoding/json` `appendCompact` with `escape`.
fn compact(json: &str, out: &mut String) {
    let (mut quoted, mut escaped) = (false, false);
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            ' ' | '\t' | '\r' | '\n' if !quoted => {}
            _ => out.push(c),
        }
        if quoted && !escaped && c == '\\' {
            escaped = true;
            continue;
        }
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = false;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn capabilities_are_written_as_go_writes_them() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let caps = CapMap::from([
            (
                "example.com/cap/b".to_owned(),
                vec![raw(r#"{ "n": 1.50e3, "s": "a \" <b> & c" }"#), raw("2")],
            ),
            ("example.com/cap/a".to_owned(), vec![]),
            ("example.com/cap/hidden".to_owned(), vec![raw("1")]),
        ]);
        let accepted = ["example.com/cap/a".to_owned(), "example.com/cap/b".to_owned()];
        assert_eq!(
            app_capabilities(&caps, &accepted),
            r#"{"example.com/cap/a":[],"example.com/cap/b":[{"n":1.50e3,"s":"a \" \u003cb\u003e \u0026 c"},2]}"#
        );
        assert_eq!(app_capabilities(&caps, &["x".to_owned()]), "{}");
    }
}
