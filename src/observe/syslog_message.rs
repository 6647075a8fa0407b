//! Lines as messages: audit lines for syslog, events for the journal of systemd.

use jiff::{Timestamp, Zoned};

/// The facility `authpriv` (RFC 5424 §6.2.1), which only administrators read.
const AUTHPRIV: u8 = 10;
const NOTICE: u8 = 5;
const WARNING: u8 = 4;

/// Stands in a line for the newlines between the fields of an entry of the journal. No value has it.
pub(super) const JOURNAL_SEPARATOR: char = '\u{1e}';

/// Returns a line as an entry of the journal (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>). A line that is no event, as a note
/// about lost lines, is its message.
pub(super) fn journal(line: &str) -> String {
    let fields = line.replace(JOURNAL_SEPARATOR, "\n");
    let begin = match line.starts_with("PRIORITY=") {
        true => "".to_owned(),
        false => format!("PRIORITY={WARNING}\nSYSLOG_IDENTIFIER=callgate\nMESSAGE="),
    };
    format!("{begin}{fields}\n")
}

/// Returns the name of this machine.
pub(super) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Returns a line in the format of syslog(3), which every daemon reads at its own socket.
pub(super) fn local(line: &str) -> String {
    let (time, process) = (Zoned::now().strftime("%b %e %H:%M:%S"), std::process::id());
    format!("<{}>{time} callgate[{process}]: {line}", priority(line))
}

/// Returns a line in the format of RFC 5424 §6; the message identifier is for filters, and there is no structured data.
pub(super) fn rfc5424(host: &str, line: &str) -> String {
    let (time, process) = (Timestamp::now(), std::process::id());
    format!("<{}>1 {time:.3} {host} callgate {process} audit - {line}", priority(line))
}

fn priority(line: &str) -> u8 {
    let severity = if line.contains("\"kind\":\"audit grant\"") { NOTICE } else { WARNING };
    AUTHPRIV * 8 + severity
}
