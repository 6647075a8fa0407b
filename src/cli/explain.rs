//! `callgate explain`: who a caller would become, by which rule, and why.

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
use super::{Done, EX_CONFIG, EX_UNAVAILABLE, EX_USAGE, admin_client, complain, load, remark, say};
use crate::config::Config;
use crate::model::login::LoginKind;
use crate::model::path::PBX_PATH;
use crate::proxy::{Explanation, Question};

/// What stands for a line of standard input.
const STDIN: &str = "-";

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A credential that is written as - is read from standard input, so that no list of processes and \
                        no history of a shell has it."
)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "proxy.toml")]
    config: PathBuf,
    /// Ask the gate that runs with this configuration, at its admin listener: it knows what was used and what is limited
    #[arg(long)]
    running: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// What is asked for
    #[arg(long, default_value = "pbx", value_parser = login_kinds())]
    act: LoginKind,
    /// The caller's cookies, as a browser sends them
    #[arg(long, value_name = "NAME=VALUE; …")]
    cookie: Option<String>,
    /// A key or token, as behind `Authorization: Bearer`
    #[arg(long, value_name = "TOKEN")]
    bearer: Option<String>,
    /// Another header field; may be repeated
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// A whole address at /auth/pbx, such as a signed link
    #[arg(long, value_name = "URL", conflicts_with_all = ["host", "act"])]
    link: Option<String>,
    /// The client certificate, in PEM
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Where the connection comes from [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// The host that is asked [default: the first of the configuration]
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
    let ott = PossibleValue::new("ott").help("An answer to a Voximplant key");
    PossibleValuesParser::new([pbx, ott]).map(|word| if word == "ott" { LoginKind::Ott } else { LoginKind::Pbx })
}

pub(super) fn run(arguments: &Arguments) -> Done {
    let question = question(arguments).map_err(|problem| misused(&problem))?;
    let story = if arguments.running {
        let told = admin_client::order(&arguments.config, "/explain", &json!(question))?;
        serde_json::from_value(told).map_err(|error| failed(EX_UNAVAILABLE, "the gate is another version", &error))?
    } else {
        rehearse(load(&arguments.config)?, &question)?.without_running_gate()
    };
    if arguments.json {
        say(&format_args!("{:#}", json!(story)))?;
    } else {
        say(&story)?;
    }
    if story.is_granted() { Ok(()) } else { Err(ExitCode::FAILURE) }
}

fn misused(problem: &dyn std::fmt::Display) -> ExitCode {
    remark(&format_args!("callgate: {problem}"));
    ExitCode::from(EX_USAGE)
}

/// Says why nothing can be told: 1 is the exit code of a refusal.
fn failed(code: u8, what: &str, error: &dyn Error) -> ExitCode {
    complain(what, error);
    ExitCode::from(code)
}

// === The question ===

/// Writes the arguments as a request would have them.
fn question(arguments: &Arguments) -> Result<Question, String> {
    let mut lines = Lines::default();
    let mut headers = Vec::new();
    if let Some(cookie) = &arguments.cookie {
        headers.push(("cookie".to_owned(), lines.or_given(cookie)?));
    }
    if let Some(token) = &arguments.bearer {
        headers.push(("authorization".to_owned(), format!("Bearer {}", lines.or_given(token)?)));
    }
    for header in &arguments.header {
        let line = lines.or_given(header)?;
        let (name, value) = line.split_once(':').ok_or("a header field is written as 'Name: value'")?;
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    let link = arguments.link.as_deref().map(|link| Link::read(&lines.or_given(link)?)).transpose()?;
    let (host, linked) = link.map_or((None, None), |link| (Some(link.host), link.query));
    Ok(Question {
        act: arguments.act,
        host: host.or_else(|| arguments.host.clone()),
        from: arguments.from,
        headers,
        query: query(linked, arguments),
        certificate: arguments.certificate.as_deref().map(read).transpose()?,
        user: arguments.user.clone(),
    })
}

/// Adds the selectors to what a link says.
fn query(linked: Option<String>, arguments: &Arguments) -> Option<String> {
    let mut query = form_urlencoded::Serializer::new(linked.unwrap_or_default());
    for (name, value) in [("account", &arguments.account), ("domain", &arguments.domain), ("lang", &arguments.lang)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    Some(query.finish()).filter(|query| !query.is_empty())
}

/// Lines of standard input, each in the place of a credential.
#[derive(Default)]
struct Lines {
    taken: bool,
}

impl Lines {
    fn or_given(&mut self, given: &str) -> Result<String, String> {
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

struct Link {
    host: String,
    query: Option<String>,
}

impl Link {
    fn read(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| "the link is no address")?;
        let host = uri.authority().ok_or("the link names no host: write all of it, from https:// on")?.to_string();
        if uri.path() != PBX_PATH {
            return Err(format!("the link leads elsewhere than to {}", PBX_PATH));
        }
        Ok(Self { host, query: uri.query().map(str::to_owned) })
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

// === Without a running gate ===

/// Judges with what the configuration says, as a gate would that has just started.
fn rehearse(config: Config, question: &Question) -> Result<Explanation, ExitCode> {
    let UnstartedGate { shared, tls, proxy } = UnstartedGate::build(Arc::new(config))
        .map_err(|error| failed(EX_CONFIG, "the configuration cannot be used", &*error))?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = runtime.map_err(|error| failed(EX_UNAVAILABLE, "cannot start", &error))?;
    runtime.block_on(async {
        // Keys of identity providers are fetched by those.
        let _chores: JoinSet<_> = shared.chores().into_iter().collect();
        proxy.explain(question, &tls).await.map_err(|problem| misused(&problem))
    })
}
