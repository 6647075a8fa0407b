//! The questions of `callgate init`, and the options that answer them.

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use crate::cli::print_remark;
use crate::model::secret::Secret;

/// The domain of a caller where no answer names it: the app's claim alone.
const DOMAIN: &str = "{tenant}";

/// The options that answer the questions.
#[derive(Debug, clap::Args)]
pub(super) struct GivenAnswers {
    /// The address to listen at [default: 0.0.0.0:443]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The host name of the app, as browsers name it
    #[arg(long, value_name = "NAME")]
    app_host: Option<String>,
    /// The host name of the PBX, as browsers name it
    #[arg(long, value_name = "NAME")]
    pbx_host: Option<String>,
    /// The certificate for these names and its issuers, in PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The private key of the certificate
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Order the certificate at Let's Encrypt, which connects to these names at port 443
    #[arg(long, conflicts_with = "certificate")]
    acme: bool,
    /// Make a certificate for development
    #[arg(long, conflicts_with_all = ["certificate", "acme"])]
    development_certificate: bool,
    /// Where the app listens, such as http://127.0.0.1:3000
    #[arg(long, value_name = "URL")]
    app_url: Option<String>,
    /// The path of the app that answers with the user of a cookie, such as /api/me
    #[arg(long, value_name = "PATH")]
    whoami: Option<String>,
    /// Where the PBX listens, such as http://127.0.0.1:8080
    #[arg(long, value_name = "URL")]
    pbx_url: Option<String>,
    /// The name of the PBX administrator with whose rights callgate opens sessions
    #[arg(long, value_name = "NAME")]
    pbx_admin: Option<String>,
    /// The PBX domain of a caller, in claims of the app, such as {tenant}.example.com [default: {tenant}]
    #[arg(long, value_name = "DOMAIN")]
    pbx_domain: Option<String>,
    /// The file with the administrator's password; without it one line of standard input
    #[arg(long, value_name = "FILE", requires = "pbx_admin")]
    pbx_password_file: Option<PathBuf>,
    /// The users of Voximplant, as htdigest and `callgate hash` write them
    #[arg(long, value_name = "FILE")]
    voximplant_users: Option<PathBuf>,
}

/// The answers to all questions.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) listen: String,
    pub(super) app_host: Option<String>,
    pub(super) pbx_host: Option<String>,
    pub(super) certificate: CertificateAnswer,
    pub(super) app_url: Option<String>,
    pub(super) whoami: Option<String>,
    pub(super) pbx: Option<PbxAnswers>,
    pub(super) voximplant_users: Option<PathBuf>,
}

impl Answers {
    /// Returns the host names of app and PBX.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.app_host.iter().chain(&self.pbx_host).map(String::as_str)
    }

    pub(super) fn pbx_admin(&self) -> Option<&PbxAdmin> {
        self.pbx.as_ref()?.admin.as_ref()
    }
}

/// Where the certificate comes from.
#[derive(Debug)]
pub(super) enum CertificateAnswer {
    /// The files of the chain and the key.
    Files(PathBuf, PathBuf),
    /// callgate orders it.
    Acme,
    /// One for development is made now.
    Development,
}

/// The answers about the PBX.
#[derive(Debug)]
pub(super) struct PbxAnswers {
    pub(super) url: String,
    pub(super) admin: Option<PbxAdmin>,
}

/// The administrator with whose rights callgate opens sessions.
#[derive(Debug)]
pub(super) struct PbxAdmin {
    pub(super) user: String,
    pub(super) password: AdminPassword,
    /// The domain of a caller, as a rule writes it.
    pub(super) domain: String,
}

/// Where the administrator's password is.
#[derive(Debug)]
pub(super) enum AdminPassword {
    /// In a file that exists.
    File(PathBuf),
    /// It was given here, and goes into a file.
    Given(Secret),
}

/// Why there are no answers.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("cannot read the answer: {0}")]
    Io(#[from] io::Error),
    #[error("the answers ended early: name the rest by options, or add --non-interactive")]
    Ended,
    #[error("the certificate is missing: name --certificate and --key, --acme or --development-certificate")]
    NoCertificate,
    #[error("a certificate needs a name: give --app-host, --pbx-host or both")]
    NoHost,
    #[error("there is nothing to serve: name --app-url, --pbx-url or both")]
    NoUpstream,
    #[error("the private key of the certificate is missing")]
    NoKey,
    #[error("the administrator's password is empty")]
    NoPassword,
}

/// Asks at the terminal what no option answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Questions {
    pub(super) are_asked: bool,
}

