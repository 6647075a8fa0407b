//! The chains of all members in the files of one verification.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::VerifyError;
use crate::observe::hash_chain::{ChainBreak, ChainHead, ChainReader};

/// All chains, in the order in which their first lines were read.
pub(super) struct MemberChains {
    chains: Vec<MemberChain>,
    /// The heads that must still be found.
    wanted: Vec<ChainHead>,
}

/// The chain of one member.
#[derive(Default)]
pub(super) struct MemberChain {
    /// The name in its lines; nothing: no line has one so far.
    pub(super) member: Option<String>,
    reader: ChainReader,
    /// The file and number of the last line.
    place: String,
    /// What is wrong. Later lines are not followed.
    failed: Option<VerifyError>,
    /// The files in which the chain goes on, with the head that the first line of each follows.
    files: Vec<(String, Option<ChainHead>)>,
}

/// The part of a line that says who wrote it.
#[derive(Deserialize)]
struct Written {
    member: Option<String>,
}

impl MemberChains {
    /// Begins a verification in which these heads must be found.
    pub(super) fn wanting(heads: &[ChainHead]) -> Self {
        Self { chains: Vec::new(), wanted: heads.to_vec() }
    }

    /// Follows the lines of a file. `later` are the files that follow it.
    pub(super) fn read(&mut self, path: &Path, later: &[PathBuf]) -> Result<(), VerifyError> {
        let name = path.display().to_string();
        let unreadable = |error| VerifyError::Read(name.clone(), error);
        let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
        let (mut bytes, mut current) = (Vec::new(), None);
        for number in 1.. {
            bytes.clear();
            if reader.read_until(b'\n', &mut bytes).map_err(unreadable)? == 0 {
                break;
            }
            let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            let (place, member) = (format!("{name}:{number}"), member_of(line));
            let index = match current {
                None => self.find(member.as_deref(), line),
                Some(index) => self.named(index, member.as_deref()),
            };
            let is_first = current.replace(index).is_none();
            let chain = &mut self.chains[index];
            if is_first {
                chain.files.push((name.clone(), ChainHead::before(line)));
            }
            let was_sound = chain.failed.is_none();
            chain.follow(line, member, place);
            if is_first && was_sound {
                chain.look_at_order(path, later);
            }
            let head = chain.reader.head();
            self.wanted.retain(|wanted| Some(wanted) != head);
        }
        Ok(())
    }

    /// Returns the chains, and the heads that were not found.
    pub(super) fn end(self) -> (Vec<MemberChain>, Vec<ChainHead>) {
        (self.chains, self.wanted)
    }

    /// Finds the chain that the first line of a file belongs to: that of its member, or else the one without a name
    /// that it follows.
    fn find(&mut self, member: Option<&str>, line: &[u8]) -> usize {
        let before = ChainHead::before(line);
        let follows = |chain: &MemberChain| before.is_some() && chain.reader.head() == before.as_ref();
        let of_member = self.of(member);
        let found = match member {
            Some(_) => of_member.or_else(|| self.position(|chain| chain.member.is_none() && follows(chain))),
            None => self.position(follows).or(of_member),
        };
        found.unwrap_or_else(|| {
            self.chains.push(MemberChain { member: member.map(str::to_owned), ..MemberChain::default() });
            self.chains.len() - 1
        })
    }

    /// Returns the chain of a later line of a file. The first line with a name names the chain; if that member has
    /// another chain, the lines so far were put in front of the file.
    fn named(&mut self, index: usize, member: Option<&str>) -> usize {
        let chain = &self.chains[index];
        let is_unnamed = chain.member.is_none() && chain.reader.head().is_none() && chain.failed.is_none();
        let Some(other) = member.filter(|_| is_unnamed).and_then(|member| self.of(Some(member))) else {
            return index;
        };
        let place = self.chains.remove(index).place;
        let other = if other > index { other - 1 } else { other };
        self.chains[other].failed.get_or_insert(VerifyError::Broken { place, why: ChainBreak::Foreign });
        other
    }

    fn of(&self, member: Option<&str>) -> Option<usize> {
        self.position(|chain| chain.member.as_deref() == member)
    }

    fn position(&self, is_it: impl Fn(&MemberChain) -> bool) -> Option<usize> {
        self.chains.iter().position(is_it)
    }
}

impl MemberChain {
    /// Follows a line, unless the chain has failed already.
    fn follow(&mut self, line: &[u8], member: Option<String>, place: String) {
        if self.failed.is_some() {
            return;
        }
        if let (Some(owner), Some(found)) = (&self.member, &member)
            && owner != found
        {
            self.failed = Some(VerifyError::Mixed { place, found: found.clone(), owner: owner.clone() });
            return;
        }
        self.member = self.member.take().or(member);
        self.place = place;
        if let Err(why) = self.reader.follow(line) {
            self.failed = Some(VerifyError::Broken { place: self.place.clone(), why });
        }
    }

