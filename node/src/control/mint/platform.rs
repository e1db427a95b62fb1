//! An ID token of the platform that this program runs on (Go: `wif.ObtainProviderToken`).

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use super::{Dial, SessionError, ask, nothing, read};
use crate::credential::{
    self, Ask, Secret,
    aws::{self, KeySource, Keys},
};

/// Elsewhere than on AWS nobody may be where its metadata service is.
const PROBE: Duration = Duration::from_secs(5);

/// The token for this audience, of the first that is there: GitHub Actions, AWS, Google's cloud.
pub(super) async fn id_token(
    dialer: &dyn Dial,
    audience: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Secret, SessionError> {
    let answer = match Ask::github_token(audience, &variable) {
        Some(asked) => ask(dialer, asked).await?,
        None => {
            if let Some(aws) = Aws::find(dialer, &variable).await {
                return aws.id_token(audience, aws::region(&variable)).await;
            }
            ask(dialer, Ask::google_token(audience)).await.map_err(|error| {
                SessionError::Refused(format!(
                    "{error}; GitHub Actions, AWS and Google's metadata server are asked for ID tokens: elsewhere give \
                     the token itself, or its file"
                ))
            })?
        }
    };
    credential::id_token(&answer).ok_or_else(|| nothing("the answer holds no ID token"))
}

/// AWS, as far as it is known.
struct Aws<'a> {
    dialer: &'a dyn Dial,
    keys: KeySource,
    /// With the metadata service, which containers may not have.
    session: Option<Secret>,
}

impl<'a> Aws<'a> {
    /// Whether this is AWS: its metadata service answers, or the environment says how a container gets keys.
    async fn find(dialer: &'a dyn Dial, variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let keys = KeySource::of(variable);
        let asked = timeout(PROBE, ask(dialer, aws::ask_session())).await;
        let answer = asked.ok().and_then(Result::ok);
        let session = answer.and_then(|answer| Some(Secret::new(std::str::from_utf8(&answer).ok()?.trim())));
        let in_container = matches!(keys, KeySource::Role { .. } | KeySource::Agent { .. });
        (session.is_some() || in_container).then_some(Self {
            dialer,
            keys,
            session,
        })
    }

    async fn id_token(self, audience: &str, region: Option<String>) -> Result<Secret, SessionError> {
        let region = match region {
            Some(region) => region,
            None => self.metadata("placement/region").await?,
        };
        let keys = self.keys(&region).await?;
        let asked = aws::ask_id_token(&keys, &region, audience, Timestamp::now());
        let answer = ask(self.dialer, asked).await?;
        aws::id_token(&answer).ok_or_else(|| nothing("the answer of AWS holds no ID token"))
    }

    async fn keys(&self, region: &str) -> Result<Keys, SessionError> {
        let keys = match &self.keys {
            KeySource::Given(keys) => return Ok(keys.clone()),
            KeySource::Role { arn, token } => {
                let token = read("the token for the role", token).await?;
                aws::keys_of_role(&ask(self.dialer, aws::ask_role(region, arn, &token)).await?)
            }
            KeySource::Agent {
                url,
                token,
                token_file,
            } => {
                let token = match token_file {
                    Some(file) => Some(read("the token for the agent", file).await?),
                    None => token.clone(),
                };
                aws::keys(&ask(self.dialer, aws::ask_agent(url.clone(), token)).await?)
            }
            KeySource::Machine => {
                let role = self.metadata("iam/security-credentials/").await?;
                let role = role.lines().next().unwrap_or_default();
                let keys = self.metadata(&format!("iam/security-credentials/{role}")).await?;
                aws::keys(keys.as_bytes())
            }
        };
        keys.ok_or_else(|| nothing("the answer of AWS holds no keys"))
    }

