//! `callgate keys`: the file of the keys that all members share.

mod ring_file;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use self::ring_file::RingFile;
use super::{
    CommandResult, ConfigArgument, EX_USAGE, environment, print_line, print_remark, report_error, report_problems,
};
use crate::config::{self, MethodKind};
use crate::model::key_ring::KeyRingError;
use crate::model::key_rotation::{RingText, RotationStepError};
use crate::random;

/// The shortest time for which an old key is kept: sessions of TLS are resumed for as long.
const SHORTEST_LIFE: Duration = Duration::from_secs(12 * 3600);
/// For how much longer marks are kept than what they mark is valid.
const MARGIN: Duration = Duration::from_secs(30 * 60);

#[derive(Debug, clap::Subcommand)]
pub(super) enum KeysCommand {
    /// Make the file of the keys, or do the next step of replacing its first key
    Rotate(RotateArguments),
}

/// Without --promote and --drop: makes the file with one key, or adds a key that reads and does not write yet.
#[derive(Debug, clap::Args)]
pub(super) struct RotateArguments {
    /// The file; `keys` of [shared] when not given
    file: Option<PathBuf>,
    /// Let the added key write, once all members have read the file with it
    #[arg(long)]
    promote: bool,
    /// Remove the oldest key, once what it wrote has expired
    #[arg(long, conflicts_with = "promote")]
    drop: bool,
    /// Remove all keys but the first, and at once, because others may know them: what they wrote is worth nothing from then on
    #[arg(long, requires = "drop")]
    at_once: bool,
    #[command(flatten)]
    config: ConfigArgument,
}

/// Why the file stays as it is, or is not made.
#[derive(Debug, thiserror::Error)]
enum RotateError {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("{0}; it is no key ring")]
    NotARing(#[from] KeyRingError),
    #[error(transparent)]
    Step(#[from] RotationStepError),
    #[error("it does not exist yet; make it without --promote and --drop")]
    Missing,
    #[error(
        "what the oldest key wrote expires at {0:.0}; wait, or drop all older keys now with --at-once, which ends those logins"
    )]
    TooEarly(Timestamp),
}

/// What was done.
enum DoneStep {
    Made,
    Added,
    /// With the time at which the old key's texts have expired.
    Promoted(Timestamp),
    Dropped,
}

pub(super) fn run(command: &KeysCommand) -> CommandResult {
    match command {
        KeysCommand::Rotate(arguments) => rotate(arguments),
    }
}

fn rotate(arguments: &RotateArguments) -> CommandResult {
    let file = file(arguments)?;
    let (done, count) = change(&file, arguments).map_err(|error| report_error(&outcome(&file), &error))?;
    let keys = if count == 1 { "key" } else { "keys" };
    print_line(&format_args!("{} has {count} {keys}; the first writes, all read", file.display()))?;
    match done {
        DoneStep::Made => Ok(()),
        done => print_line(&next_step(&done, &file)),
    }
}

/// Says what there is after a step that failed.
fn outcome(file: &Path) -> String {
    match file.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => format!("no key ring at {}", file.display()),
        Ok(_) | Err(_) => format!("{} stays as it is", file.display()),
    }
}

/// Returns the file that is named, or the one of the configuration.
fn file(arguments: &RotateArguments) -> Result<PathBuf, ExitCode> {
    if let Some(file) = &arguments.file {
        return Ok(file.clone());
    }
    let named = config::key_ring_file(arguments.config.path()).map_err(|problems| report_problems(&problems))?;
    named.ok_or_else(|| {
        let config = arguments.config.path().display();
        print_remark(&format_args!("callgate: {config} has no `keys` in [shared]: name the file"));
        ExitCode::from(EX_USAGE)
    })
}

fn change(path: &Path, arguments: &RotateArguments) -> Result<(DoneStep, usize), RotateError> {
    let file = RingFile::open(path)?;
    let Some(text) = file.text() else {
        if arguments.promote || arguments.drop {
            return Err(RotateError::Missing);
        }
        let ring = RingText::new(&Zeroizing::new(random::bytes()));
        file.write(&ring.text())?;
        return Ok((DoneStep::Made, 1));
    };
    let mut ring = RingText::parse(text)?;
    let done = step(&mut ring, arguments)?;
    file.write(&ring.text())?;
    Ok((done, ring.count()))
}

/// Changes the ring by one step.
fn step(ring: &mut RingText, arguments: &RotateArguments) -> Result<DoneStep, RotateError> {
    let now = Timestamp::now();
    if arguments.promote {
        ring.promote(now)?;
        return Ok(DoneStep::Promoted(expiry(now, arguments.config.path())));
    }
    if !arguments.drop {
        ring.add(&Zeroizing::new(random::bytes()))?;
        return Ok(DoneStep::Added);
    }
    if arguments.at_once {
        ring.drop_all_older()?;
        return Ok(DoneStep::Dropped);
    }
    let expires = ring.writes_since().map(|since| expiry(since, arguments.config.path()));
    ring.drop_oldest()?;
    match expires.filter(|expires| *expires > now) {
        Some(expires) => Err(RotateError::TooEarly(expires)),
        None => Ok(DoneStep::Dropped),
    }
}

/// Returns when all that was written until a time has expired: logins at a provider live as long as `remember` says.
fn expiry(written: Timestamp, config: &Path) -> Timestamp {
    let config = config::load_elsewhere(config, &environment).ok();
    let remembered = config.iter().flat_map(|config| &config.methods).filter_map(|method| match &method.kind {
        MethodKind::Oidc(oidc) => Some(oidc.remember),
        _ => None,
    });
    let life = remembered.fold(SHORTEST_LIFE, Duration::max);
    let life = SignedDuration::try_from(life + MARGIN).unwrap_or(SignedDuration::MAX);
    written.checked_add(life).unwrap_or(Timestamp::MAX)
}

fn next_step<'s>(done: &'s DoneStep, file: &'s Path) -> impl fmt::Display + 's {
    let command = format!("callgate keys rotate {}", file.display());
    match done {
        DoneStep::Made | DoneStep::Dropped => "next: copy it to all members".to_owned(),
        DoneStep::Added => format!("next: copy it to all members; when all have read it: {command} --promote"),
        DoneStep::Promoted(expires) => {
            format!("next: copy it to all members; not before {expires:.0}: {command} --drop")
        }
    }
}
