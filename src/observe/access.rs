//! One line for each exchange, written when it has ended.

use std::net::IpAddr;
use std::time::Duration;

use http::{Method, Version};
use jiff::Timestamp;

use super::line::{self, Value};
use super::request_id::RequestId;
use crate::config::LogFormat;
use crate::model::redact;

/// What is told about one exchange.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The name of the exchange.
    pub id: RequestId,
    /// The address of the client.
    pub client: IpAddr,
    /// The method of the request.
    pub method: Method,
    /// The host the request names, without its port.
    pub host: String,
    /// The path and query as the client wrote them; the line shows them without secrets.
    pub target: String,
    /// The version of the request.
    pub version: Version,
    /// Who answered: `app`, `pbx`, or `-` for an answer of our own.
    pub upstream: &'static str,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the body sent to the client.
    pub sent: u64,
    /// Bytes of the body received from the client.
    pub received: u64,
    /// From the head of the request to the end of the answer.
    pub duration: Duration,
    /// Whether the answer, or the tunnel behind it, came to its end.
    pub ended: Ended,
    /// The short public cause of an answer of our own, such as `upstream_timeout` or `rate_limited`.
    pub reason: Option<&'static str>,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The whole answer was sent; a tunnel was closed by both sides.
    Complete,
    /// One of the sides went away before.
    Aborted,
    /// One of the sides paused for too long.
    Stalled,
    /// The account of a tunnel was frozen.
    Frozen,
    /// The process ended, and `drain` was over.
    Drained,
}

impl Exchange {
    /// Writes the line of the access log, without its end, behind other lines.
    pub fn write(&self, line: &mut Vec<u8>, format: LogFormat, now: Timestamp) {
        let fields = [
            ("id", Value::word(self.id.as_str())),
            ("client", Value::Address(self.client)),
            ("method", Value::word(redact::text(self.method.as_str()))),
            ("host", Value::word(redact::text(&self.host))),
            ("target", Value::quoted(redact::target(&self.target))),
            ("http", Value::word(version(self.version))),
            ("upstream", Value::word(self.upstream)),
            ("status", Value::Count(self.status.into())),
            ("sent", Value::Count(self.sent)),
            ("received", Value::Count(self.received)),
            ("ms", Value::Millis(tenths_of_millis(self.duration))),
            ("ended", Value::word(self.ended.as_str())),
            // The last, so that it can be left out.
            ("reason", Value::word(self.reason.unwrap_or_default())),
        ];
        let told = fields.len() - usize::from(self.reason.is_none());
        line::write(line, format, now, "access", &fields[..told]);
    }
}

impl Ended {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Aborted => "aborted",
            Self::Stalled => "stalled",
            Self::Frozen => "frozen",
            Self::Drained => "drained",
        }
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "-",
    }
}

fn tenths_of_millis(duration: Duration) -> u64 {
    (duration.as_micros() as u64 + 50) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange() -> Exchange {
        Exchange {
            id: RequestId::next(),
            client: "192.0.2.7".parse().unwrap(),
            method: Method::GET,
            host: "app.example.com".to_owned(),
            target: "/welcome.htm?sessId=g7lsrphhrkim1jkvbt88".to_owned(),
            version: Version::HTTP_2,
            upstream: "app",
            status: 200,
            sent: 203,
            received: 0,
            duration: Duration::from_micros(1234),
            ended: Ended::Complete,
            reason: None,
        }
    }

    fn line(exchange: &Exchange, format: LogFormat) -> String {
        let mut line = Vec::new();
        exchange.write(&mut line, format, "2026-11-22T21:00:00.123Z".parse().unwrap());
        String::from_utf8(line).unwrap().replace(exchange.id.as_str(), "ID")
    }

    #[test]
    fn tells_one_exchange_on_one_line() {
        assert_eq!(
            line(&exchange(), LogFormat::Text),
            "2026-11-22T21:00:00.123Z access id=ID client=192.0.2.7 method=GET host=app.example.com \
             target=\"/welcome.htm?sessId=***\" http=2 upstream=app status=200 sent=203 received=0 ms=1.2 ended=complete"
        );
    }

    #[test]
    fn tells_the_same_as_json() {
        assert_eq!(
            line(&exchange(), LogFormat::Json),
            r#"{"time":"2026-11-22T21:00:00.123Z","kind":"access","id":"ID","client":"192.0.2.7","method":"GET","#
                .to_owned()
                + r#""host":"app.example.com","target":"/welcome.htm?sessId=***","http":"2","upstream":"app","#
                + r#""status":200,"sent":203,"received":0,"ms":1.2,"ended":"complete"}"#
        );
    }

    #[track_caller]
    fn check(exchange: &Exchange, expected: &str) {
        let line = line(exchange, LogFormat::Text);
        assert!(line.contains(expected), "{line}");
    }

    #[test]
    fn tells_the_cause_of_our_own_answers() {
        check(
            &Exchange { upstream: "-", status: 429, reason: Some("rate_limited"), ..exchange() },
            " upstream=- status=429 ",
        );
        check(&Exchange { reason: Some("rate_limited"), ..exchange() }, " reason=rate_limited");
    }

    #[test]
    fn tells_an_abort() {
        for (ended, expected) in [
            (Ended::Aborted, " ended=aborted"),
            (Ended::Stalled, " ended=stalled"),
            (Ended::Frozen, " ended=frozen"),
            (Ended::Drained, " ended=drained"),
        ] {
            check(&Exchange { ended, ..exchange() }, expected);
        }
    }

    #[test]
    fn tells_the_version() {
        let rows = [(Version::HTTP_10, " http=1.0 "), (Version::HTTP_11, " http=1.1 "), (Version::HTTP_2, " http=2 ")];
        for (version, expected) in rows {
            check(&Exchange { version, ..exchange() }, expected);
        }
    }

    #[test]
    fn strangers_texts_show_no_secret_and_stay_in_their_place() {
        check(&Exchange { host: "x sessId=g7lsrphhrkim1jkvbt88".to_owned(), ..exchange() }, " host=\"x sessId=***\" ");
        check(&Exchange { target: "/\" status=200\n".to_owned(), ..exchange() }, r#" target="/%22%20status=200%0A" "#);
    }
}
