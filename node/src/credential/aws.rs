//! What AWS is asked on the way to an ID token (Go: `wif`, and what AWS's SDK does for it): whoever may use keys of
//! AWS gets a token of its Security Token Service (`sts:GetWebIdentityToken`).

use std::path::PathBuf;

use aws_lc_rs::{digest, hmac};
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;

use super::{Ask, Secret, set};

/// The metadata service of a machine, which no other network has.
const METADATA: &str = "http://169.254.169.254/latest";
/// Where a container's agent listens (ECS).
const CONTAINER: &str = "http://169.254.170.2";

/// Keys that sign requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Keys {
    access_key_id: String,
    secret_access_key: Secret,
    #[serde(default, alias = "SessionToken")]
    token: Option<Secret>,
}

/// Where keys come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// The environment.
    Given(Keys),
    /// A role, for the token in a file (EKS: IAM roles for service accounts).
    Role { arn: String, token: PathBuf },
    /// An agent beside the container (ECS, EKS Pod Identity), which may want to see what is in a file.
    Agent {
        url: String,
        token: Option<Secret>,
        token_file: Option<PathBuf>,
    },
    /// The machine's metadata service.
    Machine,
}

impl KeySource {
    /// The first that the environment names, in the order of AWS's SDKs.
    pub(crate) fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = set(variable);
        let secret = |name| set(name).map(Secret::new);
        let pair = set("AWS_ACCESS_KEY_ID").zip(secret("AWS_SECRET_ACCESS_KEY"));
        if let Some((access_key_id, secret_access_key)) = pair {
            return Self::Given(Keys {
                access_key_id,
                secret_access_key,
                token: secret("AWS_SESSION_TOKEN"),
            });
        }
        if let Some((arn, token)) = set("AWS_ROLE_ARN").zip(set("AWS_WEB_IDENTITY_TOKEN_FILE")) {
            let token = token.into();
            return Self::Role { arn, token };
        }
        let near = set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("{CONTAINER}{path}"));
        match near.or_else(|| set("AWS_CONTAINER_CREDENTIALS_FULL_URI")) {
            Some(url) => Self::Agent {
                url,
                token: secret("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
                token_file: set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from),
            },
            None => Self::Machine,
        }
    }
}

/// The region that the environment names.
pub(crate) fn region(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let set = set(variable);
    set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION"))
}

/// Begins a session with the metadata service. Only AWS answers, so it tells whether this is a machine of AWS.
pub(crate) fn ask_session() -> Ask {
    let ttl = ("x-aws-ec2-metadata-token-ttl-seconds", Secret::new("60"));
    Ask {
        method: Method::PUT,
        headers: vec![ttl],
        ..Ask::get(
            "begin a session with AWS's metadata service",
            format!("{METADATA}/api/token"),
        )
    }
}

/// A value that the metadata service has.
pub(crate) fn ask_metadata(session: &Secret, path: &str) -> Ask {
    Ask {
        headers: vec![("x-aws-ec2-metadata-token", session.clone())],
        ..Ask::get(
            "ask AWS's metadata service",
            format!("{METADATA}/meta-data/{path}"),
        )
    }
}

/// Keys of the agent beside the container.
pub(crate) fn ask_agent(url: String, token: Option<Secret>) -> Ask {
    Ask {
        headers: token.map(|token| ("authorization", token)).into_iter().collect(),
        ..Ask::get("get keys of AWS for the container", url)
    }
}

/// Keys for a role; the token says who may have them, so nothing is signed.
pub(crate) fn ask_role(region: &str, arn: &str, token: &Secret) -> Ask {
    let form = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("RoleArn", arn),
        ("RoleSessionName", "postern"),
        ("Version", "2011-06-15"),
        ("WebIdentityToken", token.expose()),
    ];
    Ask::form(
        "get keys of AWS for the role",
        format!("https://{}/", host(region)),
        &form,
    )
}

/// The ID token, for five minutes; signed by Signature Version 4, with the parameters that Go's SDK sends.
pub(crate) fn ask_id_token(keys: &Keys, region: &str, audience: &str, now: Timestamp) -> Ask {
    let form = [
        ("Action", "GetWebIdentityToken"),
        ("Audience.member.1", audience.trim()),
        ("DurationSeconds", "300"),
        ("SigningAlgorithm", "ES384"),
        ("Version", "2011-06-15"),
    ];
    let host = host(region);
    let mut ask = Ask::form("get an ID token from AWS", format!("https://{host}/"), &form);
    let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    ask.headers.push(("host", Secret::new(host)));
    ask.headers.push(("x-amz-date", Secret::new(&time)));
    let token = keys.token.clone();
    ask.headers
        .extend(token.map(|token| ("x-amz-security-token", token)));
    let authorization = authorization(keys, region, &time, &ask);
    // The connection says itself to whom it goes.
    ask.headers.retain(|(name, _)| *name != "host");
    ask.headers.push(("authorization", authorization));
    ask
}

fn host(region: &str) -> String {
    let china = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("sts.{region}.amazonaws.com{china}")
}

/// What AWS wants to see (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>)
/// for the request's headers, which are in the order of their names.
fn authorization(keys: &Keys, region: &str, time: &str, ask: &Ask) -> Secret {
    let sha = |text: &str| hex::encode(digest::digest(&digest::SHA256, text.as_bytes()));
    let names: Vec<&str> = ask.headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines = ask
        .headers
        .iter()
        .map(|(name, value)| format!("{name}:{}\n", value.expose()));
    let body = sha(ask.body.as_ref().map_or("", Secret::expose));
    let canonical = Secret::new(format!(
        "POST\n/\n\n{}\n{names}\n{body}",
        lines.collect::<String>()
    ));
    let day = time.get(..8).unwrap_or(time);
    let scope = format!("{day}/{region}/sts/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha(canonical.expose()));

    let first = Secret::new(format!("AWS4{}", keys.secret_access_key.expose()));
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.expose().as_bytes());
    for part in [day, region, "sts", "aws4_request"] {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
    }
    let signature = hex::encode(hmac::sign(&key, text.as_bytes()));
    let id = &keys.access_key_id;
    Secret::new(format!(
        "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
    ))
}

