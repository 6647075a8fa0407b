//! Standard output and standard error of the commands. Either may be closed or full, where `println!` would panic.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use super::Done;

/// Writes a line to standard output: what the command was asked for.
///
/// # Errors
/// Exit code 1 when the line is lost. A reader that has stopped reading, such as `head`, has read enough.
pub(super) fn say(text: &dyn Display) -> Done {
    finish("standard output", line(io::stdout(), text))
}

/// Writes a line to standard error that the command was asked for, and that standard output shall not have.
///
/// # Errors
/// As [`say`]; also when its reader is gone, who would have to know.
pub(super) fn say_apart(text: &dyn Display) -> Done {
    line(io::stderr(), text).map_err(|error| lost("standard error", &error))
}

/// Writes a line about the command itself to standard error. There is no third place to tell that it is lost.
pub(super) fn remark(text: &dyn Display) {
    let _ = line(io::stderr(), text);
}

/// Ends what was written to a stream with the exit code that says whether it has arrived.
pub(super) fn finish(stream: &str, written: io::Result<()>) -> Done {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(lost(stream, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn line(mut stream: impl Write, text: &dyn Display) -> io::Result<()> {
    // In one piece: another process may write to the same file.
    stream.write_all(format!("{text}\n").as_bytes())?;
    stream.flush()
}

fn lost(stream: &str, error: &io::Error) -> ExitCode {
    remark(&format_args!("callgate: cannot write to {stream}: {error}"));
    ExitCode::FAILURE
}
