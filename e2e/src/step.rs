//! Progress for people: one line a step, with what to expect and what it took.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Steps as they happen, with the time that each took.
#[derive(Debug)]
pub struct Steps {
    start: Instant,
    done: Vec<(String, Duration)>,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            done: Vec::new(),
        }
    }
}

impl Steps {
    /// Does a step. `estimate` is for two cores.
    pub fn run<T>(
        &mut self,
        what: &str,
        estimate: Option<Duration>,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let hint = estimate.map_or_else(String::new, |estimate| format!(" (about {})", rounded(estimate)));
        let line = format!("  {what}{hint} …");
        print!("{line}");
        if !std::io::stdout().is_terminal() {
            println!();
        }
        std::io::stdout().flush()?;
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        let clear = if std::io::stdout().is_terminal() {
            "\r\x1b[K"
        } else {
            ""
        };
        match &result {
            Ok(_) => println!("{clear}  {:<56} {:>8}", what, shown(took)),
            Err(_) => println!("{clear}  {:<56} {:>8}  failed", what, shown(took)),
        }
        self.done.push((what.to_owned(), took));
        result
    }

    /// What was done, in order.
    pub fn done(&self) -> &[(String, Duration)] {
        &self.done
    }

    /// Since the first step.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// `0.4 s`, `12.3 s`, `3 min 51 s`.
pub fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 100.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {} s", seconds as u64 / 60, seconds as u64 % 60)
    }
}

fn rounded(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..90 => format!("{seconds} s"),
        seconds => format!("{} min", (seconds + 30) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(shown(Duration::from_millis(440)), "0.4 s");
        assert_eq!(shown(Duration::from_secs(231)), "3 min 51 s");
        assert_eq!(rounded(Duration::from_secs(89)), "89 s");
        assert_eq!(rounded(Duration::from_secs(526)), "9 min");
    }
}