    async fn metadata(&self, path: &str) -> Result<String, SessionError> {
        let session = self.session.as_ref().ok_or_else(|| {
            SessionError::Refused("AWS's metadata service does not answer: set AWS_REGION".to_owned())
        })?;
        let answer = ask(self.dialer, aws::ask_metadata(session, path)).await?;
        String::from_utf8(answer.into()).map_err(|_| nothing("AWS's metadata service says no text"))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::{
        control::fake::{Server, server},
        credential::tests::environment,
    };

    const KEYS: &str = r#"{"AccessKeyId":"id","SecretAccessKey":"secret","Token":"session"}"#;
    const TOKEN: &str = "<R><WebIdentityToken>a.b.c</WebIdentityToken></R>";

    /// What comes of it where the environment has these variables and `network` answers.
    async fn ask_on(
        variables: &[(&str, &str)],
        network: impl AsyncFnOnce(&mut Server),
    ) -> Result<Secret, SessionError> {
        let (dialer, mut server) = server();
        let asked = id_token(&*dialer, "aud", environment(variables));
        let (token, ()) = tokio::join!(asked, network(&mut server));
        token
    }

    #[tokio::test]
    async fn a_machine_of_aws_asks_its_metadata_service_for_everything() {
        let token = ask_on(&[], async |server| {
            let session = server.path("/latest/api/token").await;
            assert_eq!(session.method, Method::PUT);
            session.answer(200, "s");
            for (path, answer) in [
                ("placement/region", "eu-central-1"),
                ("iam/security-credentials/", "a-role\n"),
                ("iam/security-credentials/a-role", KEYS),
            ] {
                let asked = server.path(&format!("/latest/meta-data/{path}")).await;
                assert_eq!(asked.headers["x-aws-ec2-metadata-token"], "s");
                asked.answer(200, answer);
            }
            let asked = server.path("/").await;
            assert_eq!(asked.headers["host"], "sts.eu-central-1.amazonaws.com");
            assert_eq!(asked.headers["x-amz-security-token"], "session");
            let signed = asked.headers["authorization"].to_str().unwrap();
            assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=id/"), "{signed}");
            asked.answer(200, TOKEN);
        });
        assert_eq!(token.await.unwrap(), Secret::new("a.b.c"));
    }

    #[tokio::test]
    async fn a_container_needs_no_metadata_service() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "k.8.s\n").unwrap();
        let file = file.path().to_str().unwrap();
        let pod = [
            ("AWS_REGION", "us-east-1"),
            ("AWS_ROLE_ARN", "arn:x"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", file),
        ];
        let token = ask_on(&pod, async |server| {
            server.path("/latest/api/token").await.answer(403, "");
            let role = server.path("/").await;
            let form = String::from_utf8_lossy(&role.raw);
            assert!(form.ends_with("&WebIdentityToken=k.8.s"), "{form}");
            role.answer(
                200,
                "<AccessKeyId>i</AccessKeyId><SecretAccessKey>s</SecretAccessKey>",
            );
            server.path("/").await.answer(200, TOKEN);
        });
        assert_eq!(token.await.unwrap(), Secret::new("a.b.c"));

        let task = [
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file),
        ];
        let refused = ask_on(&task, async |server| {
            server.path("/latest/api/token").await.answer(403, "");
        });
        let refused = refused.await.unwrap_err().to_string();
        assert!(refused.contains("set AWS_REGION"), "{refused}");
        let task = [task[0], task[1], ("AWS_DEFAULT_REGION", "us-east-1")];
        let token = ask_on(&task, async |server| {
            server.path("/latest/api/token").await.answer(403, "");
            let agent = server.path("/v2/x").await;
            assert_eq!(
                (&agent.headers["host"], &agent.headers["authorization"]),
                (&"169.254.170.2".parse().unwrap(), &"k.8.s".parse().unwrap())
            );
            agent.answer(200, KEYS);
            server
                .path("/")
                .await
                .answer(403, "<Error><Code>AccessDenied</Code></Error>");
        });
        let refused = token.await.unwrap_err().to_string();
        assert!(
            refused.contains("ID token from AWS") && refused.contains("AccessDenied"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn others_are_asked_in_gos_order() {
        let token = ask_on(&[], async |server| {
            // Google's metadata server has the same address.
            server.path("/latest/api/token").await.answer(405, "");
            let path = "/computeMetadata/v1/instance/service-accounts/default/identity";
            let asked = server.path(path).await;
            assert_eq!(asked.headers["metadata-flavor"], "Google");
            asked.answer(200, "g.c.p");
        });
        assert_eq!(token.await.unwrap(), Secret::new("g.c.p"));

        let github = [
            ("ACTIONS_ID_TOKEN_REQUEST_URL", "https://gh.test/token?v=1"),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t"),
            ("AWS_ROLE_ARN", "arn:x"),
        ];
        let token = ask_on(&github, async |server| {
            let asked = server.path("/token").await;
            assert_eq!(asked.headers["authorization"], "Bearer t");
            asked.answer(200, r#"{"value":"g.h.a"}"#);
        });
        assert_eq!(token.await.unwrap(), Secret::new("g.h.a"));

        let nowhere = ask_on(&[], async |server| {
            server.path("/latest/api/token").await.answer(404, "");
            let path = "/computeMetadata/v1/instance/service-accounts/default/identity";
            server.path(path).await.answer(404, "");
        });
        let said = nowhere.await.unwrap_err().to_string();
        assert!(said.contains("elsewhere give the token itself"), "{said}");
    }
}
