//! Access lines in the combined format of Apache, which many programs read.

use std::io::Write;

use jiff::Timestamp;

use super::access::{AccessRecord, version};
use super::passed_connection::PassthroughRecord;
use crate::model::redact;

/// The status of an exchange without an answer, as nginx writes it: the client left before.
const NO_ANSWER: u16 = 499;

/// Appends the line of an exchange, without its newline.
pub(super) fn write(line: &mut Vec<u8>, record: &AccessRecord, now: Timestamp) {
    let user = record.caller.account.as_ref().or(record.caller.subject.as_ref());
    begin(line, &record.client, user.map(String::as_str), now);
    escape(line, &redact::text(record.method.as_str()));
    line.push(b' ');
    escape(line, &redact::target(&record.target));
    let version = version(record.version);
    let version = if version == "2" { "2.0" } else { version };
    let status = if record.status == 0 { NO_ANSWER } else { record.status };
    // Writing to memory does not fail.
    let _ = write!(line, " HTTP/{version}\" {status} ");
    size(line, record.sent);
    for text in [&record.fields.referer, &record.fields.user_agent] {
        line.extend_from_slice(b" \"");
        escape(line, text.as_deref().unwrap_or("-"));
        line.push(b'"');
    }
}

/// Appends the line of a connection that was passed on, as if a client had asked a proxy for it.
pub(super) fn write_passed(line: &mut Vec<u8>, record: &PassthroughRecord, now: Timestamp) {
    begin(line, &record.client, None, now);
    line.extend_from_slice(b"CONNECT ");
    escape(line, &record.name);
    let status = if record.reason.is_some() { 502 } else { 200 };
    let _ = write!(line, ":443 TLS\" {status} ");
    size(line, record.sent);
    line.extend_from_slice(b" \"-\" \"-\"");
}

/// Appends all that stands before the request.
fn begin(line: &mut Vec<u8>, client: &std::net::IpAddr, user: Option<&str>, now: Timestamp) {
    let _ = write!(line, "{client} - ");
    for byte in redact::text(user.unwrap_or("-")).bytes() {
        match byte {
            // A user is not in quotes: a space would end it.
            b' ' | b'"' | b'\\' => drop(write!(line, "\\x{byte:02x}")),
            byte => escape_byte(line, byte),
        }
    }
    let _ = write!(line, " [{}] \"", now.strftime("%d/%b/%Y:%H:%M:%S +0000"));
}

/// Appends a number of bytes; `-` for none, as Apache does.
fn size(line: &mut Vec<u8>, bytes: u64) {
    let _ = if bytes == 0 { write!(line, "-") } else { write!(line, "{bytes}") };
}

/// Appends a text that stands in quotes, escaped as Apache escapes it: it cannot leave its quotes or its line.
fn escape(line: &mut Vec<u8>, text: &str) {
    text.bytes().for_each(|byte| escape_byte(line, byte));
}

fn escape_byte(line: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
        b' '..=b'~' => line.push(byte),
        byte => drop(write!(line, "\\x{byte:02x}")),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Version, header};

    use super::*;
    use crate::observe::access::{AccessCaller, ExchangeEnd};
    use crate::observe::client_fields::ClientFields;
    use crate::observe::request_id::RequestId;

    fn fields(referer: &'static str, user_agent: &'static str) -> ClientFields {
        let mut headers = HeaderMap::new();
        headers.insert(header::REFERER, HeaderValue::from_bytes(referer.as_bytes()).unwrap());
        headers.insert(header::USER_AGENT, HeaderValue::from_bytes(user_agent.as_bytes()).unwrap());
        ClientFields::of(&headers)
    }

    fn exchange() -> AccessRecord {
        AccessRecord { client: "2001:db8::7".parse().unwrap(), ..AccessRecord::sample() }
    }

    #[track_caller]
    fn check(exchange: &AccessRecord, expected: &str) {
        let mut line = Vec::new();
        write(&mut line, exchange, "2026-11-02T21:00:00.9Z".parse().unwrap());
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn a_line_is_that_of_apache() {
        let caller = AccessCaller { account: Some("40@acme.test".to_owned()), ..AccessCaller::default() };
        let fields = fields("https://crm.test/a?token=abc&b=1", "Mozilla/5.0 (X11)");
        check(
            &AccessRecord { caller, fields, ..exchange() },
            "2001:db8::7 - 40@acme.test [02/Nov/2026:21:00:00 +0000] \"GET /welcome.htm?sessId=*** HTTP/2.0\" 200 203 \
             \"https://crm.test/a?token=***&b=1\" \"Mozilla/5.0 (X11)\"",
        );
        check(
            &AccessRecord { status: 0, sent: 0, version: Version::HTTP_11, ..exchange() },
            "2001:db8::7 - - [02/Nov/2026:21:00:00 +0000] \"GET /welcome.htm?sessId=*** HTTP/1.1\" 499 - \"-\" \"-\"",
        );
    }

    #[test]
    fn no_text_leaves_its_place() {
        let caller = AccessCaller { subject: Some("a [b] \"c".to_owned()), ..AccessCaller::default() };
        let fields = fields("https://a.test/\" 200 1 \"", "x\" \"y\\\té");
        check(
            &AccessRecord { caller, fields, target: "/\" 1\n".to_owned(), ..exchange() },
            "2001:db8::7 - a\\x20[b]\\x20\\x22c [02/Nov/2026:21:00:00 +0000] \"GET /%22%201%0A HTTP/2.0\" 200 203 \
             \"https://a.test/%22%20200%201%20%22\" \"x\\\" \\\"y\\\\\\\\t\\xc3\\xa9\"",
        );
    }

    #[test]
    fn a_connection_that_was_passed_on_looks_like_a_tunnel() {
        let record = PassthroughRecord {
            id: RequestId::next(),
            client: "192.0.2.7".parse().unwrap(),
            name: "phones.test".to_owned(),
            to: "192.0.2.1:443".into(),
            sent: 9,
            received: 0,
            duration: std::time::Duration::ZERO,
            ended: ExchangeEnd::Complete,
            reason: None,
        };
        let mut line = Vec::new();
        write_passed(&mut line, &record, Timestamp::UNIX_EPOCH);
        let expected = "192.0.2.7 - - [01/Jan/1970:00:00:00 +0000] \"CONNECT phones.test:443 TLS\" 200 9 \"-\" \"-\"";
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }
}
