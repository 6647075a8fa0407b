//! The certificates that callgate shows, with the days that they are valid.

use jiff::Timestamp;

use super::diagnosis::Fault;
use super::finding::{Finding, PartVerdict};
use crate::acme;
use crate::config::{AcmeConfig, Certificate, Config};
use crate::observe::causes;
use crate::state::{OpenError, Store};

/// Returns a finding for each certificate, and for each file of one that cannot be read.
pub(super) fn findings(config: &Config, now: Timestamp) -> Vec<Finding> {
    let unread = config.certificate_problems.iter();
    let unread = unread.map(|problem| Finding::of_problem("tls", problem, PartVerdict::Fail(Fault::Configuration)));
    config.certificates.iter().map(|certificate| of_certificate(certificate, now)).chain(unread).collect()
}

/// Returns a finding for each name whose certificate callgate gets by itself, as the state file has it.
pub(super) fn issued(config: &Config, now: Timestamp) -> Vec<Finding> {
    let Some((acme, state)) = config.acme.as_ref().zip(config.state.as_deref()) else { return Vec::new() };
    let found = |answer: String, verdict| Finding::of_file("tls.acme", &state.display(), answer, verdict);
    match Store::read_copy(state) {
        Ok(store) => of_names(acme, &store, now).into_iter().map(|(answer, verdict)| found(answer, verdict)).collect(),
        Err(OpenError::Locked(_)) => {
            let answer = "the gate that runs has the file open: `callgate status` and /status show its certificates";
            vec![found(answer.to_owned(), PartVerdict::Note)]
        }
        Err(error) => vec![found(causes(&error), PartVerdict::Note)],
    }
}

fn of_names(acme: &AcmeConfig, store: &Store, now: Timestamp) -> Vec<(String, PartVerdict)> {
    let of_name = |(name, end): (String, Option<Timestamp>)| match end {
        None => (format!("there is no certificate for {name} yet"), PartVerdict::Note),
        Some(end) if end <= now => (format!("the certificate for {name} expired at {end}"), PartVerdict::Warning),
        Some(end) => {
            let days = end.duration_since(now).as_hours() / 24;
            (format!("the certificate for {name}: {days} days left, until {end}"), PartVerdict::Ok)
        }
    };
    acme::kept_ends(acme, store).into_iter().map(of_name).collect()
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
