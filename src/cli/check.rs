//! `callgate check`: reports errors in a configuration, without serving it.

mod engine;
mod pbx_version;

use std::fmt::Display;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri};
use jiff::Timestamp;
use tokio::runtime::{self, LocalOptions};
use tokio::time::timeout;

use super::unstarted_gate::UnstartedGate;
use super::{CommandResult, ConfigArgument, EX_CONFIG, accept, environment, print_line, print_remark, report_error};
use crate::auth::{self, Provider};
use crate::config::{
    self, AppMethodConfig, ChainFlaw, Config, JwtKeySource, Listen, LoginOrigin, MethodKind, OutboundProxy, PbxConfig,
};
use crate::model::account::{Account, Role};
use crate::model::upstream_name::UpstreamName;
use crate::observe::metrics::Tally;
use crate::observe::{Logs, causes};
use crate::pbx::{self, Pbx};
use crate::state::{OpenError, Store};
use crate::upstream::{self, Connector, PassthroughTarget, RequestBody, Upstream, UpstreamResponse};

pub(super) fn run(config: &ConfigArgument, online: bool) -> CommandResult {
    config.tell();
    let path = config.path();
    let config = Arc::new(accept(config::load_elsewhere(path, &environment))?);
    for unseen in &config.unseen {
        print_remark(&format_args!("warning: {}", unseen.problem));
    }
    let name = path.display();
    let start_problems = start_problems(&config);
    for problem in &start_problems {
        print_remark(&format_args!("{name}: {problem}"));
    }
    // `run` would start, and say the same each hour.
    let alarms = config.certificate_alarms(Timestamp::now());
    for alarm in &alarms {
        print_remark(alarm);
    }
    if !start_problems.is_empty() || !alarms.is_empty() {
        return Err(ExitCode::from(EX_CONFIG));
    }
    for note in notes(&config) {
        print_remark(&format_args!("note: {name}: {note}"));
    }
    if !online {
        return print_line(&format_args!("{name}: ok"));
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = runtime.map_err(|error| report_error("cannot start", &error))?;
    let problems = runtime.block_on(try_all(&config));
    for problem in &problems {
        print_remark(&format_args!("{name}: {problem}"));
    }
    if !problems.is_empty() {
        return Err(ExitCode::from(EX_CONFIG));
    }
    print_line(&format_args!("{name}: ok, and everything it names answers"))
}

/// Returns what `run` would refuse, without opening a port and without creating or changing a file.
fn start_problems(config: &Arc<Config>) -> Vec<String> {
    let mut problems = Vec::new();
    if let Err(error) = UnstartedGate::build(Arc::clone(config)) {
        problems.push(causes(&*error));
    }
    if let Err(error) = Logs::inspect(config) {
        problems.push(format!("cannot open the log {error}: let the user callgate runs as write it"));
    }
    match config.state.as_deref().map(Store::inspect) {
        // A running gate has it open.
        None | Some(Ok(()) | Err(OpenError::Locked(_))) => {}
        Some(Err(error)) => problems.push(causes(&error)),
    }
    problems
}

/// Returns facts that are right only where they are intended.
fn notes(config: &Config) -> Vec<String> {
    let state = config.state.as_deref().filter(|path| matches!(Store::inspect(path), Err(OpenError::Locked(_))));
    let state = state.map(|path| {
        format!(
            "another process has the state file {} open: a gate runs with it, and a second one could not start",
            path.display()
        )
    });
    let chains = config.certificates.iter().filter_map(|certificate| match certificate.flaw() {
        Some(ChainFlaw::Private(issuer)) => Some(format!(
            "the chain for {} ends below {issuer}, which is not a public authority: clients must trust it, or its certificate must be in the file",
            certificate.name()
        )),
        Some(ChainFlaw::Disordered(_) | ChainFlaw::Incomplete(_)) | None => None,
    });
    state.into_iter().chain(chains).chain(config.pbx.iter().filter_map(|pbx| unseen_port(config, pbx))).collect()
}

/// Tells that `auto` names a port at which callgate does not listen: another program may lead browsers from there to here.
fn unseen_port(config: &Config, pbx: &PbxConfig) -> Option<String> {
    let LoginOrigin::Other { port, origin, .. } = &pbx.auto.as_ref()?.at else { return None };
    let is_seen = |at: &Listen| at.tcp().is_none_or(|at| at.port() == *port);
    let is_mapped = config.redirect_http.is_some_and(|redirect| redirect.port == Some(*port));
    let is_hidden = !is_mapped && !config.listen.iter().any(is_seen);
    is_hidden.then(|| {
        format!(
            "`auto` is {origin}, at port {port}, where callgate does not listen: right only where browsers see callgate at port {port}"
        )
    })
}

/// Prints a fact that was found on the way. A failed write is ignored here: the last line fails as well.
fn print_fact(fact: &dyn Display) {
    let _ = print_line(fact);
}

/// Tries everything the configuration names, and returns what does not work, each with advice.
async fn try_all(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(app) = &config.app {
        let found = try_app(config, app).await;
        problems.extend(with_tls_hint(found, &app.upstream, (UpstreamName::App, "app")).await);
    }
    for (node, pbx) in config.pbx.indexed() {
        let table = config.pbx.label(node).map_or_else(|| "pbx".to_owned(), |label| format!("pbx {label}"));
        let found = try_pbx(config, pbx, &table).await;
        problems.extend(with_tls_hint(found, &pbx.upstream, (UpstreamName::Pbx, &table)).await);
    }
    for passthrough in &config.passthrough {
        problems.extend(try_target(passthrough).await);
    }
    if let Some(shared) = &config.shared {
        if config.unseen.iter().any(|unseen| unseen.path.starts_with("shared.")) {
            print_fact(&"shared: a secret for the engine cannot be seen here, so the engine was not asked");
        } else {
            problems.extend(engine::report(shared).await);
        }
    }
    for method in &config.methods {
        problems.extend(try_keys(method).await);
        problems.extend(try_provider(method).await);
    }
    problems
}

/// Adds a hint to the problems of an upstream when an address of it speaks TLS although `url` says plain HTTP.
///
/// Without problems it does not look.
async fn with_tls_hint(
    mut problems: Vec<String>,
    upstream: &config::UpstreamConfig,
    (side, table): (UpstreamName, &str),
) -> Vec<String> {
    if let (false, Ok(connector)) = (problems.is_empty(), Connector::new(upstream, side)) {
        let mistaken = connector.plain_urls_that_speak_tls().await.into_iter();
        let hint = |address| format!("{table}: {address} speaks TLS: write https:// in `url`");
        problems.extend(mistaken.map(hint));
    }
    problems
}

async fn try_app(config: &Config, app: &config::AppConfig) -> Vec<String> {
    let (upstream, mut problems) = open(config, &app.upstream, (UpstreamName::App, "app")).await;
    let Some(upstream) = upstream else { return problems };
    for method in &config.methods {
        if let MethodKind::App(whoami) = &method.kind
            && let Err(problem) = try_whoami(&upstream, whoami).await
        {
            problems.push(format!("method {:?}: {problem}", method.name));
        }
    }
    problems
}

/// Asks the app's whoami without a credential: the answer must be 401 or 403.
async fn try_whoami(upstream: &Rc<Upstream>, whoami: &AppMethodConfig) -> Result<(), String> {
    let uri: Uri = whoami.path.parse().map_err(|_| format!("{} is not a path", whoami.path))?;
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let asked = upstream.send_fresh(upstream::request(Method::GET, uri, headers, RequestBody::Empty));
    let answer = timeout(whoami.timeout, asked).await.map_err(|_| format!("{} did not answer in time", whoami.path))?;
    match answer.map_err(|error| causes(&error))? {
        UpstreamResponse::Final(response)
            if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) =>
        {
            Ok(())
        }
        UpstreamResponse::Final(response) => {
            let advice = match response.status() {
                StatusCode::OK => "or every caller is logged in",
                _ => "is this the path, and does the app answer there without a redirect?",
            };
            let status = response.status();
            Err(format!("{} answers {status} to a caller without a cookie; it must answer 401: {advice}", whoami.path))
        }
        UpstreamResponse::Upgraded(..) => Err(format!("{} switches protocols", whoami.path)),
    }
}

