//! The admin pages: clients are listed, made, changed, given new secrets and deleted. For peers whom the policy
//! grants `allow_admin_ui`, on the tailnet alone.

use http::{Method, StatusCode};

use crate::{
    answer::{self, Answer},
    browser::Browser,
    client::{self, Client, ClientSecret, Clients, Kind, Origin},
    error::{Code, Error},
    grant::Grants,
    identify::{Peer, User},
    keys::{Algorithm, KeySet},
    pages,
    params::Params,
    provider::{Arrival, Provider, route::Asked},
    register::redirect_uris,
    secret::{Hash, Secret},
    state,
};

const FORM: &str = "admin";
/// How long the old secret stays good when a new one is made, unless it is to end at once.
const OVERLAP: i64 = 86_400;

/// An administrator at work.
struct Admin<'a> {
    asked: Asked<'a>,
    login: String,
    browser: Browser,
    keys: std::sync::Arc<KeySet>,
}

/// What is in the form.
#[derive(Default)]
struct Draft<'a> {
    id: &'a str,
    name: &'a str,
    redirect_uris: String,
    public: bool,
    rs256: bool,
    secret: &'a str,
    error: &'a str,
    notice: &'a str,
}

impl<'a> Draft<'a> {
    fn of(id: &'a str, client: &'a Client) -> Self {
        Self {
            id,
            name: &client.name,
            redirect_uris: client.redirect_uris.join("\n"),
            public: client.kind == Kind::Public,
            rs256: client.signing == Algorithm::Rs256,
            ..Self::default()
        }
    }
}

impl Provider {
    /// Everything at `/`, `/new` and `/edit/…`.
    pub(crate) async fn admin(&self, asked: Asked<'_>, path: &str) -> Answer {
        let answered = async {
            let login = self.administrator(asked)?;
            let admin = Admin {
                asked,
                login,
                browser: Browser::meet(asked.headers())?,
                keys: self.keys().await?,
            };
            let get = matches!(asked.head.method, Method::GET | Method::HEAD);
            if !get && asked.head.method != Method::POST {
                return Ok(answer::wrong_method("GET, HEAD, POST"));
            }
            match (path.strip_prefix("/edit/"), path, get) {
                (Some(id), _, true) => self.show(&admin, id).await,
                (Some(id), _, false) => self.edit(&admin, id).await,
                (None, "/new", true) => Ok(self.form(&admin, StatusCode::OK, Draft::default())),
                (None, "/new", false) => self.create(&admin).await,
                (None, _, true) => self.list(&admin).await,
                (None, _, false) => Ok(answer::wrong_method("GET, HEAD")),
            }
        };
        let answered: Result<Answer, Error> = answered.await;
        answered.unwrap_or_else(|error| pages::error(self.config.issuer.as_str(), "Clients", &error))
    }

    /// The login of the peer, if it may be here.
    fn administrator(&self, asked: Asked<'_>) -> Result<String, Error> {
        let refuse = |text: &'static str| Err(Code::AccessDenied.because(text));
        let Arrival::Tailnet { .. } = asked.arrival else {
            return refuse("these pages are for peers of the tailnet");
        };
        let Some(peer) = self.peer(asked.arrival) else {
            return refuse("this device is not known on the tailnet");
        };
        if !Grants::of(&peer).admin() {
            return refuse(
                "this identity provider is here for applications: start at the one that you want to use. To manage \
                 its clients you need allow_admin_ui of tailscale.com/cap/tsidp in the tailnet's policy.",
            );
        }
        let Peer { machine, user, .. } = peer;
        Ok(user.map_or(machine.name, |User { login, .. }| login))
    }