    /// Tells, when the first line of a file does not follow the file before it, whether another file was meant to stand
    /// there.
    fn look_at_order(&mut self, path: &Path, later: &[PathBuf]) {
        let Some(VerifyError::Broken { place, why: ChainBreak::Missing(_) | ChainBreak::Moved | ChainBreak::Anew }) =
            &self.failed
        else {
            return;
        };
        let (place, this) = (place.clone(), path.display().to_string());
        let head = self.reader.head().cloned();
        let between = later.iter().find(|file| head.is_some() && ends_of(file).0 == head);
        let last = ends_of(path).1;
        let after = self.files.iter().find(|(_, before)| before.is_some() && *before == last);
        if let Some(between) = between {
            let first = between.display().to_string();
            self.failed = Some(VerifyError::OutOfOrder { place, first, second: this });
        } else if let Some((second, _)) = after {
            self.failed = Some(VerifyError::OutOfOrder { place, first: this, second: second.clone() });
        } else if matches!(self.failed, Some(VerifyError::Broken { why: ChainBreak::Anew, .. })) {
            self.failed = Some(VerifyError::SecondChain(place));
        }
    }

    /// Says what was verified.
    pub(super) fn verified(self) -> Result<Vec<String>, VerifyError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let (before, followed, place) = (self.reader.before, self.reader.followed, self.place);
        let head = self.reader.end().map_err(|why| VerifyError::Broken { place, why })?;
        let head = head.ok_or(VerifyError::NoChain)?;
        let mut lines = Vec::new();
        if before > 0 {
            lines.push(format!("{before} lines stand before the start of the chain and are not protected by it"));
        }
        let first = head.seq + 1 - followed;
        lines.push(format!("lines {first} to {} follow each other", head.seq));
        if first > 1 {
            lines.push(format!("lines 1 to {} are in older files", first - 1));
        }
        lines.push(format!("head: {head}"));
        Ok(lines)
    }
}

fn member_of(line: &[u8]) -> Option<String> {
    serde_json::from_slice::<Written>(line).ok()?.member
}

