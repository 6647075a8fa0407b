//! The list of users for `callgate provision --from`: CSV with a header line.

use csv::{ReaderBuilder, StringRecord, Trim};

use crate::model::ott::VoximplantUser;

/// The most users of a list. Voximplant permits 1000 for each account, unless it agrees to more.
const MAX_ROWS: usize = 100_000;
/// The longest display name, in characters.
const MAX_DISPLAY_NAME: usize = 255;
/// The columns.
const COLUMNS: [&str; 2] = ["user", "display_name"];

/// One user of the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UserRow {
    /// The line in the file, counted from 1.
    pub line: u64,
    pub user: VoximplantUser,
    /// The user's name, where the list has no other.
    pub display_name: String,
}

/// A fault of the list: the line, counted from 1, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListFault {
    pub line: u64,
    pub problem: String,
}

/// Reads a list.
///
/// # Errors
/// Every fault of the list, in the order of its lines.
pub(super) fn read(text: &str) -> Result<Vec<UserRow>, Vec<ListFault>> {
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(text.as_bytes());
    let headers = reader.headers().map_err(|error| vec![fault(text, &error)])?.clone();
    let at = columns(&headers)?;
    let (mut rows, mut faults) = (Vec::<UserRow>::new(), Vec::new());
    for record in reader.records() {
        match record.map_err(|error| fault(text, &error)).and_then(|record| row(text, &record, at)) {
            Ok(row) => match rows.iter().find(|before| before.user == row.user) {
                Some(before) => {
                    let problem = format!("{} is on line {} already: remove one of them", row.user, before.line);
                    faults.push(ListFault { line: row.line, problem });
                }
                None if rows.len() >= MAX_ROWS => {
                    let problem = format!("more than {MAX_ROWS} users: split the list");
                    faults.push(ListFault { line: row.line, problem });
                    break;
                }
                None => rows.push(row),
            },
            Err(found) => faults.push(found),
        }
    }
    if faults.is_empty() && rows.is_empty() {
        faults.push(ListFault { line: 1, problem: "there is no user below the header line".to_owned() });
    }
    if faults.is_empty() { Ok(rows) } else { Err(faults) }
}

/// Finds the columns: that of the users, and that of the display names, if there is one.
fn columns(headers: &StringRecord) -> Result<(usize, Option<usize>), Vec<ListFault>> {
    let unknown = headers.iter().find(|name| !COLUMNS.contains(name));
    let find = |wanted: &str| headers.iter().position(|name| name == wanted);
    let problem = match (unknown, find("user")) {
        (None, Some(user)) => return Ok((user, find("display_name"))),
        (Some(name), _) => {
            format!("unknown column {name:?}: the first line names the columns: user, or user,display_name")
        }
        (None, None) => "no column `user`: write `user` or `user,display_name` as the first line".to_owned(),
    };
    Err(vec![ListFault { line: 1, problem }])
}

fn row(text: &str, record: &StringRecord, (user_at, name_at): (usize, Option<usize>)) -> Result<UserRow, ListFault> {
    let line = line_at(text, record.position());
    let refuse = |problem: String| ListFault { line, problem };
    let name = record.get(user_at).unwrap_or_default();
    let user: VoximplantUser = name.parse().map_err(|error| refuse(format!("the user is {name:?}: {error}")))?;
    let shown = name_at.and_then(|at| record.get(at)).filter(|text| !text.is_empty()).unwrap_or_else(|| user.name());
    if shown.chars().count() > MAX_DISPLAY_NAME || shown.chars().any(char::is_control) {
        let problem = "the display name has a line break or other control character, or is longer than 255 characters";
        return Err(refuse(problem.to_owned()));
    }
    let display_name = shown.to_owned();
    Ok(UserRow { line, user, display_name })
}

/// Returns the line of a record. The reader's own count does not skip line ends before a record.
fn line_at(text: &str, position: Option<&csv::Position>) -> u64 {
    let begin = position.map_or(0, |position| position.byte() as usize).min(text.len());
    let bytes = text.as_bytes();
    let blank = bytes[begin..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    bytes[..begin + blank].iter().filter(|byte| **byte == b'\n').count() as u64 + 1
}

/// Turns an error of the CSV reader into a fault.
fn fault(text: &str, error: &csv::Error) -> ListFault {
    let line = line_at(text, error.position());
    let problem = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} fields instead of {expected_len}: put a field with a comma into quotes")
        }
        csv::ErrorKind::Utf8 { .. } => "it is not text in UTF-8".to_owned(),
        _ => "it is not CSV".to_owned(),
    };
    ListFault { line, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<(u64, String)> {
        read(text).unwrap_err().into_iter().map(|fault| (fault.line, fault.problem)).collect()
    }

    #[test]
    fn a_list_has_users_and_perhaps_display_names() {
        let row =
            |line, user: &str, name: &str| UserRow { line, user: user.parse().unwrap(), display_name: name.to_owned() };
        let text = "\u{feff}display_name , user\r\n\"Lee, Ann\",ann\r\n\r\n,bob@sales.acme\r\n";
        assert_eq!(read(text).unwrap(), [row(2, "ann", "Lee, Ann"), row(4, "bob@sales.acme", "bob")]);
        assert_eq!(read("user\nann").unwrap(), [row(2, "ann", "ann")]);
    }

    #[test]
    fn every_fault_is_told_with_its_line() {
        assert_eq!(
            faults("name\nann"),
            [(1, "unknown column \"name\": the first line names the columns: user, or user,display_name".to_owned())]
        );
        assert_eq!(faults("")[0].0, 1);
        assert_eq!(faults("user\n"), [(1, "there is no user below the header line".to_owned())]);
        let found = faults("user,display_name\nAnn,x\nann\nann,x\nbob,\"a\nb\"\nann,y\n");
        let lines: Vec<_> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 5, 7], "{found:?}");
        for (index, words) in
            [(0, "\"Ann\""), (1, "1 fields instead of 2"), (2, "control character"), (3, "on line 4 already")]
        {
            assert!(found[index].1.contains(words), "{found:?}");
        }
    }
}