/// Connects to a target of `[[passthrough]]`. Which TLS it speaks is between it and its clients.
async fn try_target(passthrough: &config::PassthroughConfig) -> Option<String> {
    let error = PassthroughTarget::new(&passthrough.to, passthrough.connect).probe().await.err()?;
    Some(format!("passthrough: cannot connect to {}: {}", passthrough.to, causes(&error)))
}

/// Fetches the keys of a `jwt` method and prints how many there are.
async fn try_keys(method: &config::MethodConfig) -> Option<String> {
    let MethodKind::Jwt(config::JwtConfig { keys: JwtKeySource::Fetched(at), .. }) = &method.kind else { return None };
    print_outbound(method, &at.url, at.outbound_proxy.as_deref());
    match auth::fetch_once(at).await {
        Ok(fetched) => {
            let (count, kinds, skipped) = (fetched.keys.count(), fetched.keys.algorithms(), fetched.skipped);
            print_fact(&format_args!(
                "method {:?}: {} has {count} keys, for {kinds:?}; {skipped} others cannot be used",
                method.name, at.url
            ));
            None
        }
        Err(problem) => Some(format!("method {:?}: {}: {problem}", method.name, at.url)),
    }
}

/// Prints that a URL is fetched through the environment's proxy, if it is.
fn print_outbound(method: &config::MethodConfig, url: &Uri, proxy: Option<&OutboundProxy>) {
    if let Some(proxy) = proxy.filter(|proxy| proxy.is_for(url)) {
        let OutboundProxy { address, variable, .. } = proxy;
        print_fact(&format_args!(
            "method {:?}: {url} is reached through the proxy {address} of {variable}",
            method.name
        ));
    }
}

