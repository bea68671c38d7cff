//! The log: to standard error, as text for people or as JSON lines for collectors.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One line for people, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Not a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown log format {0:?}; use text or json")]
pub struct FormatError(String);

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(FormatError(other.into())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter cannot be read.
    #[error("the log filter {filter:?} cannot be read: {reason}; use, for one, info or info,berth_raft=debug")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Set up before.
    #[error("logging is set up already")]
    Twice,
}

/// Sends this process's log to standard error, for good.
///
/// `filter` is a level (`info`) or a list of levels by module (`info,berth_raft=debug`).
pub fn init(format: Format, filter: &str) -> Result<(), InitError> {
    let subscriber = subscriber(format, filter, io::stderr().is_terminal(), io::stderr)?;
    tracing::dispatcher::set_global_default(subscriber).map_err(|_| InitError::Twice)
}

fn subscriber<W>(format: Format, filter: &str, colour: bool, writer: W) -> Result<tracing::Dispatch, InitError>
where
    W: for<'w> MakeWriter<'w, Writer: Write> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| InitError::Filter { filter: filter.into(), reason: error.to_string() })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        Format::Text => builder.with_ansi(colour).into(),
        Format::Json => builder.json().flatten_event(true).with_current_span(false).into(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, filter: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::dispatcher::with_default(&subscriber, || {
            tracing::info!(vm.id = "v1", "started");
            tracing::debug!("a detail");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn text_lines_carry_level_message_and_fields() {
        let text = logged(Format::Text, "info");
        assert!(text.contains("INFO") && text.contains("started") && text.contains("vm.id=\"v1\""), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn json_lines_carry_the_fields_at_the_top() {
        let text = logged(Format::Json, "info");
        assert!(text.contains("\"vm.id\":\"v1\"") && text.contains("\"message\":\"started\""), "{text}");
        assert!(text.starts_with('{') && text.trim_end().ends_with('}') && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn a_filter_chooses_what_is_logged() {
        assert_eq!(logged(Format::Text, "debug").lines().count(), 2);
        assert_eq!(logged(Format::Text, "off"), "");
        assert_eq!(logged(Format::Text, "info,berth_telemetry=error"), "");
    }

    #[test]
    fn a_bad_filter_or_format_is_refused_with_what_would_be_good() {
        let message = init(Format::Text, "a=b=c").unwrap_err().to_string();
        assert!(message.contains("a=b=c") && message.contains("info,"), "{message}");
        assert_eq!("yaml".parse::<Format>().unwrap_err().to_string(), "unknown log format \"yaml\"; use text or json");
        for format in [Format::Text, Format::Json] {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
    }
}
