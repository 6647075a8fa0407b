//! `callgate init`: writes a first configuration from the answers to five questions.

mod draft;
mod questions;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::draft::{Draft, DraftError, is_kept};
use self::questions::{Answers, CertificateAnswer, GivenAnswers, Questions};
use super::{
    CommandResult, EX_CONFIG, EX_USAGE, certs, print_line, print_remark, print_warnings, report_error, report_problems,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration to write; its secrets and certificates go beside it
    #[arg(short, long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
    /// Ask nothing: what no option names is left out
    #[arg(long)]
    non_interactive: bool,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    given: GivenAnswers,
}

/// Asks, writes the files, and prints the next steps.
pub(super) fn run(arguments: &Arguments) -> CommandResult {
    if !arguments.force && is_kept(&arguments.config) {
        return Err(report_error("nothing was written", &DraftError::Exists(arguments.config.clone())));
    }
    let questions = Questions { are_asked: !arguments.non_interactive };
    let answers = questions.answers(&arguments.given).map_err(|problem| {
        print_remark(&format_args!("callgate: {problem}"));
        ExitCode::from(EX_USAGE)
    })?;
    let draft = Draft::new(&arguments.config, &answers);
    let draft = draft.map_err(|error| report_error("nothing was written", &error))?;
    let warnings = draft.write(arguments.force).map_err(|error| match error {
        DraftError::Wrong(problems) => {
            let _ = report_problems(&problems);
            print_remark(&"callgate: nothing was written: correct the answer and start again");
            ExitCode::from(EX_CONFIG)
        }
        DraftError::Exists(_) | DraftError::Io(_) => report_error("nothing was written", &error),
    })?;
    print_warnings(&warnings);
    draft.folders().iter().for_each(|folder| certs::warn_of_owner(folder));
    for path in draft.paths() {
        let mode = path.metadata().map_or(0, |found| found.mode() & 0o777);
        print_line(&format_args!("wrote {} (mode {mode:03o})", path.display()))?;
    }
    print_line(&next_steps(&arguments.config, &answers, draft.is_system()))
}

/// `has_unit`: whether systemd runs callgate with this configuration.
fn next_steps(config: &Path, answers: &Answers, has_unit: bool) -> String {
    let name = config.display();
    let mut steps = Vec::new();
    match answers.certificate {
        CertificateAnswer::Files(..) => {}
        CertificateAnswer::Acme => steps.push(
            "let the names lead to this machine, at port 443, and read the terms of Let's Encrypt: callgate accepts them"
                .to_owned(),
        ),
        CertificateAnswer::Development => {
            let folder = config.parent().unwrap_or_else(|| Path::new("")).join("certs");
            steps.push(format!("the certificate is for development only; {}", certs::trust(&folder)));
        }
    }
    if let Some(whoami) = &answers.whoami {
        steps.push(format!(
            "let the app answer GET {whoami} with the caller of its cookie, such as\n  {{\"ext\":\"40\",\"tenant\":\"acme.example.com\",\"vox\":\"ann\"}}, and with 401 without one"
        ));
    } else {
        steps.push("add an [[auth]] method and an [[allow]] rule: without them no caller can log in".to_owned());
    }
    steps.push(format!("try what the file names:  callgate check --online -c {name}"));
    steps.push(match has_unit {
        true => "serve:  systemctl enable --now callgate".to_owned(),
        false => format!("serve:  callgate run -c {name}"),
    });
    let numbered = steps.iter().enumerate().map(|(index, step)| format!("{}. {step}", index + 1));
    format!("next:\n{}", numbered.collect::<Vec<_>>().join("\n"))
}
