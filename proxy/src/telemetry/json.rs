//! Log lines as JSON, written while an event is visited: one is due for each request, and building a tree of values first took
//! a fifth of a request's time.

use std::fmt::{self, Write};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

/// `timestamp`, `level` where it tells something, the event's own fields, `target`.
#[derive(Debug)]
pub struct Json {
    /// Whether lines have their level.
    pub level: bool,
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        writer.write_char('"')?;
        if self.level {
            write!(writer, ",\"level\":\"{}\"", meta.level())?;
        }
        let mut fields = Fields {
            writer: &mut writer,
            result: Ok(()),
        };
        event.record(&mut fields);
        fields.text("target", meta.target());
        fields.result?;
        writer.write_str("}\n")
    }
}

struct Fields<'a, 'w> {
    writer: &'a mut Writer<'w>,
    result: fmt::Result,
}

impl Fields<'_, '_> {
    fn member(&mut self, name: &str, write: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let result = self.result.and_then(|()| {
            self.writer.write_str(",\"")?;
            Escaped(&mut *self.writer).write_str(name)?;
            self.writer.write_str("\":")?;
            write(self.writer)
        });
        self.result = result;
    }

    fn text(&mut self, name: &str, text: &str) {
        self.member(name, |writer| {
            writer.write_char('"')?;
            Escaped(&mut *writer).write_str(text)?;
            writer.write_char('"')
        });
    }

    fn literal(&mut self, field: &Field, value: impl fmt::Display) {
        self.member(field.name(), |writer| write!(writer, "{value}"));
    }
}

impl Visit for Fields<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.member(field.name(), |writer| {
            writer.write_char('"')?;
            write!(Escaped(&mut *writer), "{value:?}")?;
            writer.write_char('"')
        });
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match value.is_finite() {
            true => self.literal(field, value),
            false => self.literal(field, "null"),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.literal(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.literal(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.literal(field, value);
    }
}

/// Inside of a JSON string (RFC 8259, section 7).
struct Escaped<'a, W>(&'a mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, byte) in text.bytes().enumerate() {
            if !matches!(byte, b'"' | b'\\' | 0..0x20) {
                continue;
            }
            self.0.write_str(&text[plain..at])?;
            match byte {
                b'"' => self.0.write_str("\\\"")?,
                b'\\' => self.0.write_str("\\\\")?,
                b'\n' => self.0.write_str("\\n")?,
                _ => write!(self.0, "\\u{byte:04x}")?,
            }
            plain = at + 1;
        }
        self.0.write_str(&text[plain..])
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use parking_lot::Mutex;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(level: bool, event: impl FnOnce()) -> Value {
        let log = Log::default();
        let lines = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Json { level })
            .with_writer(move || lines.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, event);
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    #[test]
    fn a_line_has_each_field_as_what_it_is() {
        let mut got = line(true, || {
            tracing::warn!(
                target: "there",
                text = "a \"b\"",
                client.addr = %"::1",
                version = ?http::Version::HTTP_11,
                count = 3_u64,
                below = -3,
                ms = 0.25,
                nothing = f64::NAN,
                on = true,
                "What happened"
            );
        });
        let timestamp = got.as_object_mut().unwrap().remove("timestamp").unwrap();
        timestamp.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let want = json!({
            "level": "WARN", "message": "What happened", "target": "there", "client.addr": "::1", "text": "a \"b\"",
            "version": "HTTP/1.1", "count": 3, "below": -3, "ms": 0.25, "nothing": null, "on": true,
        });
        assert_eq!(got, want);
        assert!(line(false, || tracing::info!("x")).get("level").is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(text in any::<String>()) {
            let got = line(false, || tracing::info!(shown = %text, plain = text, "m"));
            prop_assert_eq!(&got["shown"], &Value::from(text.clone()));
            prop_assert_eq!(&got["plain"], &Value::from(text));
        }
    }
}
