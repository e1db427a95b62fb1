//! How serving ends: clients are sent elsewhere, then no new work, then the work in flight, then the deadline.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Three signals and the tasks that obey them. Children see their parent's signals.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    /// Ask clients to go, one connection after the other; whoever still comes is served. Where nobody else
    /// can serve them, this is left out.
    pub leave: CancellationToken,
    /// Take nothing new; finish what is there.
    pub start: CancellationToken,
    /// End now.
    pub abort: CancellationToken,
    /// What has to end.
    pub tasks: TaskTracker,
}

impl Drain {
    /// For a part that can end alone: a name, a listener.
    pub fn child(&self) -> Self {
        Self {
            leave: self.leave.child_token(),
            start: self.start.child_token(),
            abort: self.abort.child_token(),
            tasks: TaskTracker::new(),
        }
    }

    /// Whether clients should go.
    pub fn is_leaving(&self) -> bool {
        self.leave.is_cancelled() || self.start.is_cancelled()
    }

    /// Waits until clients should go.
    pub async fn leaving(&self) {
        tokio::select! {
            () = self.leave.cancelled() => {}
            () = self.start.cancelled() => {}
        }
    }

    /// Starts draining and waits for all tasks; a deadline of somebody else may abort them.
    pub async fn finish(&self) {
        self.start.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// As [`Drain::finish`], and what isn't done by the deadline is aborted.
    pub async fn finish_within(&self, deadline: Duration) {
        if tokio::time::timeout(deadline, self.finish()).await.is_err() {
            self.abort.cancel();
            self.tasks.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_what_does_not_end_itself() {
        let parent = Drain::default();
        let child = parent.child();
        let abort = child.abort.clone();
        child.tasks.spawn(async move { abort.cancelled().await });
        let started = tokio::time::Instant::now();
        let waiting = child.clone();
        parent.tasks.spawn(async move { waiting.finish().await });
        parent.finish_within(Duration::from_secs(3)).await;
        assert_eq!(started.elapsed(), Duration::from_secs(3));
        assert!(child.start.is_cancelled());
    }
}
