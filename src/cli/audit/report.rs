//! `callgate audit report`: lists who logged in as an account, from where and when, and who was refused. It answers the
//! question behind a telephone bill with unknown calls.

mod table;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cli::{CommandResult, ConfigArgument, print_line, print_remark, report_error, report_problems, time_args};
use crate::config;
use crate::observe::NO_LINE;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The account, such as 40@acme.example.com, or a Voximplant user
    #[arg(long, required_unless_present = "client")]
    account: Option<String>,
    /// The address of a client: the accounts it got
    #[arg(long)]
    client: Option<String>,
    /// Start of the report: 24h, 7d, 2026-11-23, 2026-11-23T08:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = time_args::past_time)]
    since: Option<Timestamp>,
    /// End of the report
    #[arg(long, value_name = "WHEN", value_parser = time_args::past_time)]
    until: Option<Timestamp>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgument,
    /// Audit logs; - is standard input [default: the log of the configuration and its rotated files]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let files = if arguments.files.is_empty() { configured(arguments.config.path())? } else { arguments.files.clone() };
    let mut builder = ReportBuilder::default();
    for path in &files {
        let what = format!("cannot read {}", path.display());
        builder.read(path, arguments).map_err(|error| report_error(&what, &error))?;
    }
    let report = builder.report(arguments);
    if arguments.json {
        let value = serde_json::to_value(&report).map_err(|error| report_error("cannot write the report", &error))?;
        print_line(&format_args!("{value:#}"))
    } else {
        print_line(&report.to_string().trim_end_matches('\n'))
    }
}

/// Returns the audit log of a configuration after its rotated files, the oldest first.
fn configured(config: &Path) -> Result<Vec<PathBuf>, ExitCode> {
    let Some(log) = config::audit_file(config).map_err(|problems| report_problems(&problems))? else {
        let name = config.display();
        print_remark(&format_args!("callgate: {name} names no audit log: name a file, or - for standard input"));
        return Err(ExitCode::FAILURE);
    };
    let mut files = rotated(&log).map_err(|error| report_error("cannot look for older logs", &error))?;
    files.push(log);
    Ok(files)
}

/// Returns the rotated files of a log that are not compressed, the oldest first.
fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(name), Some(folder)) = (log.file_name().and_then(|name| name.to_str()), log.parent()) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let other = entry.file_name();
        let rest = other.to_str().and_then(|other| other.strip_prefix(name));
        if rest.is_some_and(|rest| rest.starts_with(['.', '-']) && rest.ends_with(|last: char| last.is_ascii_digit())) {
            found.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

// === ReportBuilder ===

/// A line of the audit log, with the fields that the report uses.
#[derive(Debug, Clone, Deserialize)]
struct AuditLine {
    time: Timestamp,
    kind: String,
    member: Option<String>,
    id: Option<String>,
    client: Option<String>,
    act: Option<String>,
    method: Option<String>,
    subject: Option<String>,
    rule: Option<String>,
    level: Option<String>,
    account: Option<String>,
    reason: Option<String>,
    by: Option<String>,
    until: Option<String>,
}

impl AuditLine {
    fn who(&self) -> Option<String> {
        let method = self.method.as_deref()?;
        Some(self.subject.as_ref().map_or_else(|| method.to_owned(), |subject| format!("{method}:{subject}")))
    }
}

/// The rows of a report, collected line by line.
#[derive(Debug, Default)]
struct ReportBuilder {
    logins: Vec<LoginRow>,
    refusals: BTreeMap<RefusalKey, Occurrences>,
    notes: Vec<EventRow>,
    /// The ids of logins that were refused after their line was written, because the write was late.
    taken_back: HashSet<String>,
    seen: SeenLines,
    /// How many lines are not JSON, or lack a field that each line has.
    skipped: u64,
}

/// The lines that were read. A line stands in two files when one is a copy, or when a syslog server got it twice.
#[derive(Debug, Default)]
struct SeenLines {
    /// A digest of each line, under a key of this process.
    digests: HashSet<u64>,
    hasher: RandomState,
    /// How many lines were read before.
    repeated: u64,
}

impl SeenLines {
    /// Tells whether a line is new.
    fn is_new(&mut self, line: &[u8]) -> bool {
        let is_new = self.digests.insert(self.hasher.hash_one(line.trim_ascii_end()));
        self.repeated += u64::from(!is_new);
        is_new
    }
}

/// One login.
#[derive(Debug, Serialize)]
struct LoginRow {
    time: Timestamp,
    who: String,
    client: String,
    act: String,
    account: String,
    rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<String>,
    id: String,
    /// The member that wrote the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
}

/// The fields by which refusals are counted as equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct RefusalKey {
    client: String,
    who: Option<String>,
    account: Option<String>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
}

/// How often something happened, and when first and last.
#[derive(Debug, Clone, Copy, Serialize)]
struct Occurrences {
    times: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Occurrences {
    const fn once(at: Timestamp) -> Self {
        Self { times: 1, first: at, last: at }
    }

    fn add(&mut self, at: Timestamp) {
        *self = Self { times: self.times + 1, first: self.first.min(at), last: self.last.max(at) };
    }
}

/// An audit event other than a login or a refusal.
#[derive(Debug, Serialize)]
struct EventRow {
    time: Timestamp,
    event: String,
    account: String,
    by: Option<String>,
    until: Option<String>,
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
}

impl ReportBuilder {
    /// Notes a login that was refused after its line was written, whichever of the two lines is read first.
    fn take_back(&mut self, line: &AuditLine) {
        if line.reason.as_deref().is_some_and(|reason| reason.starts_with(NO_LINE)) {
            self.taken_back.extend(line.id.clone());
        }
    }