    async fn list(&self, admin: &Admin<'_>) -> Result<Answer, Error> {
        let mut clients: Vec<_> = self.clients(admin.asked.now).await?.into_iter().collect();
        clients.sort_by_cached_key(|(id, client)| (client.title(id).to_lowercase(), id.clone()));
        let rows = clients.into_iter().map(|(id, client)| pages::ClientRow {
            title: client.title(&id).to_owned(),
            kind: match client.kind {
                Kind::Confidential => "Server",
                Kind::Public => "Program",
            },
            origin: match client.origin {
                Origin::Admin => "This page",
                Origin::Declared => "Configuration",
                Origin::Dynamic => "Itself",
                Origin::Imported => "tsidp",
            },
            status: match (client.kind, client.secrets.len()) {
                (Kind::Public, _) | (Kind::Confidential, 1) => "Active",
                (Kind::Confidential, 0) => "No secret",
                (Kind::Confidential, _) => "Changing secret",
            },
            changeable: client.origin != Origin::Declared,
            redirect_uris: client.redirect_uris,
            id,
        });
        let query = admin.asked.head.uri.query().unwrap_or_default();
        let template = pages::Clients {
            issuer: self.config.issuer.as_str(),
            login: &admin.login,
            clients: rows.collect(),
            notice: if query == "deleted" {
                "The client is deleted."
            } else {
                ""
            },
        };
        Ok(pages::page(StatusCode::OK, &template))
    }

    fn form(&self, admin: &Admin<'_>, status: StatusCode, draft: Draft<'_>) -> Answer {
        let template = pages::ClientForm {
            issuer: self.config.issuer.as_str(),
            login: &admin.login,
            id: draft.id,
            name: draft.name,
            redirect_uris: &draft.redirect_uris,
            public: draft.public,
            rs256: draft.rs256,
            secret: draft.secret,
            error: draft.error,
            notice: draft.notice,
            token: &admin.browser.form_token(&admin.keys, FORM),
        };
        let mut page = pages::page(status, &template);
        admin.browser.remember(&mut page);
        page
    }

    fn checked_form(&self, admin: &Admin<'_>) -> Result<Params, Error> {
        let params = admin.asked.form()?;
        let headers = admin.asked.headers();
        Browser::check(headers, &params, &self.config.issuer, &admin.keys, FORM)?;
        Ok(params)
    }

    async fn create(&self, admin: &Admin<'_>) -> Result<Answer, Error> {
        let params = self.checked_form(admin)?;
        let client = Client {
            kind: match params.one("kind")? {
                Some("public") => Kind::Public,
                _ => Kind::Confidential,
            },
            origin: Origin::Admin,
            created: admin.asked.now,
            ..Client::default()
        };
        let client = match described(client, &params)? {
            Ok(client) => client,
            Err((client, error)) => {
                let draft = Draft {
                    error: &error,
                    ..Draft::of("", &client)
                };
                return Ok(self.form(admin, StatusCode::BAD_REQUEST, draft));
            }
        };
        let (id, client, secret) = self.add_client(client, admin.asked.now).await?;
        tracing::info!(client = id, by = admin.login, "Client created");
        let draft = Draft {
            secret: secret.as_ref().map_or("", Secret::expose),
            notice: "The client is there.",
            ..Draft::of(&id, &client)
        };
        Ok(self.form(admin, StatusCode::CREATED, draft))
    }

    async fn show(&self, admin: &Admin<'_>, id: &str) -> Result<Answer, Error> {
        let client = self.client(id, admin.asked.now).await?;
        Ok(match client.filter(|client| client.origin != Origin::Declared) {
            Some(client) => self.form(admin, StatusCode::OK, Draft::of(id, &client)),
            None => pages::not_found(self.config.issuer.as_str()),
        })
    }

    async fn edit(&self, admin: &Admin<'_>, id: &str) -> Result<Answer, Error> {
        let params = self.checked_form(admin)?;
        let now = admin.asked.now;
        let before = self.client(id, now).await?;
        let Some(before) = before.filter(|client| client.origin != Origin::Declared) else {
            return Ok(pages::not_found(self.config.issuer.as_str()));
        };
        match params.one("action")? {
            Some("delete") => {
                state::change(&*self.store, client::key(id), now, |clients: &mut Clients| {
                    clients.0.remove(id);
                })
                .await?;
                tracing::info!(client = id, by = admin.login, "Client deleted");
                Ok(answer::redirect("/?deleted"))
            }
            Some("rotate") if before.kind == Kind::Confidential => {
                let secret = Secret::generate()?;
                let ends = match params.one("old")? {
                    Some("now") => now,
                    _ => now + OVERLAP,
                };
                let changed = self.change_client(id, now, |client| replace_secret(client, &secret, ends));
                changed.await?;
                tracing::info!(client = id, by = admin.login, "Client has a new secret");
                let draft = Draft {
                    secret: secret.expose(),
                    notice: "The client has a new secret.",
                    ..Draft::of(id, &before)
                };
                Ok(self.form(admin, StatusCode::OK, draft))
            }
            _ => match described(before, &params)? {
                Ok(new) => {
                    let changed = self.change_client(id, now, |client| {
                        client.name.clone_from(&new.name);
                        client.redirect_uris.clone_from(&new.redirect_uris);
                        client.signing = new.signing;
                    });
                    changed.await?;
                    tracing::info!(client = id, by = admin.login, "Client changed");
                    let draft = Draft {
                        notice: "The client is changed.",
                        ..Draft::of(id, &new)
                    };
                    Ok(self.form(admin, StatusCode::OK, draft))
                }
                Err((client, error)) => {
                    let draft = Draft {
                        error: &error,
                        ..Draft::of(id, &client)
                    };
                    Ok(self.form(admin, StatusCode::BAD_REQUEST, draft))
                }
            },
        }
    }

