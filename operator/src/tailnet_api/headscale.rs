//! Headscale's API v1: nodes.

use http::Method;
use serde::Deserialize;

use super::{
    DeviceRef, Error, SecretText,
    https::{Body, Https},
};

pub struct Headscale {
    https: Https,
    key: SecretText,
}

#[derive(Deserialize)]
struct Nodes {
    #[serde(default)]
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    id: String,
    /// The host name that the node gave.
    #[serde(default)]
    name: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    forced_tags: Vec<String>,
    #[serde(default)]
    valid_tags: Vec<String>,
}

impl Headscale {
    pub(super) fn new(https: Https, key: SecretText) -> Self {
        Self { https, key }
    }

    pub(super) async fn probe(&self) -> Result<(), Error> {
        self.nodes().await.map(drop)
    }

    /// A node's stable identifier is its number here, so what a proxy reports fits.
    pub(super) async fn delete(&self, device: &DeviceRef) -> Result<(), Error> {
        let nodes = self.nodes().await?;
        let ours = |node: &&Node| match &device.id {
            Some(id) => node.id == *id,
            None => node.name == device.hostname && !device.tags.is_empty() && node.has_tags(&device.tags),
        };
        for node in nodes.iter().filter(ours) {
            if node.name != device.hostname {
                return Err(Error::OtherDevice {
                    id: node.id.clone(),
                    found: node.name.clone(),
                    expected: device.hostname.clone(),
                });
            }
            let path = format!("/api/v1/node/{}", node.id);
            let what = "delete a node";
            match self
                .https
                .ask(what, Method::DELETE, &path, Some(&self.key), Body::None)
                .await
            {
                Ok(_) | Err(Error::Failed { status: 404, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<Node>, Error> {
        let answer = self
            .https
            .ask(
                "list nodes",
                Method::GET,
                "/api/v1/node",
                Some(&self.key),
                Body::None,
            )
            .await?;
        let Nodes { nodes } = answer.json()?;
        Ok(nodes)
    }
}

impl Node {
    fn has_tags(&self, tags: &[String]) -> bool {
        // Releases differ in which of these they fill.
        tags.iter().all(|tag| {
            [&self.tags, &self.forced_tags, &self.valid_tags]
                .iter()
                .any(|list| list.contains(tag))
        })
    }
}
