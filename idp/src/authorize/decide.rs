//! What becomes of a request, as a function of who is there and what was agreed upon.

use super::request::{Prompt, Refusal, Request};
use crate::{
    client::Client,
    consent::Consent,
    error::Code,
    grant::Grants,
    identify::{Peer, User},
    issuer::Issuer,
    redirect,
};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send a code.
    Grant {
        /// When the user confirmed who is there.
        auth_time: i64,
    },
    /// Show the consent page.
    Ask,
}

/// Whether this peer may log in to this client at all; the request comes back with the resources that the
/// policy allows.
pub(super) fn admit<'a>(
    mut request: Request,
    client: &Client,
    peer: &'a Peer,
    issuer: &Issuer,
) -> Result<(&'a User, Request), Refusal> {
    let Some(user) = &peer.user else {
        let error = Code::AccessDenied.because("tagged node doesn't have a user identity");
        return Err(request.refuse(issuer, &error));
    };
    if !client.admits(peer, user) {
        let error = Code::AccessDenied.because("this user may not log in to this client");
        return Err(request.refuse(issuer, &error));
    }
    if !request.resources.is_empty() {
        let wanted = request.resources.iter().map(String::as_str);
        request.resources = Grants::of(peer).resources(&user.login, wanted);
        if request.resources.is_empty() {
            let text = "the tailnet's policy grants none of the resources to this user";
            return Err(request.refuse(issuer, &Code::InvalidTarget.because(text)));
        }
    }
    Ok((user, request))
}

/// Whether the user has to be asked.
pub(super) fn verdict(
    request: &Request,
    consent: Option<&Consent>,
    issuer: &Issuer,
    now: i64,
) -> Result<Verdict, Refusal> {
    let place = redirect::place(&request.redirect_uri);
    let consent = consent.filter(|consent| consent.covers(request.wanted(&place)));
    let recent = consent.filter(|consent| request.max_age.is_none_or(|age| now - consent.at <= age));
    match (request.prompt, consent, recent) {
        (Prompt::Never, None, _) => {
            let error = Code::ConsentRequired.because("the user has not consented yet");
            Err(request.refuse(issuer, &error))
        }
        (Prompt::Never, Some(_), None) => {
            let error = Code::LoginRequired.because("the user's last confirmation is older than max_age");
            Err(request.refuse(issuer, &error))
        }
        (Prompt::Always, ..) | (Prompt::IfNeeded, _, None) => Ok(Verdict::Ask),
        (Prompt::Never | Prompt::IfNeeded, _, Some(consent)) => Ok(Verdict::Grant {
            auth_time: consent.at,
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::{client::Allow, consent::Consents, grant::CAPABILITY, identify::Machine, params::Params};

    fn issuer() -> Issuer {
        Issuer::new("idp.example.ts.net", 443).unwrap()
    }

    fn request(more: &str) -> Request {
        let query = format!("response_type=code&redirect_uri=https://a/cb{more}");
        let params = Params::parse(query.as_bytes()).unwrap();
        Request::parse(&params, "app", &Client::default(), &issuer()).unwrap()
    }

    fn peer(user: bool, grant: &str) -> Peer {
        Peer {
            machine: Machine::default(),
            user: user.then(|| User {
                login: "alice@x".to_owned(),
                ..User::default()
            }),
            capabilities: [(
                CAPABILITY.to_owned(),
                vec![RawValue::from_string(grant.to_owned()).unwrap()],
            )]
            .into(),
        }
    }

    fn told(refusal: Refusal) -> String {
        match refusal {
            Refusal::Redirect(location) => location,
            Refusal::Page(error) => panic!("{error}"),
        }
    }

    #[test]
    fn machines_and_strangers_cannot_log_in() {
        let client = Client::default();
        let told = |client: &Client, peer: Peer, more: &str| {
            told(admit(request(more), client, &peer, &issuer()).unwrap_err())
        };
        assert!(told(&client, peer(false, "{}"), "").contains("error=access_denied"));
        let others = Client {
            allow: Some(vec![Allow::User("bob@x".to_owned())]),
            ..Client::default()
        };
        assert!(told(&others, peer(true, "{}"), "").contains("error=access_denied"));
        assert!(told(&client, peer(true, "{}"), "&resource=urn:x").contains("error=invalid_target"));
        let granted = peer(true, r#"{"users":["*"],"resources":["urn:x"]}"#);
        let (_, request) = admit(
            request("&resource=urn:x&resource=urn:y"),
            &client,
            &granted,
            &issuer(),
        )
        .unwrap();
        assert_eq!(request.resources, ["urn:x"]);
    }

    #[test]
    fn users_are_asked_once_or_when_the_client_wants_it() {
        let judge = |more: &str, consented: bool| {
            let request = request(more);
            let mut consents = Consents::default();
            if consented {
                consents.add(1, "app", request.wanted("a"), 100);
            }
            verdict(&request, consents.get(1, "app", 150), &issuer(), 150).map_err(told)
        };
        let granted = Ok(Verdict::Grant { auth_time: 100 });
        assert_eq!(judge("", false), Ok(Verdict::Ask));
        assert_eq!(judge("", true), granted);
        assert_eq!(judge("&prompt=login", true), Ok(Verdict::Ask));
        assert_eq!(judge("&max_age=50", true), granted);
        assert_eq!(judge("&max_age=49", true), Ok(Verdict::Ask));
        assert_eq!(judge("&prompt=none", true), granted);
        assert!(
            judge("&prompt=none", false)
                .unwrap_err()
                .contains("error=consent_required")
        );
        assert!(
            judge("&prompt=none&max_age=1", true)
                .unwrap_err()
                .contains("error=login_required")
        );
    }
}