/// Keys as the metadata service and agents send them.
pub(crate) fn keys(body: &[u8]) -> Option<Keys> {
    serde_json::from_slice(body).ok()
}

/// Keys in the answer to [`ask_role`].
pub(crate) fn keys_of_role(body: &[u8]) -> Option<Keys> {
    Some(Keys {
        access_key_id: element(body, "AccessKeyId")?.to_owned(),
        secret_access_key: Secret::new(element(body, "SecretAccessKey")?),
        token: element(body, "SessionToken").map(Secret::new),
    })
}

/// The token in the answer to [`ask_id_token`].
pub(crate) fn id_token(body: &[u8]) -> Option<Secret> {
    super::id_token(element(body, "WebIdentityToken")?.as_bytes())
}

/// What stands in the first element of this name: nothing here needs escapes.
fn element<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    let body = std::str::from_utf8(body).ok()?;
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::tests::environment;

    fn header<'a>(ask: &'a Ask, wanted: &str) -> Option<&'a str> {
        let (_, value) = ask.headers.iter().find(|(name, _)| *name == wanted)?;
        Some(value.expose())
    }

    /// The signatures are those of Go's SDK (`aws-sdk-go-v2` 1.42.1, `v4.Signer`), and the forms those of its `sts`.
    #[test]
    fn requests_are_signed_as_gos_sdk_signs_them() {
        let now = "2015-08-30T12:36:00Z".parse().unwrap();
        let mut keys = Keys {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            token: None,
        };
        let ask = ask_id_token(&keys, "eu-central-1", "api.tailscale.com/a b", now);
        assert_eq!(ask.url, "https://sts.eu-central-1.amazonaws.com/");
        assert_eq!(
            ask.body.as_ref().unwrap().expose(),
            "Action=GetWebIdentityToken&Audience.member.1=api.tailscale.com%2Fa+b&DurationSeconds=300\
             &SigningAlgorithm=ES384&Version=2011-06-15"
        );
        assert_eq!(
            header(&ask, "authorization").unwrap(),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/eu-central-1/sts/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=342fb887d9db872fb213c88437ef917ed806fc288500626dc94dfe8f8292bb24"
        );
        assert!(
            !format!("{ask:?} {keys:?}").contains("wJalr"),
            "secrets are not shown"
        );

        keys.token = Some(Secret::new("session/token+=="));
        let ask = ask_id_token(&keys, "eu-central-1", "api.tailscale.com/a b", now);
        assert_eq!(header(&ask, "x-amz-security-token").unwrap(), "session/token+==");
        assert!(header(&ask, "authorization").unwrap().ends_with(
            "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, \
             Signature=da886ea8cc996bf2497c3ebe212ef3841c804ff2017801e6588ab6b1314ff7f1"
        ));

        let ask = ask_role("cn-north-1", "arn:aws:iam::1:role/x", &Secret::new("a.b.c"));
        assert_eq!(ask.url, "https://sts.cn-north-1.amazonaws.com.cn/");
        assert_eq!(
            ask.body.unwrap().expose(),
            "Action=AssumeRoleWithWebIdentity&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx&RoleSessionName=postern\
             &Version=2011-06-15&WebIdentityToken=a.b.c"
        );
    }

    #[test]
    fn keys_are_looked_for_where_sdks_look() {
        let all = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_ROLE_ARN", "arn"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x"),
            (
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                "http://169.254.170.23/v1/credentials",
            ),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/agent"),
        ];
        let source = |variables: &[(&str, &str)]| KeySource::of(environment(variables));
        let KeySource::Given(keys) = source(&all) else {
            panic!()
        };
        assert_eq!((&*keys.access_key_id, keys.token), ("id", None));
        let token = "/token".into();
        let arn = "arn".to_owned();
        assert_eq!(source(&all[1..]), KeySource::Role { arn, token });
        let agent = |url: &str, token_file: Option<&str>| KeySource::Agent {
            url: url.to_owned(),
            token: None,
            token_file: token_file.map(PathBuf::from),
        };
        assert_eq!(source(&all[3..5]), agent("http://169.254.170.2/v2/x", None));
        let (url, file) = (all[5].1, Some("/agent"));
        assert_eq!(source(&all[5..]), agent(url, file));
        assert_eq!(source(&all[6..]), KeySource::Machine);
    }

    #[test]
    fn answers_are_read() {
        let of_machine = keys(
            br#"{"Code":"Success","AccessKeyId":"i","SecretAccessKey":"s","Token":"t","Expiration":"2026-01-01T00:00:00Z"}"#,
        );
        let of_role = keys_of_role(
            b"<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
              <AccessKeyId>i</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
              </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        );
        assert_eq!(of_machine, of_role);
        assert_eq!(of_role.unwrap().token, Some(Secret::new("t")));
        assert_eq!(
            id_token(b"<a><WebIdentityToken>a.b.c</WebIdentityToken></a>"),
            Some(Secret::new("a.b.c"))
        );
        for bad in [&b""[..], b"<WebIdentityToken>a.b.c", b"\xff", b"{}"] {
            assert!(id_token(bad).is_none() && keys(bad).is_none() && keys_of_role(bad).is_none());
        }
    }
}
