//! The pages that people see. Templates are in `idp/templates/`; what is put into them is escaped by its place.

use askama::Template;
use http::StatusCode;

use crate::{
    answer::{self, Answer},
    error::Error,
};

/// All of them look alike.
pub(crate) const STYLE: &str = include_str!("../templates/style.css");

/// May this client know who you are?
#[derive(Template)]
#[template(path = "consent.html")]
pub(crate) struct Consent<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client: &'a str,
    /// Where the answer goes.
    pub(crate) place: &'a str,
    pub(crate) on_loopback: bool,
    /// Nobody but the client itself vouches for its name.
    pub(crate) unknown_origin: bool,
    pub(crate) login: &'a str,
    pub(crate) name: &'a str,
    pub(crate) machine: &'a str,
    pub(crate) learns: Vec<&'static str>,
    pub(crate) resources: &'a [String],
    /// What is asked for, sealed.
    pub(crate) request: &'a str,
    pub(crate) token: &'a str,
}

/// Something can't go on.
#[derive(Template)]
#[template(path = "error.html")]
struct Failure<'a> {
    issuer: &'a str,
    title: &'a str,
    code: &'a str,
    text: &'a str,
}

/// All clients.
#[derive(Template)]
#[template(path = "clients.html")]
pub(crate) struct Clients<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) login: &'a str,
    pub(crate) clients: Vec<ClientRow>,
    pub(crate) notice: &'a str,
}

/// One line of [`Clients`].
pub(crate) struct ClientRow {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) redirect_uris: Vec<String>,
    pub(crate) kind: &'static str,
    pub(crate) origin: &'static str,
    pub(crate) status: &'static str,
    pub(crate) changeable: bool,
}

/// A new client, or one that is there.
#[derive(Template)]
#[template(path = "client.html")]
pub(crate) struct ClientForm<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) login: &'a str,
    /// Empty: a new one.
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) redirect_uris: &'a str,
    pub(crate) public: bool,
    pub(crate) rs256: bool,
    /// Shown this once.
    pub(crate) secret: &'a str,
    pub(crate) error: &'a str,
    pub(crate) notice: &'a str,
    pub(crate) token: &'a str,
}

/// Renders.
pub(crate) fn page(status: StatusCode, template: &impl Template) -> Answer {
    match template.render() {
        Ok(html) => answer::page(status, html),
        Err(error) => {
            tracing::error!(%error, "A page can't be made");
            answer::empty(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// An error for a person.
pub(crate) fn error(issuer: &str, title: &str, error: &Error) -> Answer {
    failure(
        error.code.status(),
        issuer,
        title,
        error.code.as_str(),
        &error.description,
    )
}

/// A page that isn't there.
pub(crate) fn not_found(issuer: &str) -> Answer {
    let text = "There is nothing at this address. The identity provider is here for applications: start at the one \
                that you want to use.";
    failure(StatusCode::NOT_FOUND, issuer, "Nothing here", "not_found", text)
}

fn failure(status: StatusCode, issuer: &str, title: &str, code: &str, text: &str) -> Answer {
    let template = Failure {
        issuer,
        title,
        code,
        text,
    };
    page(status, &template)
}
