//! A bar on standard error for statements that run jobs; nothing where that is no terminal.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::session::progress::{Progress, Watcher};

/// A watcher that draws a bar and takes it away when all jobs have ended.
pub fn bar() -> Watcher {
    if !stderr().is_terminal() {
        return Watcher::default();
    }
    let bar: Arc<Mutex<Option<ProgressBar>>> = Arc::default();
    Watcher::new(move |progress| draw(&mut bar.lock(), &progress))
}

fn draw(shown: &mut Option<ProgressBar>, progress: &Progress) {
    if progress.done >= progress.total {
        if let Some(bar) = shown.take() {
            bar.finish_and_clear();
        }
        return;
    }
    let bar = shown.get_or_insert_with(|| {
        let bar = ProgressBar::new(progress.total);
        // The template is a constant; should it ever be wrong, the plain bar will do.
        if let Ok(style) =
            ProgressStyle::with_template("{bar:32} {pos}/{len} jobs, {per_sec}, {eta} left  {msg}")
        {
            bar.set_style(style);
        }
        bar
    });
    bar.set_length(progress.total);
    bar.set_position(progress.done);
    bar.set_message(progress.text.clone());
}
