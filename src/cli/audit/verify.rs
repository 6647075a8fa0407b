//! `callgate audit verify`: checks that each line of the audit log follows the line before it.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::{CommandResult, print_line, print_remark, report_error};
use crate::observe::hash_chain::{ChainBreak, ChainHead, ChainReader};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The files, the oldest first
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A head that an earlier run printed: the files must contain that line unchanged. Without it, lines cut off the end
    /// and a chain written anew are not noticed
    #[arg(long, value_name = "SEQ:HASH")]
    head: Option<ChainHead>,
}

/// The state of a verification, file after file.
struct ChainWalk {
    follower: ChainReader,
    /// The file and number of the last line.
    place: String,
    /// The head that must still be found.
    wanted: Option<ChainHead>,
}

/// Why the chain is not verified.
#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error("{0}: cannot read it")]
    Read(String, #[source] io::Error),
    #[error("{place}: {why}")]
    Broken { place: String, why: ChainBreak },
    #[error("no line of these files is part of a chain: is `chain = true` in [audit]?")]
    NoChain,
    #[error("line {0} is missing or changed: the chain was cut or written anew")]
    HeadGone(u64),
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    match verify(arguments) {
        Ok(followed) => print_line(&followed),
        Err(failed @ VerifyError::Read(..)) => Err(report_error("cannot verify", &failed)),
        Err(failed) => {
            print_remark(&failed);
            Err(ExitCode::FAILURE)
        }
    }
}

/// Verifies the chain over all files, and returns the result as text.
fn verify(arguments: &Arguments) -> Result<String, VerifyError> {
    let mut walk = ChainWalk { follower: ChainReader::default(), place: String::new(), wanted: arguments.head.clone() };
    for path in &arguments.files {
        walk.file(path)?;
    }
    let ChainWalk { follower, place, wanted } = walk;
    if let Some(wanted) = wanted {
        return Err(VerifyError::HeadGone(wanted.seq));
    }
    let (before, followed) = (follower.before, follower.followed);
    let head = follower.end().map_err(|why| VerifyError::Broken { place, why })?.ok_or(VerifyError::NoChain)?;
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
    Ok(lines.join("\n"))
}

impl ChainWalk {
    fn file(&mut self, path: &Path) -> Result<(), VerifyError> {
        let name = path.display().to_string();
        let unreadable = |error| VerifyError::Read(name.clone(), error);
        let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
                break;
            }
            self.place = format!("{name}:{number}");
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            self.follower.follow(line).map_err(|why| VerifyError::Broken { place: self.place.clone(), why })?;
            if self.wanted.as_ref() == self.follower.head() {
                self.wanted = None;
            }
        }
        Ok(())
    }
}
