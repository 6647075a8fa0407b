//! The certificates that callgate shows, with the days that they are valid.

use jiff::Timestamp;

use super::diagnosis::Fault;
use super::finding::{Finding, PartVerdict};
use crate::config::{Certificate, Config};

/// Returns a finding for each certificate, and for each file of one that cannot be read.
pub(super) fn findings(config: &Config, now: Timestamp) -> Vec<Finding> {
    let unread = config.certificate_problems.iter();
    let unread = unread.map(|problem| Finding::of_problem("tls", problem, PartVerdict::Fail(Fault::Configuration)));
    config.certificates.iter().map(|certificate| of_certificate(certificate, now)).chain(unread).collect()
}

fn of_certificate(certificate: &Certificate, now: Timestamp) -> Finding {
    let (name, end) = (certificate.name(), certificate.not_after);
    let days = end.duration_since(now).as_hours() / 24;
    let (verdict, answer, advice) = match certificate {
        one if one.is_expired(now) => (
            PartVerdict::Fail(Fault::Configuration),
            format!("the certificate for {name} expired at {end}"),
            Some("renew it: clients that it is shown to refuse it"),
        ),
        one if one.is_overdue(now) => (
            PartVerdict::Warning,
            format!("the certificate for {name}: {days} days left, until {end}"),
            Some("renew it, and look why that was not done by now"),
        ),
        _ => (PartVerdict::Ok, format!("the certificate for {name}: {days} days left, until {end}"), None),
    };
    let file = certificate.files.cert.display();
    Finding { advice: advice.map(str::to_owned), ..Finding::of_file("tls", &file, answer, verdict) }
}
