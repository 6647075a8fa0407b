//! The report as plain text tables.

use std::fmt;

use jiff::Timestamp;

use super::{CallerRow, EventRow, LoginRow, Occurrences, RefusalRow, Report};
use crate::cli::text_table::write_table;

/// How many logins are listed one by one.
const SHOWN: usize = 200;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about: Vec<_> = self.account.iter().chain(&self.client).map(|text| shown(text)).collect();
        let since = self.since.map_or_else(|| "the first line".to_owned(), time);
        let until = self.until.map_or_else(|| "the last".to_owned(), time);
        writeln!(f, "{}, from {since} to {until}", about.join(" at "))?;
        if self.lines_passed_over > 0 {
            writeln!(f, "{} lines were skipped: they are not JSON lines of callgate", self.lines_passed_over)?;
        }
        if self.lines_repeated > 0 {
            writeln!(f, "{} lines stand here a second time, and count once", self.lines_repeated)?;
        }
        writeln!(f, "\nlogins: {}", self.logins.len())?;
        if let Some(account) = self.account.as_deref().filter(|name| self.logins.is_empty() && !name.contains('@')) {
            let account = shown(account);
            writeln!(
                f,
                "{account} alone is a Voximplant user; an account of the PBX is written with its domain, {account}@acme.example.com"
            )?;
        }
        write_table(f, &["who", "client", "logins", "first", "last"], self.callers.iter().map(caller).collect())?;
        if self.logins.len() > SHOWN {
            writeln!(f, "\nthe last {SHOWN} of them; --json has all")?;
        } else if !self.logins.is_empty() {
            writeln!(f, "\neach of them")?;
        }
        let last = &self.logins[self.logins.len().saturating_sub(SHOWN)..];
        let columns = ["time", "who", "client", "became", "rule", "id"];
        table_by_member(f, &columns, last.iter().map(|row| (login(row), row.member.as_deref())).collect())?;
        let refusals: u64 = self.refusals.iter().map(|refusal| refusal.times.times).sum();
        writeln!(f, "\nrelated refusals: {refusals}")?;
        let refusals = self.refusals.iter().map(|row| (refusal(row), row.key.member.as_deref()));
        table_by_member(f, &["client", "who", "times", "first", "last", "reason"], refusals.collect())?;
        if !self.events.is_empty() {
            writeln!(f, "\nother events")?;
        }
        let notes = self.events.iter().map(|row| (note(row), row.member.as_deref()));
        table_by_member(f, &["time", "event", "account", "by", "until", "reason"], notes.collect())
    }
}

fn caller(caller: &CallerRow) -> Vec<String> {
    [vec![shown(&caller.who), shown(&caller.client)], times(&caller.times).to_vec()].concat()
}

fn login(login: &LoginRow) -> Vec<String> {
    let became =
        login.level.as_ref().map_or_else(|| login.account.clone(), |level| format!("{} ({level})", login.account));
    let words = [&login.who, &login.client, &became, &login.rule, &login.id].map(|text| shown(text));
    [vec![time(login.time)], words.to_vec()].concat()
}

fn refusal(refusal: &RefusalRow) -> Vec<String> {
    let refused = &refusal.key;
    let words = vec![shown(&refused.client), shown(refused.who.as_deref().unwrap_or("-"))];
    [words, times(&refusal.times).to_vec(), vec![shown(&refused.reason)]].concat()
}

fn note(note: &EventRow) -> Vec<String> {
    let word = |text: &Option<String>| shown(text.as_deref().unwrap_or("-"));
    vec![
        time(note.time),
        shown(&note.event),
        shown(&note.account),
        word(&note.by),
        word(&note.until),
        word(&note.reason),
    ]
}

fn times(times: &Occurrences) -> [String; 3] {
    [times.times.to_string(), time(times.first), time(times.last)]
}

fn time(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// Escapes text that a client may have chosen, so that it cannot control the terminal.
fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c == ' ' || c.is_alphanumeric() || c.is_ascii_graphic() { vec![c] } else { c.escape_unicode().collect() }
        })
        .collect()
}

/// Writes rows as [`write_table`] does, with one more column if a member wrote one of them.
fn table_by_member(f: &mut fmt::Formatter<'_>, titles: &[&str], rows: Vec<(Vec<String>, Option<&str>)>) -> fmt::Result {
    if rows.iter().all(|(_, member)| member.is_none()) {
        return write_table(f, titles, rows.into_iter().map(|(row, _)| row).collect());
    }
    let with_member = |(row, member): (Vec<String>, Option<&str>)| [row, vec![shown(member.unwrap_or("-"))]].concat();
    write_table(f, &[titles, &["member"]].concat(), rows.into_iter().map(with_member).collect())
}
