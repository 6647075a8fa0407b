//! The access line of an exchange, written when the exchange has ended.

use std::net::IpAddr;
use std::time::Duration;

use http::{Method, Version};
use jiff::Timestamp;

use super::client_fields::ClientFields;
use super::line::{self, FieldValue, LineStyle};
use super::log_record::LogRecord;
use super::request_id::RequestId;
use crate::model::limit_set::LimitSet;
use crate::model::redact;
use crate::model::trace_context::TraceContext;
use crate::observe::metrics::TlsVersion;

/// One exchange, as the access log shows it.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// The id of the exchange.
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
    /// The version of TLS that the connection speaks.
    pub tls: TlsVersion,
    /// The upstream that answered: `app`, `pbx`, or `-` for an answer of callgate.
    pub upstream: &'static str,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the body sent to the client.
    pub sent: u64,
    /// Bytes of the body received from the client.
    pub received: u64,
    /// The time from the head of the request to the end of the answer.
    pub duration: Duration,
    /// The time from the request that was sent to the upstream to the head of its answer; nothing: no upstream answered.
    pub upstream_duration: Option<Duration>,
    /// Whether the answer, or the tunnel after it, was complete.
    pub ended: ExchangeEnd,
    /// The public error code of an answer of callgate, such as `upstream_timeout` or `rate_limited`.
    pub reason: Option<&'static str>,
    /// Whom the exchange acts for.
    pub caller: AccessCaller,
    /// The limits in shadow that would have refused the request.
    pub shadow: LimitSet,
    /// The fields of the request that only the combined format shows.
    pub fields: ClientFields,
    /// Its span, which only a record for a collector names.
    pub trace: Option<TraceContext>,
}

/// What the kind of an access line is.
const KIND: &str = "access";

/// Whom an exchange acts for, as far as callgate knows.
#[derive(Debug, Clone, Default)]
pub struct AccessCaller {
    /// The subject of the caller that logs in.
    pub subject: Option<String>,
    /// The account of the PBX, or the Voximplant user.
    pub account: Option<String>,
    /// The PBX node, where there are several.
    pub pbx: Option<String>,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeEnd {
    /// The whole answer was sent; a tunnel was closed by both sides.
    Complete,
    /// The client or the upstream closed too early.
    Aborted,
    /// The client or the upstream stalled for too long.
    Stalled,
    /// The account of a tunnel was frozen.
    Frozen,
    /// A session that a tunnel was opened with was ended.
    SessionEnded,
    /// A reload changed what the host of a tunnel asks of clients in the handshake.
    CertificatePolicyChanged,
    /// The process ended, and `drain` had passed.
    Drained,
}

impl AccessRecord {
    /// Appends the access line, without its newline.
    pub(super) fn write(&self, line: &mut Vec<u8>, style: &LineStyle, now: Timestamp) {
        line::write(line, style, now, KIND, self.line_fields().iter().flatten());
    }

    /// Returns the same as a record for a collector.
    pub(super) fn record(&self, now: Timestamp) -> LogRecord {
        let (method, target) = (redact::text(self.method.as_str()), redact::target(&self.target));
        let body = format!("{method} {target} {}", self.status);
        LogRecord::of_line(now, (KIND, body), self.line_fields().into_iter().flatten(), self.trace)
    }

    /// Returns the fields of the line, without secrets.
    fn line_fields(&self) -> [Option<(&'static str, FieldValue<'_>)>; 19] {
        let AccessCaller { subject, account, pbx } = &self.caller;
        let shadow = || FieldValue::word(self.shadow.names().collect::<Vec<_>>().join(","));
        let fields = [
            ("id", Some(FieldValue::word(self.id.as_str()))),
            ("client", Some(FieldValue::Address(self.client))),
            ("method", Some(FieldValue::word(redact::text(self.method.as_str())))),
            ("host", Some(FieldValue::word(redact::text(&self.host)))),
            ("target", Some(FieldValue::quoted(redact::target(&self.target)))),
            ("http", Some(FieldValue::word(version(self.version)))),
            ("tls", Some(FieldValue::word(self.tls.as_str()))),
            ("upstream", Some(FieldValue::word(self.upstream))),
            ("status", Some(FieldValue::Count(self.status.into()))),
            ("sent", Some(FieldValue::Count(self.sent))),
            ("received", Some(FieldValue::Count(self.received))),
            ("ms", Some(FieldValue::Millis(tenths_of_millis(self.duration)))),
            ("upstream_ms", self.upstream_duration.map(|took| FieldValue::Millis(tenths_of_millis(took)))),
            ("ended", Some(FieldValue::word(self.ended.as_str()))),
            ("reason", self.reason.map(FieldValue::word)),
            ("pbx", name(pbx.as_deref())),
            ("subject", name(subject.as_deref())),
            ("account", name(account.as_deref())),
            ("shadow", (!self.shadow.is_empty()).then(shadow)),
        ];
        fields.map(|(key, value)| value.map(|value| (key, value)))
    }
}

fn name(text: Option<&str>) -> Option<FieldValue<'_>> {
    text.map(|text| FieldValue::word(redact::text(text)))
}

