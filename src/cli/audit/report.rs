//! `callgate audit report`: who became an account, from where and when; who was refused it. For the day on which a bill
//! shows calls that nobody made.

mod table;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cli::{Done, complain, load, remark, say, time_args};
use crate::observe::NO_LINE;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The account, such as 40@acme.example.com, or a Voximplant user
    #[arg(long, required_unless_present = "client")]
    account: Option<String>,
    /// The address of a client: what it became
    #[arg(long)]
    client: Option<String>,
    /// From when: 24h, 7d, 2026-11-23, 2026-11-23T08:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = time_args::past)]
    since: Option<Timestamp>,
    /// Until when
    #[arg(long, value_name = "WHEN", value_parser = time_args::past)]
    until: Option<Timestamp>,
    /// For programs
    #[arg(long)]
    json: bool,
    /// The configuration that names the audit log, where no file is given
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
    /// Audit logs; - is standard input. Default: that of the configuration, with those that were rotated away
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Done {
    let files = if arguments.files.is_empty() { configured(&arguments.config)? } else { arguments.files.clone() };
    let mut reading = Reading::default();
    for path in &files {
        let what = format!("cannot read {}", path.display());
        reading.read(path, arguments).map_err(|error| complain(&what, &error))?;
    }
    let report = reading.report(arguments);
    if arguments.json {
        let value = serde_json::to_value(&report).map_err(|error| complain("cannot write the report", &error))?;
        say(&format_args!("{value:#}"))
    } else {
        say(&report.to_string().trim_end_matches('\n'))
    }
}

/// Finds the audit log of a configuration, and those before it, the oldest first.
fn configured(config: &Path) -> Result<Vec<PathBuf>, ExitCode> {
    let Some(log) = load(config)?.audit.file else {
        let name = config.display();
        remark(&format_args!("callgate: {name} names no audit log: name a file, or - for standard input"));
        return Err(ExitCode::FAILURE);
    };
    let mut files = rotated(&log).map_err(|error| complain("cannot look for older logs", &error))?;
    files.push(log);
    Ok(files)
}

/// Finds what was rotated away and is not packed.
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

// === Reading ===

/// A line of the audit log, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
struct Line {
    time: Timestamp,
    kind: String,
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

impl Line {
    fn who(&self) -> Option<String> {
        let method = self.method.as_deref()?;
        Some(self.subject.as_ref().map_or_else(|| method.to_owned(), |subject| format!("{method}:{subject}")))
    }
}

/// What was found so far.
#[derive(Debug, Default)]
struct Reading {
    logins: Vec<Login>,
    refusals: BTreeMap<Refused, Times>,
    notes: Vec<Note>,
    /// Lines that are no JSON, or lack what each line has.
    skipped: u64,
}

/// One login.
#[derive(Debug, Serialize)]
struct Login {
    time: Timestamp,
    who: String,
    client: String,
    act: String,
    account: String,
    rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<String>,
    id: String,
}

/// Refusals that say the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Refused {
    client: String,
    who: Option<String>,
    account: Option<String>,
    reason: String,
}

/// How often, and when.
#[derive(Debug, Clone, Copy, Serialize)]
struct Times {
    times: u64,
    first: Timestamp,
    last: Timestamp,
}

impl Times {
    const fn once(at: Timestamp) -> Self {
        Self { times: 1, first: at, last: at }
    }

    fn add(&mut self, at: Timestamp) {
        *self = Self { times: self.times + 1, first: self.first.min(at), last: self.last.max(at) };
    }
}

/// Something other than a login.
#[derive(Debug, Serialize)]
struct Note {
    time: Timestamp,
    event: String,
    account: String,
    by: Option<String>,
    until: Option<String>,
    reason: Option<String>,
}

impl Reading {
    /// Forgets a login whose line was written, but too late for it.
    fn take_back(&mut self, line: &Line) {
        if line.reason.as_deref().is_some_and(|reason| reason.starts_with(NO_LINE))
            && let Some(index) = self.logins.iter().rposition(|login| Some(&login.id) == line.id.as_ref())
        {
            self.logins.remove(index);
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
            match serde_json::from_slice::<Line>(&bytes) {
                Ok(line) if wanted.covers(line.time) => self.line(line, wanted),
                Ok(_) => {}
                Err(_) => self.skipped += 1,
            }
            bytes.clear();
        }
        Ok(())
    }

