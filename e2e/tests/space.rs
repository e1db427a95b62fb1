//! What one test has for itself: a namespace, names on the tailnet, and short ways to say what it wants.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use postern_e2e::app;
use postern_e2e::client::{Fetch, Fetched};
use postern_e2e::cluster::Cluster;
use postern_e2e::control::Control;
use postern_e2e::lab::DOMAIN;
use postern_e2e::wait;
use serde_json::Value;

use crate::runner::Env;

/// From `kubectl apply` to the first answer; a certificate is issued meanwhile.
pub(crate) const FIRST_ANSWER: Duration = Duration::from_secs(60);

/// A test's own part of the lab.
#[derive(Debug)]
pub(crate) struct Space<'a> {
    pub(crate) env: &'a Env,
    pub(crate) namespace: String,
    notes: RefCell<Vec<String>>,
}

impl<'a> Space<'a> {
    pub(crate) fn new(env: &'a Env, test: &str) -> Self {
        let short: String = test
            .split('_')
            .filter_map(|word| word.get(..word.len().min(3)))
            .collect::<Vec<_>>()
            .join("-");
        let namespace = format!(
            "{}-{}",
            short
                .get(..short.len().min(40))
                .unwrap_or(&short)
                .trim_end_matches('-'),
            env.run
        );
        Self {
            env,
            namespace,
            notes: RefCell::default(),
        }
    }

    /// Another namespace of the same test.
    pub(crate) fn neighbour(&self) -> Self {
        Self {
            env: self.env,
            namespace: format!("{}-b", self.namespace),
            notes: RefCell::default(),
        }
    }

    pub(crate) fn create(&self) -> Result<()> {
        self.cluster().apply(&app::namespace(&self.namespace))
    }

    /// Asks for its end; the next test does not wait for it.
    pub(crate) fn delete(&self) {
        let _ = self.cluster().run(&[
            "delete",
            "namespace",
            &self.namespace,
            "--wait=false",
            "--ignore-not-found",
        ]);
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.env.cluster
    }

    /// A figure for the report.
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.notes.borrow_mut().push(text.into());
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes.borrow().clone()
    }

    /// A device name that no other test uses.
    pub(crate) fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.namespace)
    }

    /// Deploys the backend under a name and waits until it is ready.
    pub(crate) fn deploy(&self, name: &str) -> Result<()> {
        self.cluster()
            .apply(&app::deployment(&self.namespace, name, &self.env.backend))?;
        self.cluster()
            .run(&[
                "rollout",
                "status",
                "deployment",
                name,
                "--namespace",
                &self.namespace,
                "--timeout=60s",
            ])
            .map(drop)
    }

    /// Applies the shortest Ingress and waits for the first answer; the URL without a slash at its end.
    pub(crate) fn ingress(&self, name: &str, service: &str) -> Result<String> {
        self.cluster()
            .apply(&app::ingress(&self.namespace, name, service))?;
        let url = url(name);
        self.answer(&url)?;
        Ok(url)
    }

    /// Deletes an Ingress, and waits until its finalizer has let it go.
    pub(crate) fn delete_ingress(&self, name: &str) -> Result<()> {
        self.cluster().run(&[
            "delete",
            "ingress",
            name,
            "--namespace",
            &self.namespace,
            "--timeout=30s",
        ])?;
        Ok(())
    }

    /// The same with a TailnetIngress.
    pub(crate) fn tailnet_ingress(&self, name: &str, service: &str) -> Result<String> {
        self.cluster()
            .apply(&app::tailnet_ingress(&self.namespace, name, service))?;
        let url = url(name);
        self.answer(&url)?;
        Ok(url)
    }

    /// An app and its Ingress: `(device name, URL)`.
    pub(crate) fn app(&self) -> Result<(String, String)> {
        let name = self.name("app");
        self.deploy("app")?;
        let url = self.ingress(&name, "app")?;
        Ok((name, url))
    }

    /// Waits until alice gets a 200.
    pub(crate) fn answer(&self, url: &str) -> Result<Fetched> {
        self.answer_within(url, FIRST_ANSWER)
    }

    pub(crate) fn answer_within(&self, url: &str, bound: Duration) -> Result<Fetched> {
        wait::until(url, bound, || {
            let fetched = Fetch {
                timeout_ms: Some(3000),
                ..Fetch::get("alice", url)
            }
            .send()?;
            ensure!(
                fetched.status == 200,
                "status {}: {:.200}",
                fetched.status,
                fetched.body
            );
            Ok(fetched)
        })
    }

    /// The device that control knows by that name.
    pub(crate) fn device(&self, name: &str) -> Result<Value> {
        match Control.device(name)? {
            Some(device) => Ok(device),
            None => bail!("control knows no device {name}"),
        }
    }

    /// Has the operator look at an object now, and not when it is due.
    pub(crate) fn look_again(&self, kind: &str, name: &str) -> Result<()> {
        let looked = format!("example.com/looked={:?}", Instant::now());
        let of_space = ["--namespace", self.namespace.as_str()];
        let annotate = ["annotate", "--overwrite", kind, name, &looked];
        self.cluster().run(&[&annotate[..], &of_space].concat()).map(drop)
    }

    /// Events about an object, newest last: `(type, reason, message)`.
    pub(crate) fn events(&self, object: &str) -> Result<Vec<(String, String, String)>> {
        let said = self.cluster().run(&[
            "get",
            "events",
            "--namespace",
            &self.namespace,
            "--output",
            "json",
            "--sort-by=.lastTimestamp",
            "--field-selector",
            &format!("involvedObject.name={object}"),
        ])?;
        let list: Value = serde_json::from_str(&said)?;
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let events = list["items"].as_array().into_iter().flatten();
        Ok(events
            .map(|event| (text(event, "type"), text(event, "reason"), text(event, "message")))
            .collect())
    }

    /// Waits for an Event about an object with that reason.
    pub(crate) fn event(&self, object: &str, reason: &str, bound: Duration) -> Result<String> {
        wait::until(&format!("an Event {reason} about {object}"), bound, || {
            let events = self.events(object)?;
            match events.iter().rev().find(|(_, said, _)| said == reason) {
                Some((_, _, message)) => Ok(message.clone()),
                None => bail!("there are {events:?}"),
            }
        })
    }
}

/// `https://NAME.SUFFIX`.
pub(crate) fn url(name: &str) -> String {
    format!("https://{name}.{DOMAIN}")
}

/// A condition of an object: `(status, reason, message)`.
pub(crate) fn condition<'v>(object: &'v Value, kind: &str) -> Option<(&'v str, &'v str, &'v str)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    Some((
        found["status"].as_str()?,
        found["reason"].as_str()?,
        found["message"].as_str().unwrap_or_default(),
    ))
}