impl Questions {
    /// Asks all questions.
    ///
    /// # Errors
    /// When an answer is missing that a configuration cannot be without.
    pub(super) fn answers(self, given: &GivenAnswers) -> Result<Answers, AnswerError> {
        self.title("1. Where browsers find callgate (an answer in brackets is taken with the enter key; - is none)");
        let listen = self.ask("address to listen at", given.listen.as_ref(), "0.0.0.0:443")?;
        let listen = listen.unwrap_or_else(|| "0.0.0.0:443".to_owned());
        let app_host = self.ask("host name of the app", given.app_host.as_ref(), "-")?;
        let pbx_host = self.ask("host name of the PBX", given.pbx_host.as_ref(), "-")?;
        let certificate = self.certificate(given)?;
        if !matches!(certificate, CertificateAnswer::Files(..)) && app_host.is_none() && pbx_host.is_none() {
            return Err(AnswerError::NoHost);
        }
        self.title("3. The app");
        let app_url = self.ask("URL", given.app_url.as_ref(), "http://127.0.0.1:3000")?;
        let whoami = match app_url {
            Some(_) => self.ask("path that answers with the user of a cookie", given.whoami.as_ref(), "/api/me")?,
            None => None,
        };
        let pbx = self.pbx(given)?;
        if app_url.is_none() && pbx.is_none() {
            return Err(AnswerError::NoUpstream);
        }
        self.title("5. Voximplant");
        let users = given.voximplant_users.as_ref().map(|path| path.display().to_string());
        let voximplant_users = self.ask("file of the users, as htdigest writes it", users.as_ref(), "-")?;
        let voximplant_users = voximplant_users.map(PathBuf::from);
        Ok(Answers { listen, app_host, pbx_host, certificate, app_url, whoami, pbx, voximplant_users })
    }

    fn certificate(self, given: &GivenAnswers) -> Result<CertificateAnswer, AnswerError> {
        if let (Some(chain), Some(key)) = (&given.certificate, &given.key) {
            return Ok(CertificateAnswer::Files(chain.clone(), key.clone()));
        }
        if given.acme {
            return Ok(CertificateAnswer::Acme);
        }
        if given.development_certificate {
            return Ok(CertificateAnswer::Development);
        }
        if !self.are_asked {
            return Err(AnswerError::NoCertificate);
        }
        self.title("2. Certificate");
        let question = "file in PEM, acme to order it at Let's Encrypt, or - to make one for development";
        match self.ask(question, None, "-")?.as_deref() {
            None => Ok(CertificateAnswer::Development),
            Some("acme") => Ok(CertificateAnswer::Acme),
            Some(chain) => {
                let key = self.ask("file of its private key", None, "-")?.ok_or(AnswerError::NoKey)?;
                Ok(CertificateAnswer::Files(chain.into(), key.into()))
            }
        }
    }

    fn pbx(self, given: &GivenAnswers) -> Result<Option<PbxAnswers>, AnswerError> {
        self.title("4. The PBX");
        let Some(url) = self.ask("URL", given.pbx_url.as_ref(), "http://127.0.0.1:8080")? else { return Ok(None) };
        let Some(user) = self.ask("name of its administrator", given.pbx_admin.as_ref(), "sso")? else {
            return Ok(Some(PbxAnswers { url, admin: None }));
        };
        let password = match &given.pbx_password_file {
            Some(file) => AdminPassword::File(file.clone()),
            None => AdminPassword::Given(ask_password()?),
        };
        let question = "domain of a caller, in claims of the app";
        let domain = self.ask(question, given.pbx_domain.as_ref(), DOMAIN)?.unwrap_or_else(|| DOMAIN.to_owned());
        Ok(Some(PbxAnswers { url, admin: Some(PbxAdmin { user, password, domain }) }))
    }

    fn title(self, title: &str) {
        if self.are_asked {
            print_remark(&title);
        }
    }

    /// Returns the given answer, else that of the person; without questions, none.
    fn ask(self, question: &str, given: Option<&String>, default: &str) -> Result<Option<String>, AnswerError> {
        if given.is_some() || !self.are_asked {
            return Ok(given.cloned());
        }
        print_remark(&format_args!("   {question} [{default}]:"));
        let line = read_line()?.ok_or(AnswerError::Ended)?;
        let answer = if line.trim().is_empty() { default } else { line.trim() };
        Ok((answer != "-").then(|| answer.to_owned()))
    }
}

/// Reads the password: at a terminal without echo, else from one line of standard input.
fn ask_password() -> Result<Secret, AnswerError> {
    let password = match io::stdin().is_terminal() {
        true => rpassword::prompt_password("   its password: ")?,
        false => read_line()?.ok_or(AnswerError::NoPassword)?,
    };
    if password.is_empty() { Err(AnswerError::NoPassword) } else { Ok(Secret::new(password)) }
}

/// Reads one line, without its end; nothing at the end of the input.
fn read_line() -> io::Result<Option<String>> {
    let mut line = String::new();
    let is_end = io::stdin().lock().read_line(&mut line)? == 0;
    Ok((!is_end).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
}
