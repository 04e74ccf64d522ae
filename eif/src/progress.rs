//! The steps of a build, as a terminal shows them.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// What a build does now, on a terminal; elsewhere nothing.
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Cell<Option<(Instant, String)>>,
}

impl Progress {
    pub(crate) fn new(log: &Path) -> Self {
        // Hidden by itself where standard error is no terminal.
        let bar = ProgressBar::new_spinner();
        bar.println(format!("what the steps say: {}", log.display()));
        let style = ProgressStyle::with_template("{spinner} {elapsed:>5}  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            bar,
            began: Cell::new(None),
        }
    }

    pub(crate) fn begins(&self, step: &str) {
        self.step_ends();
        self.bar.reset_elapsed();
        self.bar.set_message(step.to_owned());
        self.began.set(Some((Instant::now(), step.to_owned())));
    }

    fn step_ends(&self) {
        if let Some((began, step)) = self.began.take() {
            let seconds = began.elapsed().as_secs();
            self.bar.println(format!("  {seconds:>4} s  {step}"));
        }
    }

    /// All is done.
    pub(crate) fn ends(&self, done: &str) {
        self.step_ends();
        self.bar.println(done);
        self.bar.finish_and_clear();
    }

    /// What failed is said elsewhere.
    pub(crate) fn breaks_off(&self) {
        self.bar.finish_and_clear();
    }
}
