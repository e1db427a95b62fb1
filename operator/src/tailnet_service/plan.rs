//! The next step of a Service's definition, and what it should say. Pure.
//!
//! A definition goes in this order: the Service is out of the configuration, then out of what the proxies
//! report, then our part of the definition goes, then what was kept for it here, then the finalizer.
//!
//! Whose a definition is stands in an annotation that the Tailscale operator reads and writes too, so that
//! clusters of both can share a Service: a list of owners, ours by the cluster's identity.

use std::time::Duration;

use jiff::SignedDuration;
use postern_crds::conditions::reasons;
use serde_json::{Value, json};

use crate::{model::Problem, tailnet_api::Definition, tailnet_service::dereference::Inputs};

/// The annotation with the owners, as JSON.
const OWNERS: &str = "tailscale.com/owner-references";
const COMMENT: &str = "Managed by Postern in a Kubernetes cluster: changes made here are undone";

/// A proxy that hangs must not keep a definition for ever.
const LEAVE_WITHIN: SignedDuration = SignedDuration::from_secs(60);
/// Refused credentials must not keep an object for ever: what is left behind is named in an Event.
const DELETE_WITHIN: SignedDuration = SignedDuration::from_mins(10);
const LOOK: Duration = Duration::from_secs(5);

/// A definition, by where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Made {
    /// The Tailnet.
    pub tailnet: String,
    /// Such as `svc:db`.
    pub service: String,
}

/// What an object wants to be defined.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Where and under which name.
    pub made: Made,
    /// `tcp:443` and so on, in order.
    pub ports: Vec<String>,
    /// Tags of the Service.
    pub tags: Vec<String>,
    /// Other owners are welcome.
    pub shared: bool,
}

/// What an object wants of its definition.
#[derive(Debug, Clone, PartialEq)]
pub enum Want {
    /// It is broken, or not held yet: what is there stays.
    Keep,
    /// None: it is being deleted.
    Nothing,
    /// This.
    Defined(Wanted),
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// All is as it should be.
    Nothing,
    /// Look again after this time.
    Wait(Duration),
    /// See that it is defined so; first record it.
    Define(Wanted),
    /// Take our part of a definition away.
    Leave {
        /// Which.
        made: Made,
        /// After a refusal, leave it and say so.
        give_up: bool,
    },
    /// Forget a definition that another object of this cluster has now.
    HandOver(Made),
}

/// Decides.
pub fn plan(inputs: &Inputs) -> Step {
    match (&inputs.recorded, &inputs.want) {
        (_, Want::Keep) | (None, Want::Nothing) => Step::Nothing,
        (None, Want::Defined(wanted)) => Step::Define(wanted.clone()),
        (Some(made), Want::Defined(wanted)) if *made == wanted.made => Step::Define(wanted.clone()),
        (Some(made), Want::Nothing | Want::Defined(_)) => leave(inputs, made),
    }
}

fn leave(inputs: &Inputs, made: &Made) -> Step {
    let waited = (inputs.deleted).map(|since| inputs.now.duration_since(since));
    let long = |bound| waited.is_some_and(|waited| waited > bound);
    if inputs.configured || inputs.api.is_none() || (inputs.in_use && !long(LEAVE_WITHIN)) {
        return Step::Wait(LOOK);
    }
    if inputs.succeeded {
        return Step::HandOver(made.clone());
    }
    Step::Leave {
        made: made.clone(),
        give_up: long(DELETE_WITHIN),
    }
}

/// What has to be written so that a definition is as wanted; `None` when it is.
///
/// # Errors
/// When the name is somebody else's.
pub fn define(
    existing: Option<&Definition>,
    wanted: &Wanted,
    cluster: &str,
) -> Result<Option<Definition>, Problem> {
    let service = &wanted.made.service;
    let Some(existing) = existing else {
        return Ok(Some(Definition {
            name: service.clone(),
            comment: COMMENT.into(),
            annotations: [(OWNERS.to_owned(), owners_text(vec![own(cluster)]))].into(),
            ports: wanted.ports.clone(),
            tags: wanted.tags.clone(),
            ..Definition::default()
        }));
    };
    let mut owners = owners(existing);
    if owners.is_empty() {
        let message = format!(
            "{service} exists on the tailnet and nobody owns it: delete it there, or choose another name"
        );
        return Err(Problem::new(reasons::OWNED_ELSEWHERE, "spec.service", message));
    }
    let is_ours = owners.iter().any(|owner| is_own(owner, cluster));
    let others = owners.len() - usize::from(is_ours);
    if !is_ours && !wanted.shared {
        let message = format!(
            "{service} is served by {} already: choose another name, or set shared: true to be one of its hosts",
            if others == 1 {
                "another cluster".to_owned()
            } else {
                format!("{others} other clusters")
            }
        );
        return Err(Problem::new(reasons::OWNED_ELSEWHERE, "spec.shared", message));
    }
    let mut new = existing.clone();
    if !is_ours {
        owners.push(own(cluster));
        new.annotations.insert(OWNERS.into(), owners_text(owners));
    }
    if others == 0 {
        new.ports.clone_from(&wanted.ports);
        new.tags.clone_from(&wanted.tags);
    } else if !same(&existing.ports, &wanted.ports) {
        // A host counts only if it serves every port of the definition, so two who differ would take it from
        // each other.
        let message = format!(
            "{service} is shared, and defined with {}: name the same ports",
            existing.ports.join(" ")
        );
        return Err(Problem::invalid("spec.ports", message));
    }
    Ok((new != *existing).then_some(new))
}

/// How to leave a definition.
#[derive(Debug, Clone, PartialEq)]
pub enum Leave {
    /// We have no part in it.
    Nothing,
    /// Nobody else has.
    Delete,
    /// Others stay.
    Put(Definition),
}

/// Decides how to leave a definition.
pub fn part(existing: &Definition, cluster: &str) -> Leave {
    let owners = owners(existing);
    let others: Vec<Value> = (owners.iter().filter(|owner| !is_own(owner, cluster)))
        .cloned()
        .collect();
    if others.len() == owners.len() {
        return Leave::Nothing;
    }
    if others.is_empty() {
        return Leave::Delete;
    }
    let mut new = existing.clone();
    new.annotations.insert(OWNERS.into(), owners_text(others));
    Leave::Put(new)
}

fn same(a: &[String], b: &[String]) -> bool {
    let sorted = |list: &[String]| {
        let mut list = list.to_vec();
        list.sort();
        list
    };
    sorted(a) == sorted(b)
}

fn own(cluster: &str) -> Value {
    json!({ "operatorID": cluster })
}

fn is_own(owner: &Value, cluster: &str) -> bool {
    owner["operatorID"] == cluster
}

/// The owners; what can't be read counts as none, and is left alone.
fn owners(definition: &Definition) -> Vec<Value> {
    let read = || {
        let text = definition.annotations.get(OWNERS)?;
        match serde_json::from_str::<Value>(text).ok()?["ownerRefs"].take() {
            Value::Array(owners) => Some(owners),
            _ => None,
        }
    };
    read().unwrap_or_default()
}

fn owners_text(owners: Vec<Value>) -> String {
    json!({ "ownerRefs": owners }).to_string()
}

#[cfg(test)]
mod tests;
