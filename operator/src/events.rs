//! Events: only when what is said has changed.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use parking_lot::Mutex;

const TIMEOUT: Duration = Duration::from_secs(5);
/// API limit of an Event's note.
const NOTE_LIMIT: usize = 1024;
/// More objects than that are not remembered: the worst that follows is an Event said twice.
const REMEMBERED: usize = 16_384;

/// Says Events.
pub struct Events {
    recorder: Recorder,
    said: Mutex<HashMap<(String, String), (String, String)>>,
}

/// Something to say about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// What it is about: a later remark on the same topic replaces it.
    pub topic: String,
    /// Somebody should do something.
    pub warning: bool,
    /// One of [`postern_crds::conditions::reasons`].
    pub reason: String,
    /// For people.
    pub note: String,
}

impl Events {
    /// Says them in this process's name.
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter {
            controller: "postern-operator".into(),
            instance: Some(instance.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            said: Mutex::default(),
        }
    }

    /// Says what hasn't been said last on its topic.
    pub async fn say(&self, object: &ObjectReference, remarks: &[Remark]) {
        for remark in remarks {
            if !self.is_new(object.uid.as_deref().unwrap_or_default(), remark) {
                continue;
            }
            let mut note = remark.note.clone();
            note.truncate(note.floor_char_boundary(NOTE_LIMIT));
            let event = Event {
                type_: if remark.warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: remark.reason.clone(),
                note: Some(note),
                action: "Reconcile".into(),
                secondary: None,
            };
            // An Event is a courtesy: a status or a log line says the same.
            match tokio::time::timeout(TIMEOUT, self.recorder.publish(&event, object)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "Failed to publish an event"),
                Err(_) => tracing::debug!("Timed out publishing an event"),
            }
        }
    }

    fn is_new(&self, uid: &str, remark: &Remark) -> bool {
        let mut said = self.said.lock();
        if said.len() >= REMEMBERED {
            said.clear();
        }
        let text = (remark.reason.clone(), remark.note.clone());
        said.insert((uid.to_owned(), remark.topic.clone()), text.clone()) != Some(text)
    }
}