/// Returns the head that the first line of a file follows, and the head that its last line is. Reads no pipe.
fn ends_of(path: &Path) -> (Option<ChainHead>, Option<ChainHead>) {
    let is_file = fs::metadata(path).is_ok_and(|found| found.is_file());
    let Some(file) = File::open(path).ok().filter(|_| is_file) else { return (None, None) };
    let mut ends = (None, None);
    let (mut reader, mut bytes) = (BufReader::new(file), Vec::new());
    for number in 1.. {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).unwrap_or_default() == 0 {
            break;
        }
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if number == 1 {
            ends.0 = ChainHead::before(line);
        }
        ends.1 = ChainHead::of(line);
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::audit::verify::{Arguments, ChainFindings, verify};

    /// A folder of audit logs.
    struct Logs(tempfile::TempDir);

    impl Logs {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// Writes a file with lines of these members, and continues a chain with them.
        fn write(&self, name: &str, head: &mut ChainHead, members: &[&str]) {
            let line = |member: &&str| match *member {
                "" => head.link("{\"kind\":\"a\"}") + "\n",
                member => head.link(&format!("{{\"kind\":\"a\",\"member\":\"{member}\"}}")) + "\n",
            };
            fs::write(self.path(name), members.iter().map(line).collect::<String>()).unwrap();
        }

        fn verify(&self, names: &[&str], head: Vec<ChainHead>) -> ChainFindings {
            let files = names.iter().map(|name| self.path(name)).collect();
            verify(&Arguments { files, head }).unwrap()
        }

        /// Compares what is said about files, without the folder and without hashes.
        #[track_caller]
        fn check(&self, names: &[&str], good: &[&str], bad: &[&str]) {
            let folder = format!("{}/", self.0.path().display());
            let plain = |lines: Vec<String>| -> Vec<_> {
                let plain = |line: String| line.replace(&folder, "").split(": head:").next().unwrap().to_owned();
                lines.into_iter().map(plain).collect()
            };
            let found = self.verify(names, Vec::new());
            assert_eq!((plain(found.good), plain(found.bad)), (owned(good), owned(bad)));
        }
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    /// Two members, each with two files.
    fn two_members() -> Logs {
        let logs = Logs::new();
        for member in ["one", "two"] {
            let mut head = ChainHead::empty();
            logs.write(&format!("{member}.1"), &mut head, &[member, member]);
            logs.write(member, &mut head, &[member]);
        }
        logs
    }

    const BOTH: [&str; 4] =
        ["one: lines 1 to 3 follow each other", "one", "two: lines 1 to 3 follow each other", "two"];

    #[test]
    fn the_chain_of_each_member_is_followed_by_itself() {
        let logs = two_members();
        logs.check(&["one.1", "one", "two.1", "two"], &BOTH, &[]);
        logs.check(&["one.1", "two.1", "one", "two"], &BOTH, &[]);
    }

    #[test]
    fn a_broken_chain_leaves_the_others_whole() {
        let logs = two_members();
        let text = fs::read_to_string(logs.path("one.1")).unwrap();
        fs::write(logs.path("one.1"), text.replacen("\"kind\":\"a\"", "\"kind\":\"b\"", 1)).unwrap();
        let changed = "one: one.1:1: the line was changed: its hash does not match its content";
        logs.check(&["one.1", "two.1", "one", "two"], &BOTH[2..], &[changed]);
        logs.check(
            &["two.1", "one"],
            &[
                "two: lines 1 to 2 follow each other",
                "two",
                "one: lines 3 to 3 follow each other",
                "one: lines 1 to 2 are in older files",
                "one",
            ],
            &[],
        );
    }

    #[test]
    fn files_in_the_wrong_order_are_told_from_missing_lines() {
        let logs = two_members();
        let wrong = "one: one.1:1: the files are in the wrong order: name one.1 before one";
        logs.check(&["one", "two.1", "one.1", "two"], &BOTH[2..], &[wrong]);
        let mut head = ChainHead::empty();
        logs.write("log.2", &mut head, &[""]);
        logs.write("log.1", &mut head, &["", ""]);
        logs.write("log", &mut head, &[""]);
        logs.check(&["log.2", "log.1", "log"], &["lines 1 to 4 follow each other", &told_head(&head)], &[]);
        let wrong = "log:1: the files are in the wrong order: name log.1 before log";
        logs.check(&["log.2", "log", "log.1"], &[], &[wrong]);
        logs.check(&["log.2", "log"], &[], &["log:1: 2 lines before this one are missing"]);
    }

    fn told_head(head: &ChainHead) -> String {
        format!("head: {head}")
    }

    #[test]
    fn a_file_belongs_to_one_member() {
        let logs = Logs::new();
        let mut head = ChainHead::empty();
        logs.write("log", &mut head, &["one", "two"]);
        let mixed = "one: log:2: a line of two among those of one: give each member a file of its own; \
                     rotate the file when a member gets another name";
        logs.check(&["log"], &[], &[mixed]);
        // After a rotation it may have another name.
        let mut head = ChainHead::empty();
        logs.write("log.1", &mut head, &["one"]);
        logs.write("log", &mut head, &["two"]);
        let good = [
            "one: lines 1 to 1 follow each other",
            "one",
            "two: lines 2 to 2 follow each other",
            "two: lines 1 to 1 are in older files",
            "two",
        ];
        logs.check(&["log.1", "log"], &good, &[]);
    }

    #[test]
    fn two_members_with_one_name_are_told_from_a_chain_that_begins_anew() {
        let logs = two_members();
        for name in ["again", "unnamed", "unnamed.2"] {
            let member = if name == "again" { "one" } else { "" };
            logs.write(name, &mut ChainHead::empty(), &[member, member, member, member]);
        }
        let second = |file: &str| {
            format!(
                "{file}:1: another chain begins with this file: two members have this name, or its writer did not find the chain before it"
            )
        };
        logs.check(&["one.1", "one", "again"], &[], &[&format!("one: {}", second("again"))]);
        logs.check(&["unnamed", "unnamed.2"], &[], &[&second("unnamed.2")]);
        let twice = verify(&Arguments { files: vec![logs.path("one.1"), logs.path("one.1")], head: Vec::new() });
        assert!(twice.unwrap_err().to_string().ends_with("one.1: the file is named twice"));
    }

    #[test]
    fn a_member_that_gets_its_first_name_goes_on_with_its_chain() {
        let logs = Logs::new();
        for (member, file) in [("one", "first"), ("two", "second")] {
            let mut head = ChainHead::empty();
            logs.write(&format!("{file}.1"), &mut head, &[""]);
            logs.write(file, &mut head, &["", member]);
        }
        logs.check(&["first.1", "first", "second.1", "second"], &BOTH, &[]);
    }

    #[test]
    fn lines_put_in_front_of_a_later_file_show() {
        let logs = two_members();
        let text = fs::read_to_string(logs.path("one")).unwrap();
        fs::write(logs.path("one"), format!("{{\"kind\":\"forged\"}}\n{text}")).unwrap();
        let foreign = "one: one:1: the line is not part of the chain: it was inserted or cut short";
        logs.check(&["one.1", "one"], &[], &[foreign]);
    }

    #[test]
    fn heads_of_several_members_are_looked_for() {
        let logs = two_members();
        let head = |name: &str| ends_of(&logs.path(name)).1.unwrap();
        let found = logs.verify(&["one.1", "one", "two.1"], vec![head("one"), head("two.1")]);
        assert_eq!(found.bad, Vec::<String>::new());
        let found = logs.verify(&["one.1", "one", "two.1"], vec![head("one"), head("two")]);
        assert_eq!(found.bad, ["line 3 is missing or changed: the chain was cut or written anew"]);
    }
}