    fn read(&mut self, path: &Path, wanted: &Arguments) -> io::Result<()> {
        if path.as_os_str() == "-" {
            return self.take(io::stdin().lock(), wanted);
        }
        self.take(BufReader::new(File::open(path)?), wanted)
    }

    fn take(&mut self, mut reader: impl BufRead, wanted: &Arguments) -> io::Result<()> {
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes)? > 0 {
            match serde_json::from_slice::<AuditLine>(&bytes) {
                Ok(line) => {
                    self.take_back(&line);
                    if wanted.covers(line.time) && self.seen.is_new(&bytes) {
                        self.add(line, wanted);
                    }
                }
                Err(_) => self.skipped += 1,
            }
            bytes.clear();
        }
        Ok(())
    }

    fn add(&mut self, line: AuditLine, wanted: &Arguments) {
        match line.kind.as_str() {
            "audit grant" if wanted.is_about(&line) => self.logins.push(LoginRow {
                time: line.time,
                who: line.who().unwrap_or_default(),
                client: line.client.unwrap_or_default(),
                act: line.act.unwrap_or_default(),
                account: line.account.unwrap_or_default(),
                rule: line.rule.unwrap_or_default(),
                level: line.level,
                id: line.id.unwrap_or_default(),
                member: line.member,
            }),
            // Which refusals concern these logins is known after the last line.
            "audit refusal" => {
                let refused = RefusalKey {
                    who: line.who(),
                    client: line.client.unwrap_or_default(),
                    account: line.account,
                    reason: line.reason.unwrap_or_default(),
                    member: line.member,
                };
                let times = self.refusals.entry(refused);
                times.and_modify(|times| times.add(line.time)).or_insert_with(|| Occurrences::once(line.time));
            }
            // A ticket is no login yet: its redemption has a line of its own.
            "audit grant" | "audit ticket" | "access" | "lost" => {}
            // Of no account: it is no event of those that a report is about.
            "audit logout" if line.account.is_none() && wanted.account.is_some() => {}
            kind => {
                let about_all = wanted.account.is_none() || line.account.is_none();
                if let Some(event) = kind.strip_prefix("audit ")
                    && (about_all || wanted.is_about(&line))
                {
                    self.notes.push(EventRow {
                        time: line.time,
                        event: event.to_owned(),
                        account: line.account.unwrap_or_default(),
                        by: line.by,
                        until: line.until,
                        reason: line.reason,
                        member: line.member,
                    });
                }
            }
        }
    }

    fn report(mut self, wanted: &Arguments) -> Report {
        self.logins.retain(|login| !self.taken_back.contains(&login.id));
        self.logins.sort_by_key(|login| login.time);
        self.notes.sort_by_key(|note| note.time);
        let mut callers = BTreeMap::<(String, String), Occurrences>::new();
        for login in &self.logins {
            let times = callers.entry((login.who.clone(), login.client.clone()));
            times.and_modify(|times| times.add(login.time)).or_insert_with(|| Occurrences::once(login.time));
        }
        let is_related = |refused: &RefusalKey| {
            let by_account = match (&wanted.account, &refused.account) {
                (Some(wanted), Some(account)) => account.eq_ignore_ascii_case(wanted),
                _ => false,
            };
            let by_caller =
                callers.keys().any(|(who, client)| Some(who) == refused.who.as_ref() || *client == refused.client);
            by_account || by_caller || wanted.client.as_ref() == Some(&refused.client)
        };
        let refusals = self.refusals.into_iter().filter(|(refused, _)| is_related(refused));
        let mut refusals: Vec<_> = refusals.map(|(key, times)| RefusalRow { key, times }).collect();
        refusals.sort_by_key(|refusal| refusal.times.first);
        let mut callers: Vec<_> =
            callers.into_iter().map(|((who, client), times)| CallerRow { who, client, times }).collect();
        callers.sort_by_key(|caller| caller.times.first);
        Report {
            account: wanted.account.clone(),
            client: wanted.client.clone(),
            since: wanted.since,
            until: wanted.until,
            callers,
            logins: self.logins,
            refusals,
            events: self.notes,
            lines_passed_over: self.skipped,
            lines_repeated: self.seen.repeated,
        }
    }
}

impl Arguments {
    fn covers(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    /// Tells whether a line matches the account and the client of the arguments, ignoring case.
    fn is_about(&self, line: &AuditLine) -> bool {
        let is = |wanted: &Option<String>, found: &Option<String>| match (wanted, found) {
            (None, _) => true,
            (Some(wanted), Some(found)) => found.eq_ignore_ascii_case(wanted),
            (Some(_), None) => false,
        };
        is(&self.account, &line.account) && (is(&self.client, &line.client) || line.client.is_none())
    }
}

// === The report ===

/// The report about an account or a client.
#[derive(Debug, Serialize)]
struct Report {
    account: Option<String>,
    client: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Each caller at each address.
    callers: Vec<CallerRow>,
    /// Each login.
    logins: Vec<LoginRow>,
    /// Refusals of the account, and of the callers and clients of its logins.
    refusals: Vec<RefusalRow>,
    events: Vec<EventRow>,
    lines_passed_over: u64,
    /// How many lines stand in the files more than once. Each counts once.
    lines_repeated: u64,
}

#[derive(Debug, Serialize)]
struct CallerRow {
    who: String,
    client: String,
    #[serde(flatten)]
    times: Occurrences,
}

#[derive(Debug, Serialize)]
struct RefusalRow {
    #[serde(flatten)]
    key: RefusalKey,
    #[serde(flatten)]
    times: Occurrences,
}