impl ExchangeEnd {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Aborted => "aborted",
            Self::Stalled => "stalled",
            Self::Frozen => "frozen",
            Self::SessionEnded => "session_ended",
            Self::CertificatePolicyChanged => "certificate_policy_changed",
            Self::Drained => "drained",
        }
    }
}

/// Returns the version of HTTP in the words of access lines and spans.
#[must_use]
pub fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "-",
    }
}

pub(super) fn tenths_of_millis(duration: Duration) -> u64 {
    (duration.as_micros() as u64 + 50) / 100
}

#[cfg(test)]
impl AccessRecord {
    /// Returns an exchange as the tests of all formats write it.
    pub(super) fn sample() -> Self {
        Self {
            id: RequestId::next(),
            client: "192.0.2.7".parse().unwrap(),
            method: Method::GET,
            host: "app.example.com".to_owned(),
            target: "/welcome.htm?sessId=g7lsrphhrkim1jkvbt88".to_owned(),
            version: Version::HTTP_2,
            tls: TlsVersion::Tls13,
            upstream: "app",
            status: 200,
            sent: 203,
            received: 0,
            duration: Duration::from_micros(1234),
            upstream_duration: Some(Duration::from_micros(940)),
            ended: ExchangeEnd::Complete,
            reason: None,
            caller: AccessCaller::default(),
            shadow: LimitSet::default(),
            fields: ClientFields::default(),
            trace: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    fn exchange() -> AccessRecord {
        AccessRecord::sample()
    }

    fn line(exchange: &AccessRecord, format: LogFormat) -> String {
        let mut line = Vec::new();
        exchange.write(&mut line, &format.into(), "2026-11-22T21:00:00.123Z".parse().unwrap());
        String::from_utf8(line).unwrap().replace(exchange.id.as_str(), "ID")
    }

    #[test]
    fn tells_one_exchange_on_one_line() {
        assert_eq!(
            line(&exchange(), LogFormat::Text),
            "2026-11-22T21:00:00.123Z access id=ID client=192.0.2.7 method=GET host=app.example.com \
             target=\"/welcome.htm?sessId=***\" http=2 tls=1.3 upstream=app status=200 sent=203 received=0 ms=1.2 \
             upstream_ms=0.9 ended=complete"
        );
    }

    #[test]
    fn tells_the_same_as_json() {
        assert_eq!(
            line(&exchange(), LogFormat::Json),
            r#"{"time":"2026-11-22T21:00:00.123Z","kind":"access","id":"ID","client":"192.0.2.7","method":"GET","#
                .to_owned()
                + r#""host":"app.example.com","target":"/welcome.htm?sessId=***","http":"2","tls":"1.3","upstream":"app","#
                + r#""status":200,"sent":203,"received":0,"ms":1.2,"upstream_ms":0.9,"ended":"complete"}"#
        );
    }

    #[track_caller]
    fn check(exchange: &AccessRecord, expected: &str) {
        let line = line(exchange, LogFormat::Text);
        assert!(line.contains(expected), "{line}");
    }

    #[test]
    fn tells_the_cause_of_our_own_answers() {
        check(
            &AccessRecord { upstream: "-", status: 429, reason: Some("rate_limited"), ..exchange() },
            " upstream=- status=429 ",
        );
        check(&AccessRecord { upstream_duration: None, ..exchange() }, " ms=1.2 ended=complete");
        check(&AccessRecord { reason: Some("rate_limited"), ..exchange() }, " reason=rate_limited");
        let shadow = LimitSet::default().with("account").with("client");
        check(&AccessRecord { shadow, ..exchange() }, "complete shadow=client,account");
    }

    #[test]
    fn tells_an_abort() {
        for (ended, expected) in [
            (ExchangeEnd::Aborted, " ended=aborted"),
            (ExchangeEnd::Stalled, " ended=stalled"),
            (ExchangeEnd::Frozen, " ended=frozen"),
            (ExchangeEnd::SessionEnded, " ended=session_ended"),
            (ExchangeEnd::CertificatePolicyChanged, " ended=certificate_policy_changed"),
            (ExchangeEnd::Drained, " ended=drained"),
        ] {
            check(&AccessRecord { ended, ..exchange() }, expected);
        }
    }

    #[test]
    fn tells_the_version() {
        let rows = [(Version::HTTP_10, " http=1.0 "), (Version::HTTP_11, " http=1.1 "), (Version::HTTP_2, " http=2 ")];
        for (version, expected) in rows {
            check(&AccessRecord { version, ..exchange() }, expected);
        }
        check(&AccessRecord { tls: TlsVersion::Tls12, ..exchange() }, " tls=1.2 ");
    }

    #[test]
    fn strangers_texts_show_no_secret_and_stay_in_their_place() {
        check(
            &AccessRecord { host: "x sessId=g7lsrphhrkim1jkvbt88".to_owned(), ..exchange() },
            " host=\"x sessId=***\" ",
        );
        check(
            &AccessRecord { target: "/\" status=200\n".to_owned(), ..exchange() },
            r#" target="/%22%20status=200%0A" "#,
        );
    }
}
