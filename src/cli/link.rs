//! `callgate link`: prints a signed link that logs one person in, once.

use std::process::ExitCode;
use std::time::Duration;

use http::uri::Authority;
use jiff::{SignedDuration, Timestamp};

use super::{CommandResult, ConfigArgument, EX_USAGE, load, print_line, print_remark, time_args};
use crate::config::{Config, HostPattern, LinkConfig, MethodKind};
use crate::model::link;
use crate::model::path::PBX_PATH;
use crate::random;

/// How many random bytes make a nonce.
const NONCE: usize = 16;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The claim `account`: the extension
    #[arg(long)]
    account: Option<String>,
    /// The claim `domain`: the tenant of the PBX
    #[arg(long)]
    domain: Option<String>,
    /// The claim `user`
    #[arg(long)]
    user: Option<String>,
    /// The claim `lang`: the language of the PBX's pages
    #[arg(long)]
    lang: Option<String>,
    /// Another claim; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = claim)]
    claim: Vec<(String, String)>,
    /// The host of the link, with its port if that is not 443; the first of `hosts` of [app] or [pbx] when not given
    #[arg(long)]
    host: Option<String>,
    /// How long the link lives, such as 30s; `ttl` of the method when not given
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    ttl: Option<Duration>,
    /// The method, by its name; the first of type "link" when not given
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let config = load(arguments.config.path())?;
    let url = url(&config, arguments, Timestamp::now()).map_err(|problem| {
        print_remark(&format_args!("callgate: {problem}"));
        ExitCode::from(EX_USAGE)
    })?;
    if arguments.host.is_none()
        && let Some(port) = other_port(&config)
    {
        print_remark(&format_args!(
            "callgate: the link is for port 443; where browsers see callgate at port {port}, add the host with its port: --host …:{port}"
        ));
    }
    print_line(&url)
}

/// Returns the port at which callgate listens, if it listens at none that browsers see as 443. With port 0, the system
/// chooses one that is not known here.
fn other_port(config: &Config) -> Option<u16> {
    let mut ports = config.listen.iter().map(|listen| listen.tcp().map_or(443, |at| at.port()));
    let first = ports.next()?;
    let is_mapped = config.redirect_http.as_ref().is_some_and(|redirect| redirect.port == Some(443));
    (![0, 443].contains(&first) && !is_mapped && ports.all(|port| port != 443)).then_some(first)
}

/// Takes a host with an optional port, as browsers name it.
fn given_host(text: &str) -> Result<String, String> {
    let host = text.parse::<Authority>().ok().filter(|host| !text.contains('@') && host.as_str() == text);
    host.map(|host| host.as_str().to_ascii_lowercase())
        .ok_or_else(|| "--host takes a host name, with its port if that is not 443: portal.example.com:8443".to_owned())
}

/// Takes a duration with its unit, or seconds.
fn lifetime(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(0) => Err("a link must live for 1s at least".to_owned()),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => time_args::duration(text),
    }
}

/// Returns the link, or what is missing for it.
fn url(config: &Config, arguments: &Arguments, now: Timestamp) -> Result<String, String> {
    let links = links(config, arguments.method.as_deref())?;
    let host = match &arguments.host {
        Some(host) => given_host(host)?,
        None => first_host(config, arguments.domain.as_deref()).ok_or("the host is missing: name it with --host")?,
    };
    let claims = claims(arguments)?;
    let ttl = arguments.ttl.unwrap_or(links.ttl);
    if ttl > links.ttl {
        let longest = links.ttl.as_secs();
        return Err(format!("links of this method live for {longest} s at most: its `ttl` can be raised to 15min"));
    }
    let expires = now.checked_add(ttl).map_err(|_| "the end of the link is out of range")?;
    let key = links.keys.first().ok_or("the method has no key")?;
    if key.is_unseen() {
        let unseen = config.unseen.iter().find(|unseen| unseen.path == "auth.keys.secret");
        return Err(unseen.map_or_else(String::new, |unseen| unseen.problem.to_string()));
    }
    let query = key.sign(&host, &claims, expires, &random::text::<NONCE>());
    // Verified as the gate will verify it.
    let ttl = SignedDuration::try_from(links.ttl).unwrap_or_default();
    link::read(&query, &host, &links.keys, ttl, now).map_err(|invalid| invalid.to_string())?;
    Ok(format!("https://{host}{PBX_PATH}?{query}"))
}

fn links<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c LinkConfig, String> {
    let mut links = config.methods.iter().filter_map(|method| match &method.kind {
        MethodKind::Link(links) if name.is_none_or(|name| method.name == name) => Some(links),
        _ => None,
    });
    links.next().ok_or_else(|| match name {
        Some(name) => format!("no method of type \"link\" has the name {name}"),
        None => "there is no [[auth]] with type = \"link\"".to_owned(),
    })
}

fn claims(arguments: &Arguments) -> Result<Vec<(&str, &str)>, String> {
    let given = [
        ("account", &arguments.account),
        ("domain", &arguments.domain),
        ("user", &arguments.user),
        ("lang", &arguments.lang),
    ];
    let named = given.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
    let mut claims: Vec<_> =
        named.chain(arguments.claim.iter().map(|(name, value)| (name.as_str(), value.as_str()))).collect();
    claims.sort_unstable();
    match claims.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(format!("the claim {} is given twice", pair[0].0)),
        None if !claims.iter().any(|(name, _)| ["account", "user", "sub"].contains(name)) => {
            Err("the person is missing: name --account, --user or --claim sub=…".to_owned())
        }
        None => Ok(claims),
    }
}

fn claim(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Returns the first host of the app, else of the PBX node that has the tenant, else of the PBX.
fn first_host(config: &Config, domain: Option<&str>) -> Option<String> {
    let app = config.app.iter().map(|app| &app.upstream);
    let node = domain.and_then(|domain| config.pbx.of_domain(&domain.to_ascii_lowercase()));
    let node = node.map(|node| &config.pbx[node].upstream);
    let all = app.chain(node).chain(config.pbx.iter().map(|pbx| &pbx.upstream));
    all.flat_map(|upstream| &upstream.hosts).find_map(HostPattern::exact).map(str::to_owned)
}
