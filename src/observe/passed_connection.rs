//! The line of a connection that was passed on before TLS, written to the access log when the connection has ended.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::access::{ExchangeEnd, tenths_of_millis};
use super::line::{self, FieldValue, LineStyle};
use super::log_record::LogRecord;
use super::request_id::RequestId;

/// One connection that was passed on, as the access log shows it.
#[derive(Debug, Clone)]
pub struct PassthroughRecord {
    /// The id of the connection.
    pub id: RequestId,
    /// The address of the client.
    pub client: IpAddr,
    /// The name that the client asked for (SNI), as `names` of the configuration covers it.
    pub name: String,
    /// Where the connection was passed on to.
    pub to: Arc<str>,
    /// Bytes sent to the client.
    pub sent: u64,
    /// Bytes received from the client.
    pub received: u64,
    /// The time from the client's first message to the end.
    pub duration: Duration,
    /// How the connection ended.
    pub ended: ExchangeEnd,
    /// Why it ended, where `ended` leaves that open.
    pub reason: Option<&'static str>,
}

/// What the kind of the line is.
const KIND: &str = "passthrough";

impl PassthroughRecord {
    /// Appends the line, without its newline.
    pub(super) fn write(&self, line: &mut Vec<u8>, style: &LineStyle, now: Timestamp) {
        line::write(line, style, now, KIND, &self.fields()[..self.told()]);
    }

    /// Returns the same as a record for a collector.
    pub(super) fn record(&self, now: Timestamp) -> LogRecord {
        let body = format!("{KIND} {}", self.name);
        LogRecord::of_line(now, (KIND, body), self.fields().into_iter().take(self.told()), None)
    }

    fn fields(&self) -> [(&'static str, FieldValue<'_>); 9] {
        [
            ("id", FieldValue::word(self.id.as_str())),
            ("client", FieldValue::Address(self.client)),
            ("name", FieldValue::word(self.name.as_str())),
            ("to", FieldValue::word(&*self.to)),
            ("sent", FieldValue::Count(self.sent)),
            ("received", FieldValue::Count(self.received)),
            ("ms", FieldValue::Millis(tenths_of_millis(self.duration))),
            ("ended", FieldValue::word(self.ended.as_str())),
            // Last, so that it can be left out.
            ("reason", FieldValue::word(self.reason.unwrap_or_default())),
        ]
    }

    /// Returns how many of the fields the line has.
    fn told(&self) -> usize {
        self.fields().len() - usize::from(self.reason.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    #[test]
    fn tells_one_connection_on_one_line() {
        let record = PassthroughRecord {
            id: RequestId::next(),
            client: "192.0.2.7".parse().unwrap(),
            name: "phones.example.com".to_owned(),
            to: "192.0.2.10:443".into(),
            sent: 5120,
            received: 1300,
            duration: Duration::from_millis(61_204),
            ended: ExchangeEnd::Complete,
            reason: None,
        };
        let line = |record: &PassthroughRecord, format: LogFormat| {
            let mut line = Vec::new();
            record.write(&mut line, &format.into(), "2026-11-22T21:00:00.123Z".parse().unwrap());
            String::from_utf8(line).unwrap().replace(record.id.as_str(), "ID")
        };
        assert_eq!(
            line(&record, LogFormat::Text),
            "2026-11-22T21:00:00.123Z passthrough id=ID client=192.0.2.7 name=phones.example.com to=192.0.2.10:443 \
             sent=5120 received=1300 ms=61204.0 ended=complete"
        );
        let refused = PassthroughRecord { ended: ExchangeEnd::Aborted, reason: Some("unreachable"), ..record };
        assert!(line(&refused, LogFormat::Json).ends_with(r#""ended":"aborted","reason":"unreachable"}"#));
    }
}