    async fn change_client(&self, id: &str, now: i64, change: impl Fn(&mut Client)) -> Result<(), Error> {
        state::change(&*self.store, client::key(id), now, |clients: &mut Clients| {
            if let Some(client) = clients.0.get_mut(id) {
                change(client);
            }
        })
        .await?;
        Ok(())
    }
}

/// The new one is good at once; of the old ones the newest alone stays for a while.
fn replace_secret(client: &mut Client, secret: &Secret, old_ends: i64) {
    client.secrets.truncate(1);
    for old in &mut client.secrets {
        old.expires = Some(old.expires.map_or(old_ends, |end| end.min(old_ends)));
    }
    let new = ClientSecret {
        hash: Hash::of(secret.expose()),
        expires: None,
    };
    client.secrets.insert(0, new);
}

/// The client as the form describes it; what can't be is said, and comes back for another try. URIs that were
/// registered before stay as they are.
fn described(mut client: Client, params: &Params) -> Result<Result<Client, (Client, String)>, Error> {
    let lines = params.one("redirect_uris")?.unwrap_or_default().lines();
    let uris: Vec<String> = lines
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    let before = std::mem::take(&mut client.redirect_uris);
    client.name = params
        .one("name")?
        .unwrap_or_default()
        .trim()
        .chars()
        .take(100)
        .collect();
    client.signing = match params.one("signing")? {
        Some("RS256") => Algorithm::Rs256,
        _ => Algorithm::Es256,
    };
    client.redirect_uris.clone_from(&uris);
    let new: Vec<String> = uris.iter().filter(|uri| !before.contains(uri)).cloned().collect();
    let checked = if new.is_empty() && !uris.is_empty() {
        Ok(new)
    } else {
        redirect_uris(&new)
    };
    Ok(match checked {
        Ok(_) => Ok(client),
        Err(error) => Err((client, error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_secret_leaves_the_old_one_good_for_a_while() {
        let mut client = Client::default();
        let (first, second, third) = (
            Secret::generate().unwrap(),
            Secret::generate().unwrap(),
            Secret::generate().unwrap(),
        );
        replace_secret(&mut client, &first, 0);
        replace_secret(&mut client, &second, 100);
        let has = |client: &Client, secret: &Secret, now| client.has_secret(secret.expose(), now);
        assert!(has(&client, &first, 99) && has(&client, &second, 99));
        assert!(!has(&client, &first, 100) && has(&client, &second, 100));
        replace_secret(&mut client, &third, 50);
        assert!(!has(&client, &first, 0) && has(&client, &second, 49) && !has(&client, &second, 50));
        assert!(has(&client, &third, 1000));
        assert_eq!(client.secrets.len(), 2);
    }

    #[test]
    fn what_tsidp_took_may_stay_and_new_ones_are_checked() {
        let old = Client {
            redirect_uris: vec!["http://grafana.lan/cb".to_owned()],
            ..Client::default()
        };
        let described = |form: &str| {
            let params = Params::parse(form.as_bytes()).unwrap();
            described(old.clone(), &params)
                .unwrap()
                .map_err(|(_, error)| error)
        };
        let kept = described("redirect_uris=http://grafana.lan/cb%0D%0Ahttps://a/cb&name=+x+").unwrap();
        assert_eq!((kept.name.as_str(), kept.redirect_uris.len()), ("x", 2));
        assert!(
            described("redirect_uris=http://other.lan/cb")
                .unwrap_err()
                .contains("other.lan")
        );
        assert!(described("redirect_uris=+").is_err());
    }
}
