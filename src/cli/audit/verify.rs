//! `callgate audit verify`: checks that each line of the audit log follows the line before it, for each member by itself.

mod chains;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use self::chains::{MemberChain, MemberChains};
use crate::cli::{CommandResult, print_line, print_remark, report_error};
use crate::observe::hash_chain::{ChainBreak, ChainHead};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The files of one member or of several, those of each member with the oldest first
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A head that an earlier run printed: the files must contain that line unchanged. Without it, lines cut off the end
    /// and a chain written anew are not noticed. May be given several times
    #[arg(long, value_name = "SEQ:HASH")]
    head: Vec<ChainHead>,
}

/// Why a chain is not verified.
#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error("{0}: cannot read it")]
    Read(String, #[source] io::Error),
    #[error("{place}: {why}")]
    Broken { place: String, why: ChainBreak },
    #[error("{place}: the files are in the wrong order: name {first} before {second}")]
    OutOfOrder { place: String, first: String, second: String },
    #[error(
        "{place}: a line of {found} among those of {owner}: give each member a file of its own; \
         rotate the file when a member gets another name"
    )]
    Mixed { place: String, found: String, owner: String },
    #[error(
        "{0}: another chain begins with this file: two members have this name, or its writer did not find the chain before it"
    )]
    SecondChain(String),
    #[error("{0}: the file is named twice")]
    NamedTwice(String),
    #[error("no line of these files is part of a chain: is `chain = true` in [audit]?")]
    NoChain,
    #[error("line {0} is missing or changed: the chain was cut or written anew")]
    HeadGone(u64),
}

/// What is said about all chains.
#[derive(Debug, Default)]
struct ChainFindings {
    good: Vec<String>,
    bad: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let findings = verify(arguments).map_err(|failed| report_error("cannot verify", &failed))?;
    for line in &findings.bad {
        print_remark(line);
    }
    if !findings.good.is_empty() {
        print_line(&findings.good.join("\n"))?;
    }
    if findings.bad.is_empty() { Ok(()) } else { Err(ExitCode::FAILURE) }
}

/// Verifies the chains of all files.
fn verify(arguments: &Arguments) -> Result<ChainFindings, VerifyError> {
    let mut chains = MemberChains::wanting(&arguments.head);
    for (index, path) in arguments.files.iter().enumerate() {
        let (before, later) = (&arguments.files[..index], &arguments.files[index + 1..]);
        if before.contains(path) {
            return Err(VerifyError::NamedTwice(path.display().to_string()));
        }
        chains.read(path, later)?;
    }
    let (chains, missing) = chains.end();
    let mut findings = ChainFindings::default();
    for chain in chains {
        findings.add(chain);
    }
    if findings.good.is_empty() && findings.bad.is_empty() {
        findings.bad.push(VerifyError::NoChain.to_string());
    }
    // The heads of a chain that breaks are not looked for behind the break.
    if findings.bad.is_empty() {
        findings.bad.extend(missing.iter().map(|head| VerifyError::HeadGone(head.seq).to_string()));
    }
    Ok(findings)
}

impl ChainFindings {
    /// Adds what is said about one chain, with the name of its member in front.
    fn add(&mut self, chain: MemberChain) {
        let prefix = chain.member.as_ref().map(|member| format!("{member}: ")).unwrap_or_default();
        match chain.verified() {
            Ok(lines) => self.good.extend(lines.iter().map(|line| format!("{prefix}{line}"))),
            Err(failed) => self.bad.push(format!("{prefix}{failed}")),
        }
    }
}
