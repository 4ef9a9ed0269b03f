//! The bar of a long job, and what there is to say of terminal and memory.
//!
//! Rule: only on a terminal, only after a second, and only on standard error. The terminal's modes are never changed
//! and the cursor is never hidden; an interrupt takes the bar away before it ends the program.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is done sooner needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);
/// A bar is drawn as so many parts.
const PARTS: u64 = 1000;
/// In a narrower terminal the figures are more than a bar.
const NARROW: usize = 60;
/// The width of a table in a file.
const WIDTH_OF_FILES: usize = 200;
/// What a shell expects of who was interrupted: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// How far a job is.
pub(crate) struct Bar {
    bar: ProgressBar,
    begin: Instant,
}

impl Bar {
    /// Not shown yet.
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(PARTS), ProgressDrawTarget::hidden());
        if io::stderr().is_terminal() {
            clear_when_interrupted(bar.clone());
        }
        Self { bar, begin: Instant::now() }
    }

    /// From 0 to 1, and what is being done.
    pub(crate) fn set(&self, done: f64, words: &str) {
        if self.bar.is_hidden() {
            if self.begin.elapsed() < PATIENCE || !io::stderr().is_terminal() {
                return;
            }
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        }
        let (_, columns) = console::Term::stderr().size();
        let narrow = usize::from(columns) < NARROW;
        let template = if narrow { "{percent:>3} % {wide_msg}" } else { "{bar:20} {percent:>3} %  {wide_msg}" };
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        self.bar.set_style(style.progress_chars("=> "));
        self.bar.set_message(words.to_owned());
        self.bar.set_position((done * PARTS as f64) as u64);
    }

    /// Prints above the bar.
    pub(crate) fn hidden_while<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Waits for Ctrl-C for the rest of the program's life, beside what it does.
fn clear_when_interrupted(bar: ProgressBar) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    std::thread::spawn(move || {
        // Without a handler an interrupt just ends the program, as ever.
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            bar.finish_and_clear();
            std::process::exit(INTERRUPTED);
        }
    });
}

/// How wide tables may be.
pub(crate) fn width() -> usize {
    if io::stdout().is_terminal() { usize::from(console::Term::stdout().size().1) } else { WIDTH_OF_FILES }
}

/// The most memory that this process ever had, in bytes, where the system says it (`proc_pid_status(5)`, `VmHWM`).
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
