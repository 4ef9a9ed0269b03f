//! How a long job is shown: a bar on a terminal, plain lines otherwise, JSON lines with `--json`.
//!
//! Rule: results go to standard output, progress to standard error, except with `--json`, where every line is a JSON
//! object on standard output. The terminal's modes are never changed and the cursor is never hidden, so there is
//! nothing to put back after an exit, a signal or a panic. Not here: what is shown ([`crate::view`]).

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::view;

/// Plain lines are for logs: one now and then is enough.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// A table that is narrower says nothing.
const WIDTH_MIN: usize = 20;
/// Wider than any table: the names of all nodes of the largest mesh.
const WIDTH_MAX: usize = 1 << 20;

/// Where a command's words go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    /// `--json`.
    pub json: bool,
}

impl Out {
    /// A result for people; nothing with `--json`.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn say(self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { print(text) }
    }

    /// A result for scripts, one line; nothing without `--json`.
    ///
    /// # Errors
    /// If standard output is closed.
    pub fn json(self, value: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        print(&serde_json::to_string(value).map_err(io::Error::other)?)
    }

    /// A remark that is no result, for people.
    pub fn note(self, text: &str) {
        if !self.json {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Shows one job of `total` steps of `unit` bytes.
    pub fn job(self, title: &str, total: u64) -> Job {
        Job::new(self, &bars(self), title, total)
    }
}

/// Bars that stand below each other, or nowhere if there is no terminal.
pub fn bars(out: Out) -> MultiProgress {
    let target = if out.json || !io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr_with_hz(10)
    };
    MultiProgress::with_draw_target(target)
}

/// Text to standard output, with a line end.
///
/// # Errors
/// If standard output is closed.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// How wide tables may be: the terminal's width. In a file or a pipe nothing is cut, unless `COLUMNS` says so.
pub fn width() -> usize {
    if !io::stdout().is_terminal() {
        return std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).unwrap_or(WIDTH_MAX).max(WIDTH_MIN);
    }
    let (_, columns) = console::Term::stdout().size();
    usize::from(columns).max(WIDTH_MIN)
}

/// How many lines the terminal has, if it is one.
pub fn height() -> Option<usize> {
    let (lines, _) = console::Term::stdout().size_checked()?;
    Some(usize::from(lines))
}

/// One long job on its way, counted in bytes.
#[derive(Debug)]
pub struct Job {
    out: Out,
    title: String,
    bar: ProgressBar,
    total: u64,
    shown: Option<(Instant, String)>,
}

impl Job {
    /// A job among others.
    pub fn new(out: Out, bars: &MultiProgress, title: &str, total: u64) -> Self {
        let style = ProgressStyle::with_template("{prefix:<16!} {bar:20} {percent:>3} %  {wide_msg}")
            .expect("the template is well-formed");
        let bar = bars.add(ProgressBar::new(total.max(1)).with_style(style.progress_chars("=> ")));
        bar.set_prefix(title.to_owned());
        Self { out, title: title.to_owned(), bar, total, shown: None }
    }

    /// `done` bytes of all; what is being done, and figures that change all the time.
    pub fn set(&mut self, done: u64, doing: &str, figures: &str) {
        let words = if figures.is_empty() { doing.to_owned() } else { format!("{doing}, {figures}") };
        self.bar.set_position(done.min(self.total));
        self.bar.set_message(words.clone());
        if !self.bar.is_hidden() || self.out.json {
            return;
        }
        if self.shown.as_ref().is_none_or(|(at, before)| at.elapsed() >= PLAIN_EVERY || before != doing) {
            self.shown = Some((Instant::now(), doing.to_owned()));
            let percent = done.saturating_mul(100).checked_div(self.total).unwrap_or(100);
            self.out.note(&format!("{}: {percent} % of {}, {words}", self.title, view::size(self.total)));
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// A job at which several threads work: they report out of order, and the bar goes one way.
#[derive(Debug)]
pub struct SharedJob {
    doing: &'static str,
    job: Mutex<(Job, u64)>,
}

impl SharedJob {
    /// A job that is called `doing` while it goes on.
    pub fn new(job: Job, doing: &'static str) -> Self {
        Self { doing, job: Mutex::new((job, 0)) }
    }

    /// So many bytes are done, at least.
    pub fn reach(&self, done: u64) {
        let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        if job.1 < done {
            job.1 = done;
            job.0.set(done, self.doing, &view::size(done));
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.job.lock().unwrap_or_else(PoisonError::into_inner).0.clear();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.bar.is_finished() {
            self.bar.abandon();
        }
    }
}
