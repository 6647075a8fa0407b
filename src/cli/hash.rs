//! `callgate hash`: hashes passwords and keys for the configuration.

use std::io::{self, BufRead, IsTerminal};

use aws_lc_rs::digest::{SHA256, digest};

use super::output::print_secret;
use super::{CommandResult, print_line, report_error};
use crate::model::ott::{VoximplantUser, users_line};
use crate::model::secret::Secret;
use crate::random;
use crate::voximplant::random_password;

/// How many random bytes make a key.
const RANDOM: usize = 24;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["user", "key"]))]
pub(super) struct Arguments {
    /// The Voximplant user's name, without `@` and the text after it
    #[arg(long, value_name = "NAME")]
    user: Option<VoximplantUser>,
    /// Make a strong password instead of asking for one. The password goes to standard error, the line to standard output
    #[arg(long)]
    generate: bool,
    /// Make a key for another server instead: the key goes to standard error, its sha256 for [[auth]] to standard output
    #[arg(long, conflicts_with = "generate")]
    key: bool,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    match &arguments.user {
        None => key(),
        Some(user) if arguments.generate => generate(user),
        Some(user) => hash(user, &ask(user).map_err(|error| report_error("no password", &error))?),
    }
}

fn hash(user: &VoximplantUser, password: &Secret) -> CommandResult {
    print_line(&users_line(user, password.expose()))
}

fn generate(user: &VoximplantUser) -> CommandResult {
    let password = random_password();
    print_secret(&format_args!("password: {}", password.expose()))?;
    hash(user, &password)
}

fn key() -> CommandResult {
    let key = Secret::new(random::text::<RANDOM>());
    print_secret(&format_args!("key: {}", key.expose()))?;
    print_line(&format_args!("sha256 = \"{}\"", hex::encode(digest(&SHA256, key.expose().as_bytes()))))
}

/// Reads a password: at a terminal twice and without echo, else from one line of standard input.
fn ask(user: &VoximplantUser) -> io::Result<Secret> {
    let password = if io::stdin().is_terminal() { ask_twice(user)? } else { read_line()? };
    if password.expose().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is empty"));
    }
    Ok(password)
}

fn ask_twice(user: &VoximplantUser) -> io::Result<Secret> {
    let password = rpassword::prompt_password(format!("Voximplant password of {user}: "))?;
    let again = Secret::new(rpassword::prompt_password("Once more: ")?);
    if password != again.expose() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the two passwords differ"));
    }
    Ok(Secret::new(password))
}

fn read_line() -> io::Result<Secret> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let text = line.strip_suffix('\n').unwrap_or(&line);
    Ok(Secret::new(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}
