//! `callgate explain`: which account a caller would get, by which rule, and why.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use http::Uri;
use serde_json::json;
use tokio::runtime::{self, LocalOptions};
use tokio::task::JoinSet;

use super::unstarted_gate::UnstartedGate;
use super::{
    CommandResult, ConfigArgument, EX_CONFIG, EX_UNAVAILABLE, EX_USAGE, admin_client, load, print_line, print_remark,
    report_error,
};
use crate::config::Config;
use crate::model::login::LoginKind;
use crate::model::path::{OTT_PATH, PBX_PATH};
use crate::proxy::{Explanation, LoginQuestion};

/// The argument that is replaced by a line of standard input.
const STDIN: &str = "-";

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A credential written as - is read from standard input, so that neither a list of processes nor \
                        the history of a shell shows it."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Ask the running gate at its admin listener: it knows which links are used and which limits are reached
    #[arg(long)]
    running: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The kind of login
    #[arg(long, default_value = "pbx", value_parser = login_kinds())]
    act: LoginKind,
    /// The caller's cookies, as a browser sends them
    #[arg(long, value_name = "NAME=VALUE; …")]
    cookie: Option<String>,
    /// A key or token, as in `Authorization: Bearer`
    #[arg(long, value_name = "TOKEN")]
    bearer: Option<String>,
    /// Another header field; may be repeated
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// A whole URL with the path /auth/pbx or one of `aliases`, such as a signed link
    #[arg(long, value_name = "URL", conflicts_with_all = ["host", "act"])]
    link: Option<String>,
    /// The client certificate, in PEM
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The address of the client [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// The host of the request, with its port if that is not 443 [default: the first of `hosts`]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// The account that the caller asks for
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// The domain that the caller asks for
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// The language that the caller asks for
    #[arg(long, value_name = "CODE")]
    lang: Option<String>,
    /// The Voximplant user that the caller asks for
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

/// Returns the words for `--act`.
fn login_kinds() -> impl TypedValueParser<Value = LoginKind> {
    let pbx = PossibleValue::new("pbx").help("A session of the PBX");
    let ott = PossibleValue::new("ott").help("A login token for a Voximplant one-time key");
    PossibleValuesParser::new([pbx, ott]).map(|word| if word == "ott" { LoginKind::Ott } else { LoginKind::Pbx })
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let question = question(arguments).map_err(|problem| usage_error(&problem))?;
    let explanation = if arguments.running {
        let answer = admin_client::ask_running(arguments.config.path(), "/explain", &json!(question))?;
        serde_json::from_value(answer).map_err(|error| fail(EX_UNAVAILABLE, "the gate is another version", &error))?
    } else {
        let config = load(arguments.config.path())?;
        check_secrets(&config, arguments.act)?;
        rehearse(config, &question)?.without_running_gate()
    };
    if arguments.json {
        print_line(&format_args!("{:#}", json!(explanation)))?;
    } else {
        print_line(&explanation)?;
    }
    if explanation.is_granted() { Ok(()) } else { Err(ExitCode::FAILURE) }
}

fn usage_error(problem: &dyn std::fmt::Display) -> ExitCode {
    print_remark(&format_args!("callgate: {problem}"));
    ExitCode::from(EX_USAGE)
}

/// Reports why there is no explanation, with an exit code other than 1, which means a refusal.
fn fail(code: u8, what: &str, error: &dyn Error) -> ExitCode {
    report_error(what, error);
    ExitCode::from(code)
}

// === The question ===

/// Turns the arguments into the question that a request would ask.
fn question(arguments: &Arguments) -> Result<LoginQuestion, String> {
    let mut stdin = StdinLine::default();
    let mut headers = Vec::new();
    if let Some(cookie) = &arguments.cookie {
        headers.push(("cookie".to_owned(), stdin.in_place_of(cookie)?));
    }
    if let Some(token) = &arguments.bearer {
        headers.push(("authorization".to_owned(), format!("Bearer {}", stdin.in_place_of(token)?)));
    }
    for header in &arguments.header {
        let line = stdin.in_place_of(header)?;
        let (name, value) = line.split_once(':').ok_or("a header field is written as 'Name: value'")?;
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    if headers.iter().any(|(name, value)| name == "cookie" && !value.contains('=')) {
        return Err("a cookie is written with its name, as 'name=value'".to_owned());
    }
    let link = arguments.link.as_deref().map(|link| LinkUrl::read(&stdin.in_place_of(link)?)).transpose()?;
    let (host, target) = link.map_or((None, None), |link| (Some(link.host), Some(link.target)));
    Ok(LoginQuestion {
        act: arguments.act,
        host: host.or_else(|| arguments.host.clone()),
        from: arguments.from,
        headers,
        target: Some(with_selectors(target, arguments)),
        certificate: arguments.certificate.as_deref().map(read).transpose()?,
        user: arguments.user.clone(),
    })
}

/// Returns the path and the query of a link, or of a login without one, with the selectors of the arguments appended.
fn with_selectors(linked: Option<String>, arguments: &Arguments) -> String {
    let mut target = linked.unwrap_or_else(|| match arguments.act {
        LoginKind::Pbx => PBX_PATH.to_owned(),
        LoginKind::Ott => OTT_PATH.to_owned(),
    });
    for (name, value) in [("account", &arguments.account), ("domain", &arguments.domain), ("lang", &arguments.lang)] {
        if let Some(value) = value {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str(&form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish());
        }
    }
    target
}

/// Standard input, of which one line may replace one credential.
#[derive(Default)]
struct StdinLine {
    taken: bool,
}

impl StdinLine {
    fn in_place_of(&mut self, given: &str) -> Result<String, String> {
        if given != STDIN {
            return Ok(given.to_owned());
        }
        if std::mem::replace(&mut self.taken, true) {
            return Err("only one credential can be read from standard input".to_owned());
        }
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(|error| format!("cannot read standard input: {error}"))?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// The parts of a link.
struct LinkUrl {
    host: String,
    /// The path and the query.
    target: String,
}

impl LinkUrl {
    fn read(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| "the link is not a URL")?;
        let host = uri.authority().ok_or("the link has no host: write all of it, from https:// on")?.to_string();
        let target = uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
        Ok(Self { host, target })
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

// === Without a running gate ===

/// Refuses to explain without the secrets that credentials are verified with: the answer could differ from the gate's.
fn check_secrets(config: &Config, act: LoginKind) -> Result<(), ExitCode> {
    let needed = |path: &str| match path.split_once('.') {
        Some(("auth", rest)) => rest != "client_secret",
        Some(("voximplant", rest)) => act == LoginKind::Ott && rest.ends_with("users"),
        _ => false,
    };
    let missing: Vec<_> = config.unseen.iter().filter(|unseen| needed(&unseen.path)).collect();
    for unseen in &missing {
        print_remark(&unseen.problem);
    }
    if missing.is_empty() {
        return Ok(());
    }
    print_remark(&"callgate: ask the running gate instead: callgate explain --running");
    Err(ExitCode::from(EX_CONFIG))
}

/// Explains with the configuration alone, as a gate that has just started would.
fn rehearse(config: Config, question: &LoginQuestion) -> Result<Explanation, ExitCode> {
    let config = Arc::new(config);
    let UnstartedGate { shared, tls, proxy } = UnstartedGate::build(Arc::clone(&config))
        .map_err(|error| fail(EX_CONFIG, "the configuration cannot be used", &*error))?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = runtime.map_err(|error| fail(EX_UNAVAILABLE, "cannot start", &error))?;
    runtime.block_on(async {
        // These tasks fetch the keys of identity providers.
        let _chores: JoinSet<_> = shared.chores(&config).into_iter().collect();
        proxy.explain(question, &tls).await.map_err(|problem| usage_error(&problem))
    })
}
