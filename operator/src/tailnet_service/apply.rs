//! Does the next step of a Service's definition.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use postern_crds::{TailnetService, TailnetServiceStatus, conditions::reasons};

use crate::{
    apply::{self as write, ApplyError},
    context::{Context, reference},
    events::Remark,
    model::Problem,
    tailnet_api::{self, Definition},
    tailnet_service::{
        dereference::Inputs,
        plan::{self, Leave, Made, Step, Want, Wanted},
    },
};

/// What others change behind our back is put right after this time at the latest.
const REPAIR_AFTER: SignedDuration = SignedDuration::from_mins(4);

/// How it went.
#[derive(Debug)]
pub struct Outcome {
    /// What is recorded from now on.
    pub made: Option<Made>,
    /// The definition, or why there is none.
    pub defined: Result<Definition, Undefined>,
}

/// Why there is no definition.
#[derive(Debug)]
pub enum Undefined {
    /// Nobody asked for one.
    Unasked,
    /// It was there before the object was broken, and still should be.
    AsBefore,
    /// The credentials aren't there yet.
    NoCredentials,
    /// The name is somebody else's.
    Refused(Problem),
    /// The API said no.
    Failed(tailnet_api::Error),
}

/// What was found out about definitions not long ago: every change of a report wakes an object, and the API
/// needn't hear of each.
#[derive(Default)]
pub struct Definitions(Mutex<HashMap<Made, (Wanted, Definition, Timestamp)>>);

impl Definitions {
    fn recall(&self, wanted: &Wanted, now: Timestamp) -> Option<Definition> {
        let known = self.0.lock();
        let (last, definition, at) = known.get(&wanted.made)?;
        (last == wanted && now.duration_since(*at) < REPAIR_AFTER).then(|| definition.clone())
    }

    fn remember(&self, wanted: &Wanted, definition: &Definition, now: Timestamp) {
        let known = (wanted.clone(), definition.clone(), now);
        self.0.lock().insert(wanted.made.clone(), known);
    }

    fn forget(&self, made: &Made) {
        self.0.lock().remove(made);
    }
}

/// Applies.
///
/// # Errors
/// When the API server can't be told. What the coordination service says is in the outcome.
pub async fn apply(
    context: &Context,
    api: &Api<TailnetService>,
    object: &TailnetService,
    inputs: &Inputs,
    step: &Step,
) -> Result<Outcome, ApplyError> {
    let recorded = || inputs.recorded.clone();
    let kept = |defined| Outcome {
        made: recorded(),
        defined: Err(defined),
    };
    let outcome = match step {
        Step::Wait(_) => kept(Undefined::Unasked),
        Step::Nothing if inputs.recorded.is_some() && inputs.want == Want::Keep => kept(Undefined::AsBefore),
        Step::Nothing => kept(Undefined::Unasked),
        Step::Define(wanted) => define(context, api, object, inputs, wanted).await?,
        Step::HandOver(made) => {
            context.definitions.forget(made);
            gone()
        }
        Step::Leave { made, give_up } => match leave(context, inputs, made).await {
            Ok(true) => gone(),
            Ok(false) => {
                let why = "no API of the coordination service is known".to_owned();
                say_left(context, object, made, &why).await;
                gone()
            }
            Err(error @ tailnet_api::Error::Refused { .. }) if *give_up => {
                say_left(context, object, made, &error.to_string()).await;
                gone()
            }
            Err(error) => kept(Undefined::Failed(error)),
        },
    };
    // A record that remains keeps what else there is of the name.
    if outcome.made.is_none() && matches!(inputs.want, Want::Nothing) {
        let secrets = Api::<Secret>::namespaced(context.client.clone(), &context.settings.namespace);
        for name in &inputs.certificates {
            write::delete(&secrets, name).await?;
        }
    }
    Ok(outcome)
}

fn gone() -> Outcome {
    Outcome {
        made: None,
        defined: Err(Undefined::Unasked),
    }
}

