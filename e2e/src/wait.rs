//! The one place that waits: for a condition, with a bound.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Tries until `attempt` gives a value; after `bound` the last failure is the error. An attempt that takes long
/// (a program that is started) is followed by a pause as long: others wait too, and need the processor.
pub fn until<T>(what: &str, bound: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let tried = Instant::now();
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= bound => {
                bail!("waited {} s for {what}: {error:#}", bound.as_secs_f32())
            }
            Err(_) => pause(
                tried
                    .elapsed()
                    .clamp(Duration::from_millis(100), Duration::from_secs(1)),
            ),
        }
    }
}

/// Tries as long as `bound` lasts; the first failure is the error.
pub fn throughout(what: &str, bound: Duration, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < bound {
        if let Err(error) = attempt() {
            bail!(
                "{what} held for {:.1} s only: {error:#}",
                start.elapsed().as_secs_f32()
            );
        }
        pause(Duration::from_millis(200));
    }
    Ok(())
}

/// Between two looks at a condition; and where time itself is what is measured (memory of an idle process).
#[expect(
    clippy::disallowed_methods,
    reason = "another process gives no notice, and idleness is a matter of time"
)]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
