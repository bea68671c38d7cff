//! Where words go: data to standard output, talk to standard error.

use std::io::{self, IsTerminal, Write};

use crate::failure::Failure;

/// The two streams and how they may look.
pub(crate) struct Printer {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    talk: Talk,
    colour_out: bool,
    colour_err: bool,
}

/// What may be said beside data and errors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Talk {
    /// Nothing.
    None,
    /// Lines.
    Lines,
    /// To a terminal, where a line may be drawn again.
    Terminal,
}

impl Printer {
    /// The streams of this process. Colour only on a terminal, and never with `--no-color` or `NO_COLOR`.
    pub(crate) fn of_process(quiet: bool, no_color: bool) -> Self {
        let colour = !no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            talk: match (quiet, io::stderr().is_terminal()) {
                (true, _) => Talk::None,
                (false, false) => Talk::Lines,
                (false, true) => Talk::Terminal,
            },
            colour_out: colour && io::stdout().is_terminal(),
            colour_err: colour && io::stderr().is_terminal(),
        }
    }

    /// Into memory: what was printed as data, and as talk.
    #[cfg(test)]
    pub(crate) fn to_memory() -> (Self, Memory, Memory) {
        let (out, err) = (Memory::default(), Memory::default());
        let printer = Self {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            talk: Talk::Lines,
            colour_out: false,
            colour_err: false,
        };
        (printer, out, err)
    }

    /// Data.
    pub(crate) fn data(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Data that is no text of ours: what a guest wrote.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes)?;
        Ok(self.out.flush()?)
    }

    /// A remark; nothing with `--quiet`. A standard error that is closed is no reason to fail.
    pub(crate) fn note(&mut self, text: &str) {
        if self.talk != Talk::None {
            let _ = writeln!(self.err, "{text}");
        }
    }

    /// How others may remark something; nothing with `--quiet`.
    pub(crate) fn remarks(&self) -> fn(&str) {
        if self.talk == Talk::None {
            |_| {}
        } else {
            |text| {
                let _ = writeln!(io::stderr(), "{text}");
            }
        }
    }

    /// An error, with `--quiet` too.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        let _ = self.err.write_all(failure.render(self.colour_err).as_bytes());
    }

    /// Whether data may be coloured.
    pub(crate) const fn colour(&self) -> bool {
        self.colour_out
    }

    /// Whether talk goes to a person's terminal and is wanted.
    pub(crate) fn animated(&self) -> bool {
        self.talk == Talk::Terminal
    }
}

/// What a test reads afterwards.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Memory(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

#[cfg(test)]
impl Memory {
    /// All of it.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[cfg(test)]
impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
