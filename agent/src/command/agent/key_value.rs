//! The message and the fields of a log line, as text: the message, then `key=value` for each
//! field. A value with a blank stands in quotes, so that a program finds where it ends.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// The field that tracing gives the message in.
const MESSAGE: &str = "message";

/// What a terminal shows of a key and its equals sign: the key slanted, the sign dim.
const SHOWN: [&str; 2] = ["\x1b[3m", "\x1b[0m\x1b[2m=\x1b[0m"];

/// Writes `key=value`.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyValue;

impl<'writer> FormatFields<'writer> for KeyValue {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = LogLine { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

/// A line that is being written.
struct LogLine<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    result: fmt::Result,
}

impl LogLine<'_> {
    fn push(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = self.write(field.name(), value);
        }
    }

    fn write(&mut self, name: &str, value: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_empty) {
            self.writer.write_char(' ')?;
        }
        if name == MESSAGE {
            // One event is one line, even if an object's name holds a line break.
            return value.chars().try_for_each(|sign| match sign {
                sign if sign.is_control() => write!(self.writer, "{}", sign.escape_debug()),
                sign => self.writer.write_char(sign),
            });
        }
        let name = name.strip_prefix("r#").unwrap_or(name);
        let [before, after] = if self.writer.has_ansi_escapes() { SHOWN } else { ["", "="] };
        write!(self.writer, "{before}{name}{after}{value}")
    }
}

impl Visit for LogLine<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            self.push(field, value);
        } else {
            self.push(field, &format!("{value:?}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = format!("{value:?}");
        let is_bare = |sign: char| !sign.is_whitespace() && !sign.is_control() && !matches!(sign, '"' | '=' | '\\');
        if field.name() == MESSAGE || !value.is_empty() && value.chars().all(is_bare) {
            self.push(field, &value);
        } else {
            self.push(field, &format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tracing::{info, warn};

    use super::*;

    /// What is logged, without times.
    fn logged(log: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);

        impl io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().expect("no test panicked").extend_from_slice(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().fmt_fields(KeyValue).with_ansi(false).without_time();
        let subscriber = subscriber.with_target(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = std::mem::take(&mut *lines.0.lock().expect("no test panicked"));
        String::from_utf8(bytes).expect("it is text")
    }

    #[test]
    fn each_field_is_a_key_and_a_value_that_a_program_can_split() {
        let error = io::Error::other("no space left on \"/run\"");
        let writes = "22 chains written, 3 members added";
        let lines = logged(|| {
            info!(generation = 4, %writes, took = ?Duration::from_millis(3), "programmed ruleset");
            warn!(%error, node = "node-1", empty = %"", address = %"fd00::1", "cannot write {}", "it");
        });
        assert_eq!(
            lines,
            " INFO programmed ruleset generation=4 writes=\"22 chains written, 3 members added\" took=3ms\n \
             WARN cannot write it error=\"no space left on \\\"/run\\\"\" node=\"node-1\" empty=\"\" address=fd00::1\n"
        );
    }

    #[test]
    fn an_event_is_one_line_for_any_name() {
        let name = "x\n WARN forged \x1b[2J";
        let lines = logged(|| warn!(text = %name, "a policy {name}"));
        assert_eq!(lines.matches('\n').count(), 1, "{lines}");
        assert!(!lines.contains('\x1b'), "{lines}");
    }
}
