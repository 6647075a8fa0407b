//! `callgate audit verify`: does each line follow the one before it?

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::{Done, complain, remark, say};
use crate::observe::chain::{Break, Follower, Head};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The files, the oldest first
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A head that an earlier run has told: that line must be there, as it was. Otherwise lines that were cut off the
    /// end, or a chain that was written anew, cannot be seen
    #[arg(long, value_name = "SEQ:HASH")]
    head: Option<Head>,
}

/// What a look at all files has come to.
struct Walk {
    follower: Follower,
    /// Where the last line was.
    place: String,
    /// The head that must be met, until it is.
    wanted: Option<Head>,
}

/// Why the chain does not hold.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}: cannot read it")]
    Read(String, #[source] io::Error),
    #[error("{place}: {why}")]
    Broken { place: String, why: Break },
    #[error("no line of these files is part of a chain: is `chain = true` in [audit]?")]
    NoChain,
    #[error("line {0} is not there, or not as it was: the chain was cut or written anew")]
    HeadGone(u64),
}

pub(super) fn run(arguments: &Arguments) -> Done {
    match verify(arguments) {
        Ok(followed) => say(&followed),
        Err(failed @ Failed::Read(..)) => Err(complain("cannot verify", &failed)),
        Err(failed) => {
            remark(&failed);
            Err(ExitCode::FAILURE)
        }
    }
}

/// Follows the chain, and returns what there is to say of it.
fn verify(arguments: &Arguments) -> Result<String, Failed> {
    let mut walk = Walk { follower: Follower::default(), place: String::new(), wanted: arguments.head.clone() };
    for path in &arguments.files {
        walk.file(path)?;
    }
    let Walk { follower, place, wanted } = walk;
    if let Some(wanted) = wanted {
        return Err(Failed::HeadGone(wanted.seq));
    }
    let (before, followed) = (follower.before, follower.followed);
    let head = follower.end().map_err(|why| Failed::Broken { place, why })?.ok_or(Failed::NoChain)?;
    let mut lines = Vec::new();
    if before > 0 {
        lines.push(format!("{before} lines stand before the chain began; nothing guards them"));
    }
    let first = head.seq + 1 - followed;
    lines.push(format!("lines {first} to {} follow each other", head.seq));
    if first > 1 {
        lines.push(format!("lines 1 to {} are in older files", first - 1));
    }
    lines.push(format!("head: {head}"));
    Ok(lines.join("\n"))
}

impl Walk {
    fn file(&mut self, path: &Path) -> Result<(), Failed> {
        let name = path.display().to_string();
        let unreadable = |error| Failed::Read(name.clone(), error);
        let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
                break;
            }
            self.place = format!("{name}:{number}");
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            self.follower.follow(line).map_err(|why| Failed::Broken { place: self.place.clone(), why })?;
            if self.wanted.as_ref() == self.follower.head() {
                self.wanted = None;
            }
        }
        Ok(())
    }
}