/// Fetches the metadata and the keys of an identity provider.
async fn try_provider(method: &config::MethodConfig) -> Option<String> {
    let MethodKind::Oidc(settings) = &method.kind else { return None };
    if let Ok(issuer) = settings.issuer.parse() {
        print_outbound(method, &issuer, settings.outbound_proxy.as_deref());
    }
    let problem = match Provider::new(settings) {
        Ok(provider) => causes(&*provider.try_once().await.err()?),
        Err(error) => causes(&error),
    };
    Some(format!("method {:?}: the identity provider {}: {problem}", method.name, settings.issuer.as_str()))
}

/// Asks the PBX for its version, and for a session in a domain that cannot exist. With the right password the PBX answers
/// that the domain is unknown.
async fn try_pbx(config: &Config, settings: &PbxConfig, table: &str) -> Vec<String> {
    let (upstream, mut problems) = open(config, &settings.upstream, (UpstreamName::Pbx, table)).await;
    let Some(upstream) = upstream else { return problems };
    problems.extend(pbx_version::report(&upstream, settings, table).await);
    let Some(admin) = &settings.admin else { return problems };
    if admin.password.is_unseen() {
        print_fact(&format_args!("{table}: the password of {:?} cannot be seen here, so it was not tried", admin.user));
        return problems;
    }
    let unknown =
        Account::new("callgate-check", "callgate-check.invalid".parse().expect("a host name")).expect("an account");
    let problem = match Pbx::new(upstream, None, settings, admin, Arc::default(), Tally::default())
        .mint(&Role::User(unknown))
        .await
    {
        Ok(_) => {
            "the PBX opens sessions in domains that do not exist: does `url` lead to a Vodia PBX? It must refuse them"
                .to_owned()
        }
        Err(pbx::Error::Unknown) => return problems,
        Err(pbx::Error::Refused { .. }) => format!(
            "the PBX refuses the password of {:?}: correct `pbx.admin`, and mind that the PBX blocks addresses after some failures",
            admin.user
        ),
        Err(pbx::Error::NotPermitted) => {
            format!("{:?} may not open sessions: give the administrator the API right on the PBX", admin.user)
        }
        Err(error) => causes(&error),
    };
    problems.push(format!("{table}: {problem}"));
    problems
}

/// Connects to every `url` of an upstream, and prints the pins of the keys it sees.
///
/// Returns the upstream, if one of the addresses works, and the problems of the others.
async fn open(
    config: &Config,
    upstream: &config::UpstreamConfig,
    (side, table): (UpstreamName, &str),
) -> (Option<Rc<Upstream>>, Vec<String>) {
    let connector = match Connector::new(upstream, side) {
        Ok(connector) => connector,
        Err(error) => return (None, vec![format!("{table}: {}", causes(&error))]),
    };
    let (mut problems, mut works) = (Vec::new(), false);
    for probe in connector.probe_all().await {
        if let Some(pin) = probe.pin {
            print_fact(&format_args!("{table}: {} has the key of pin = \"{pin}\"", probe.address));
        }
        match probe.connected {
            Ok(()) => works = true,
            Err(error) => problems.push(format!("{table}: cannot connect to {}: {}", probe.address, causes(&error))),
        }
    }
    let idle = config.server.timeouts.body_idle;
    (works.then(|| Upstream::new(connector, upstream.timeouts, idle, side, &Tally::default())), problems)
}
