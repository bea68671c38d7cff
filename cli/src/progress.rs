//! What a person sees while a command waits: a spinner on a terminal, else a line for each change.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::printer::Printer;

/// Progress of one wait. Says each thing once.
pub(crate) struct Progress<'a> {
    printer: &'a mut Printer,
    spinner: Option<ProgressBar>,
    last: String,
}

impl<'a> Progress<'a> {
    /// Begins; nothing is shown before the first word.
    pub(crate) fn new(printer: &'a mut Printer) -> Self {
        let spinner = printer.animated().then(|| {
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner
        });
        Self { printer, spinner, last: String::new() }
    }

    /// Says what is waited for now.
    pub(crate) fn say(&mut self, text: String) {
        if text == self.last {
            return;
        }
        match &self.spinner {
            Some(spinner) => spinner.set_message(text.clone()),
            None => self.printer.note(&text),
        }
        self.last = text;
    }

    /// What was said last.
    pub(crate) fn last(&self) -> &str {
        &self.last
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