    fn line(&mut self, line: Line, wanted: &Arguments) {
        self.take_back(&line);
        match line.kind.as_str() {
            "audit grant" if wanted.is_about(&line) => self.logins.push(Login {
                time: line.time,
                who: line.who().unwrap_or_default(),
                client: line.client.unwrap_or_default(),
                act: line.act.unwrap_or_default(),
                account: line.account.unwrap_or_default(),
                rule: line.rule.unwrap_or_default(),
                level: line.level,
                id: line.id.unwrap_or_default(),
            }),
            // Which of them belong to the logins is known when all is read.
            "audit refusal" => {
                let refused = Refused {
                    who: line.who(),
                    client: line.client.unwrap_or_default(),
                    account: line.account,
                    reason: line.reason.unwrap_or_default(),
                };
                let times = self.refusals.entry(refused);
                times.and_modify(|times| times.add(line.time)).or_insert_with(|| Times::once(line.time));
            }
            "audit grant" | "access" | "lost" => {}
            kind => {
                let about_all = wanted.account.is_none() || line.account.is_none();
                if let Some(event) = kind.strip_prefix("audit ")
                    && (about_all || wanted.is_about(&line))
                {
                    self.notes.push(Note {
                        time: line.time,
                        event: event.to_owned(),
                        account: line.account.unwrap_or_default(),
                        by: line.by,
                        until: line.until,
                        reason: line.reason,
                    });
                }
            }
        }
    }

    fn report(mut self, wanted: &Arguments) -> Report {
        self.logins.sort_by_key(|login| login.time);
        self.notes.sort_by_key(|note| note.time);
        let mut callers = BTreeMap::<(String, String), Times>::new();
        for login in &self.logins {
            let times = callers.entry((login.who.clone(), login.client.clone()));
            times.and_modify(|times| times.add(login.time)).or_insert_with(|| Times::once(login.time));
        }
        let is_near = |refused: &Refused| {
            let by_account = match (&wanted.account, &refused.account) {
                (Some(wanted), Some(account)) => account.eq_ignore_ascii_case(wanted),
                _ => false,
            };
            let by_caller =
                callers.keys().any(|(who, client)| Some(who) == refused.who.as_ref() || *client == refused.client);
            by_account || by_caller || wanted.client.as_ref() == Some(&refused.client)
        };
        let refusals = self.refusals.into_iter().filter(|(refused, _)| is_near(refused));
        let mut refusals: Vec<_> = refusals.map(|(refused, times)| Refusal { refused, times }).collect();
        refusals.sort_by_key(|refusal| refusal.times.first);
        let mut callers: Vec<_> =
            callers.into_iter().map(|((who, client), times)| Caller { who, client, times }).collect();
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
        }
    }
}

impl Arguments {
    fn covers(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until)
    }

    /// Tells whether a line is about the account and the client that were asked for. The case of a domain does not matter.
    fn is_about(&self, line: &Line) -> bool {
        let is = |wanted: &Option<String>, found: &Option<String>| match (wanted, found) {
            (None, _) => true,
            (Some(wanted), Some(found)) => found.eq_ignore_ascii_case(wanted),
            (Some(_), None) => false,
        };
        is(&self.account, &line.account) && (is(&self.client, &line.client) || line.client.is_none())
    }
}

// === The report ===

/// All that is known of an account, or of a client.
#[derive(Debug, Serialize)]
struct Report {
    account: Option<String>,
    client: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Each caller at each address.
    callers: Vec<Caller>,
    /// Each login.
    logins: Vec<Login>,
    /// Refusals of the account, and of whoever came in as it.
    refusals: Vec<Refusal>,
    events: Vec<Note>,
    lines_passed_over: u64,
}

#[derive(Debug, Serialize)]
struct Caller {
    who: String,
    client: String,
    #[serde(flatten)]
    times: Times,
}

#[derive(Debug, Serialize)]
struct Refusal {
    #[serde(flatten)]
    refused: Refused,
    #[serde(flatten)]
    times: Times,
}
