//! Standard output and standard error of the commands. Either may be closed or full, and `println!` would panic then.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use super::CommandResult;

/// Prints a result of the command to standard output.
///
/// # Errors
/// Exit code 1 when the line cannot be written. A closed pipe is no error: its reader, such as `head`, has read enough.
pub(super) fn print_line(text: &dyn Display) -> CommandResult {
    exit_code("standard output", write_line(io::stdout(), text))
}

/// Prints a secret that the command has made to standard error, so that redirected standard output does not hold it.
///
/// # Errors
/// Exit code 1 when the line cannot be written, also to a closed pipe: the secret would be lost.
pub(super) fn print_secret(text: &dyn Display) -> CommandResult {
    write_line(io::stderr(), text).map_err(|error| report_lost("standard error", &error))
}

/// Prints a remark or an error to standard error. A failed write is ignored: there is no other place to report it.
pub(super) fn print_remark(text: &dyn Display) {
    let _ = write_line(io::stderr(), text);
}

/// Prints warnings to standard error.
pub(super) fn print_warnings<W: Display>(warnings: impl IntoIterator<Item = W>) {
    warnings.into_iter().for_each(|warning| print_remark(&format_args!("warning: {warning}")));
}

/// Turns the result of a write into the exit code, and reports an error other than a closed pipe.
pub(super) fn exit_code(stream: &str, written: io::Result<()>) -> CommandResult {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(report_lost(stream, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write_line(mut stream: impl Write, text: &dyn Display) -> io::Result<()> {
    // One write: another process may write to the same file.
    stream.write_all(format!("{text}\n").as_bytes())?;
    stream.flush()
}

fn report_lost(stream: &str, error: &io::Error) -> ExitCode {
    print_remark(&format_args!("callgate: cannot write to {stream}: {error}"));
    ExitCode::FAILURE
}