async fn define(
    context: &Context,
    api: &Api<TailnetService>,
    object: &TailnetService,
    inputs: &Inputs,
    wanted: &Wanted,
) -> Result<Outcome, ApplyError> {
    let mut outcome = Outcome {
        made: inputs.recorded.clone(),
        defined: Err(Undefined::NoCredentials),
    };
    let Some(tailnet) = &inputs.api else {
        return Ok(outcome);
    };
    if let Some(known) = context.definitions.recall(wanted, inputs.now)
        && inputs.recorded.is_some()
    {
        outcome.defined = Ok(known);
        return Ok(outcome);
    }
    let cluster = &context.settings.cluster_id;
    let service = &wanted.made.service;
    let existing = match tailnet.definition(service).await {
        Ok(existing) => existing,
        Err(error) => {
            outcome.defined = Err(Undefined::Failed(error));
            return Ok(outcome);
        }
    };
    let new = match plan::define(existing.as_ref(), wanted, cluster) {
        Ok(new) => new,
        Err(problem) => {
            outcome.defined = Err(Undefined::Refused(problem));
            return Ok(outcome);
        }
    };
    // Before it is made: a process that dies between the two must not leave one that nobody knows of.
    if inputs.recorded.is_none() {
        record(context, api, object, Some(&wanted.made)).await?;
        outcome.made = Some(wanted.made.clone());
    }
    let written = match &new {
        None => Ok(existing),
        Some(new) => tailnet.define(new).await,
    };
    outcome.defined = match written {
        Ok(Some(definition)) => {
            if new.is_some() {
                tracing::info!(service, tailnet = wanted.made.tailnet, "Defined a Service");
            }
            context.definitions.remember(wanted, &definition, inputs.now);
            Ok(definition)
        }
        Ok(None) => Err(Undefined::NoCredentials),
        Err(error) => Err(Undefined::Failed(error)),
    };
    Ok(outcome)
}

/// Returns whether anybody could do it.
async fn leave(context: &Context, inputs: &Inputs, made: &Made) -> Result<bool, tailnet_api::Error> {
    let Some(tailnet) = &inputs.api else {
        return Ok(false);
    };
    context.definitions.forget(made);
    withdraw(tailnet, made, &context.settings.cluster_id).await
}

/// Takes a cluster's part of a definition away; one that is gone already is a success. Returns whether
/// anybody could do it.
///
/// # Errors
/// When the API doesn't.
pub async fn withdraw(
    tailnet: &tailnet_api::Api,
    made: &Made,
    cluster: &str,
) -> Result<bool, tailnet_api::Error> {
    if !tailnet.has_services() {
        return Ok(false);
    }
    let Some(existing) = tailnet.definition(&made.service).await? else {
        return Ok(true);
    };
    match plan::part(&existing, cluster) {
        Leave::Nothing => {}
        Leave::Delete => {
            tailnet.undefine(&made.service).await?;
            tracing::info!(
                service = made.service,
                tailnet = made.tailnet,
                "Deleted a Service's definition"
            );
        }
        Leave::Put(rest) => {
            tailnet.define(&rest).await?;
            tracing::info!(
                service = made.service,
                tailnet = made.tailnet,
                "Left a Service to its other owners"
            );
        }
    }
    Ok(true)
}

/// Writes what was made into the status, all else in it as it is.
async fn record(
    context: &Context,
    api: &Api<TailnetService>,
    object: &TailnetService,
    made: Option<&Made>,
) -> Result<(), ApplyError> {
    let status = TailnetServiceStatus {
        tailnet: made.map(|made| made.tailnet.clone()),
        service: made.map(|made| made.service.clone()),
        ..object.status.clone().unwrap_or_default()
    };
    context.metrics.status_patch("TailnetService");
    write::status(api, &object.name_any(), &status).await
}

async fn say_left(context: &Context, object: &TailnetService, made: &Made, why: &str) {
    let Made { tailnet, service } = made;
    tracing::warn!(service, tailnet, why, "A Service's definition is left behind");
    let remark = Remark {
        topic: "definition".into(),
        warning: true,
        reason: reasons::DEFINITION_LEFT.into(),
        note: format!("{service} stays defined on Tailnet {tailnet}, remove it there: {why}"),
    };
    context.events.say(&reference(object), &[remark]).await;
}
