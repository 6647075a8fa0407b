//! Reads the text of `proxy.toml` into a [`Config`], and reports all problems at once, each with its position.

mod admin;
mod allow;
mod audit;
mod auth;
mod auto;
mod node_keys;
mod origins;
mod own_paths;
mod pages;
mod passthrough;
mod pbx_nodes;
mod redirect_http;
mod server;
mod shared;
mod shield;
mod telemetry;
mod tls;
mod upstream;
mod values;
mod voximplant;

use std::cell::{OnceCell, RefCell};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tracing::Level;

use self::allow::RuleContext;
use self::auth::Methods;
use self::passthrough::ServedHere;
use self::tls::ReadCertificates;
pub use self::tls::chain_flaw::ChainFlaw;
pub(super) use self::tls::chain_flaw::flaw as chain_flaw;
use super::document::{TomlDocument, TomlNode, TomlTable};
use super::effective;
use super::permissions::Exposure;
use super::problem::{Problem, Problems};
use super::source::{self, CertificateFallback, ConfigText, Surroundings};
use super::{
    AccessFormat, AccessLogTarget, AuditConfig, Config, FileSnapshot, LastGood, LimitsConfig, Listen, LogConfig,
    LogFormat, RedirectHttp,
};
use crate::model::limit_set::{LIMITS, LimitSet};
use crate::model::member_name::MemberName;
use crate::model::rate::Rate;

/// The result of reading a configuration, with the files that were read.
#[derive(Debug)]
pub struct ReadOutcome {
    /// The configuration, or all its problems in the order of the file.
    pub config: Result<Config, Problems>,
    /// The configuration file and the files that it names, also those that could not be read.
    pub files: FileSnapshot,
}

/// Reads a configuration file and everything that it names.
///
/// # Errors
/// All problems, in the order of the file.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    read(path, env, &LastGood::default()).config
}

/// Reads a configuration for a command that may run outside of callgate's unit or container. A secret that is a credential or a
/// variable is then listed in `unseen` where it is not there, and is no problem.
///
/// # Errors
/// All problems, in the order of the file.
pub fn load_elsewhere(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    let around = ConfigInputs { env, files: &RefCell::default(), may_miss: true, last_good: &LastGood::default() };
    parse_file(&path.display().to_string(), &text(path)?, folder_of(path), &around)
}

/// Reads only the address of the admin listener from a configuration. So a running gate can be asked even if the rest
/// of the file is invalid, or if the user may not read its secrets.
///
/// # Errors
/// When the file cannot be read, or the address is invalid.
pub fn admin(path: &Path) -> Result<Option<Listen>, Problems> {
    let file = path.display().to_string();
    let (ConfigText { text, .. }, base) = (text(path)?, absolute(folder_of(path)));
    let document = TomlDocument::new(&file, &text);
    let listen = document.read(|root| {
        let listen = root.get("admin").and_then(|node| node.entry("listen"));
        let listen = listen.and_then(|node| values::listen(&node, &base, values::ANYWHERE));
        root.leave_unread::<()>();
        listen
    });
    let (problems, _) = document.close();
    if problems.is_empty() { Ok(listen) } else { Err(Problems::new(problems)) }
}

/// Reads only the name of the file with the keys that members share from a configuration, so that the file can be made.
///
/// # Errors
/// When the configuration cannot be read, or the name is invalid.
pub fn key_ring_file(path: &Path) -> Result<Option<PathBuf>, Problems> {
    file_of(path, "shared", "keys")
}

/// Reads only the name of the audit log from a configuration. So the log can be read by a user who may not read the secrets.
///
/// # Errors
/// When the file cannot be read, or the name is no text.
pub fn audit_file(path: &Path) -> Result<Option<PathBuf>, Problems> {
    file_of(path, "audit", "file")
}

/// Reads only the file that a key names.
fn file_of(path: &Path, table: &'static str, key: &str) -> Result<Option<PathBuf>, Problems> {
    let file = path.display().to_string();
    let (ConfigText { text, .. }, base) = (text(path)?, folder_of(path));
    let document = TomlDocument::new(&file, &text);
    let name = document.read(|root| {
        let name = root.get(table).and_then(|node| node.entry(key)).and_then(|node| node.word().map(str::to_owned));
        root.leave_unread::<()>();
        name
    });
    let (problems, _) = document.close();
    if problems.is_empty() { Ok(name.map(|name| base.join(name))) } else { Err(Problems::new(problems)) }
}

/// Reads a configuration file and everything that it names, and returns which files these are. A certificate that cannot be
/// read now stays as it was in `last_good`.
pub fn read(path: &Path, env: &dyn Fn(&str) -> Option<String>, last_good: &LastGood) -> ReadOutcome {
    let mut files = FileSnapshot::default();
    // Recorded before reading, so that a write in between counts as a change.
    files.note(path);
    let files = RefCell::new(files);
    let config = load_file(path, env, &files, last_good);
    ReadOutcome { config, files: files.into_inner() }
}

fn load_file(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    files: &RefCell<FileSnapshot>,
    last_good: &LastGood,
) -> Result<Config, Problems> {
    let inputs = ConfigInputs { env, files, may_miss: false, last_good };
    parse_file(&path.display().to_string(), &text(path)?, folder_of(path), &inputs)
}

/// What a configuration is read with.
struct ConfigInputs<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    files: &'a RefCell<FileSnapshot>,
    /// Whether secrets may be missing that only callgate's unit or container has.
    may_miss: bool,
    /// What was read before of certificates.
    last_good: &'a LastGood,
}

fn text(path: &Path) -> Result<ConfigText, Problems> {
    source::text(path).map_err(|error| {
        let (file, hint) = (path.display().to_string(), Some(error.hint(path)));
        Problems::new(vec![Problem { file, position: None, message: error.to_string(), hint }])
    })
}

/// Returns the folder of a file. For a bare name this is `.`, because an empty path cannot be made absolute.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Returns the absolute path of a folder, so that the commands in hints work in any directory.
fn absolute(folder: &Path) -> PathBuf {
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

/// Reads the text of a configuration; relative paths start at `base`.
///
/// # Errors
/// All problems, in the order of the text.
pub fn parse(text: &str, base: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
    parse_with(text, base, env, &LastGood::default())
}

/// As [`parse`]; a certificate that cannot be read now stays as it was in `last_good`.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(
    text: &str,
    base: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    last_good: &LastGood,
) -> Result<Config, Problems> {
    let text = ConfigText { text: text.to_owned(), exposure: None };
    let inputs = ConfigInputs { env, files: &RefCell::default(), may_miss: false, last_good };
    parse_file("proxy.toml", &text, base, &inputs)
}

fn parse_file(file: &str, text: &ConfigText, base: &Path, inputs: &ConfigInputs<'_>) -> Result<Config, Problems> {
    let base = absolute(base);
    let around = Surroundings {
        base: &base,
        env: inputs.env,
        now: Timestamp::now(),
        files: inputs.files,
        unseen: inputs.may_miss.then(RefCell::default),
        outbound: OnceCell::new(),
        certificates: CertificateFallback::new(inputs.last_good),
    };
    let document = TomlDocument::new(file, &text.text);
    if let Some(Exposure { is_refused, message, hint }) = text.exposure.clone() {
        document.report_file(is_refused, message, hint);
    }
    let config = document.read(|root| config(root, &around));
    report_outbound(&document, &around);
    let (problems, warnings) = document.close();
    match config {
        Some(config) if problems.is_empty() => {
            let unseen = around.unseen.map(RefCell::into_inner).unwrap_or_default();
            Ok(Config {
                file: file.to_owned(),
                written: effective::written(&text.text),
                warnings: Problems::new(warnings).into_vec(),
                unseen,
                ..config
            })
        }
        Some(_) | None => Err(Problems::new(problems)),
    }
}

/// Reports what is wrong with the environment's proxy, if a part of the configuration needs it.
fn report_outbound(document: &TomlDocument<'_>, around: &Surroundings<'_>) {
    match around.outbound.get() {
        Some(Err(unusable)) => document.report_file(true, unusable.message(), unusable.hint()),
        Some(Ok(Some(proxy))) => {
            if let Some((message, hint)) = proxy.idle_exception() {
                document.report_file(false, message, hint);
            }
        }
        Some(Ok(None)) | None => {}
    }
}

fn config(root: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<Config> {
    let listen = root.require("listen").and_then(|node| listen(node, around));
    let tls_node = root.require("tls");
    let certificates = tls_node.as_ref().and_then(|node| node.table(|table| tls::certificates(table, around, root)));
    let workers = root.get("workers").and_then(|node| node.integer(1..=1024)).and_then(NonZeroUsize::new);
    let member = root.get("member").and_then(|node| member(&node));
    let server = root.section("server", |table| Some(server::server(table))).unwrap_or(server::DEFAULT);

    let [app_node, voximplant_node] = ["app", "voximplant"].map(|key| root.get(key));
    let nodes = pbx_nodes::nodes(root, around);
    if app_node.is_none() && root.get("pbx").is_none() {
        root.refuse::<()>("there is no upstream", "add [app] or [pbx] with its `url`");
    }
    let mut methods = Methods::default();
    let app = app_node.as_ref().and_then(|node| node.table(|table| upstream::app(table, &mut methods, around)));
    let voximplant =
        voximplant_node.as_ref().and_then(|node| node.table(|table| voximplant::voximplant(table, around)));
    let read_nodes = || nodes.iter().filter_map(|(node, pbx)| Some((node, pbx.as_ref()?)));
    for (node, pbx) in read_nodes() {
        if let Some(app) = &app {
            upstream::check_parted(app, pbx, node);
        }
        // Without an [app] that was read, its hosts are not known.
        if app.is_some() == app_node.is_some() {
            auto::check_served(app.as_ref(), read_nodes().map(|(_, pbx)| pbx), pbx, node.entry("auto").as_ref());
        }
    }

    for node in tables(root, "auth") {
        methods.add(&node, app_node.is_some(), around);
    }
    methods.check(tls_node.as_ref(), certificates.as_ref());
    for (node, pbx) in read_nodes() {
        own_paths::check(node, pbx, app.as_ref(), &methods.methods);
    }
    let here = ServedHere {
        app: app.as_ref().map(|app| &app.upstream),
        pbx: read_nodes().map(|(_, pbx)| pbx).collect(),
        methods: &methods.methods,
        certificates: certificates.as_ref().map(|read| &*read.usable).unwrap_or_default(),
        listen: listen.as_deref().unwrap_or_default(),
    };
    let redirect_http = redirect_http::redirect_http(root, &here, around);
    let passthrough = passthrough::passthrough(&tables(root, "passthrough"), &here);
    tls::check(tls_node.as_ref(), certificates.as_ref(), &here, root);
    let admins: Vec<_> = nodes.iter().filter_map(|(node, _)| node.entry("admin")).collect();
    let own = voximplant.as_ref().and_then(|voximplant| voximplant.application.as_deref());
    let others: Vec<_> = voximplant.iter().flat_map(|one| &one.others).map(|other| other.name.as_str()).collect();
    let context = RuleContext {
        methods: &methods,
        pbx_admin: !admins.is_empty(),
        dialects: nodes.iter().map(|(_, pbx)| Some(pbx.as_ref()?.dialect)).collect(),
        tenants: pbx_nodes::tenants(&nodes),
        voximplant: voximplant_node.is_some(),
        applications: (own, &others),
    };
    let allow_nodes = tables(root, "allow");
    let rules = allow::rules(&allow_nodes, &context, around);
    allow::warn_unused(&rules, &context, &admins, voximplant_node.as_ref());
    allow::warn_late(&rules, &allow_nodes);

    let limits = root.section("limits", |table| Some(limits(table))).unwrap_or_else(default_limits);
    let pages = root.section("pages", |table| Some(pages::pages(table, around))).unwrap_or_default();
    let log = root.section("log", |table| Some(log(table, around))).unwrap_or(DEFAULT_LOG);
    let audit = root.section("audit", |table| audit::audit(table, &log.access, around)).unwrap_or_default();
    check_combined(root, &log, &audit);
    let admin = admin_listener(root, listen.as_deref(), redirect_http.as_ref(), around);
    let telemetry = root.section("telemetry", |table| telemetry::telemetry(table, around).map(Arc::new));
    let state = root.section("state", |table| around.log_file(&table.require("file")?));
    let shared_node = root.get("shared");
    let shared = shared_node.as_ref().and_then(|node| node.table(|table| shared::shared(table, around)));
    warn_nameless(shared_node.as_ref(), member.as_ref());
    methods.warn_forgetful(state.is_some() || shared_node.is_some());
    let ReadCertificates { usable: certificates, missing: missing_certificates, acme } = certificates?;
    let pbx = nodes.into_iter().filter_map(|(_, pbx)| pbx).collect();
    Some(Config {
        file: String::new(),
        written: Value::Null,
        listen: listen?,
        certificates,
        missing_certificates,
        acme: acme.map(|acme| tls::acme::with_hosts_of_pbx(acme, &pbx)),
        certificate_problems: around.certificates.problems.take(),
        client_authorities: around.certificates.authorities.take(),
        redirect_http,
        workers,
        member,
        server,
        app,
        pbx,
        passthrough,
        voximplant,
        methods: methods.methods,
        rules,
        limits,
        pages,
        log,
        audit,
        admin,
        telemetry,
        state,
        shared,
        warnings: Vec::new(),
        unseen: Vec::new(),
    })
}

/// Reads the tables of `[[key]]`.
fn tables<'d, 'i>(root: &TomlTable<'d, 'i>, key: &'static str) -> Vec<TomlNode<'d, 'i>> {
    root.get(key).and_then(|node| node.tables()).unwrap_or_default()
}

/// Reads the address of the admin listener, which is none of the public ones.
fn admin_listener(
    root: &TomlTable<'_, '_>,
    listen: Option<&[Listen]>,
    redirect_http: Option<&RedirectHttp>,
    around: &Surroundings<'_>,
) -> Option<Listen> {
    let redirect = redirect_http.map(|redirect| Listen::Tcp(redirect.listen));
    let public: Vec<_> = listen.into_iter().flatten().cloned().chain(redirect).collect();
    root.section("admin", |table| admin::listen(&table.require("listen")?, &public, around.base))
}

/// Warns of a machine without a name among several.
fn warn_nameless(shared: Option<&TomlNode<'_, '_>>, member: Option<&MemberName>) {
    if let (Some(node), None) = (shared, member) {
        node.warn(
            "this machine has no name: its lines look like those of other members",
            "add member = \"edge-1\" above the first [table], on each machine another",
        );
    }
}

/// Reads the name of this machine.
fn member(node: &TomlNode<'_, '_>) -> Option<MemberName> {
    match node.string()?.parse() {
        Ok(name) => Some(name),
        Err(error) => node.refuse::<MemberName>(error, "write a name such as \"edge-1\""),
    }
}

// === Listeners ===

fn listen(node: TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<Vec<Listen>> {
    let nodes = node.one_or_many()?;
    let addresses = values::each(&nodes, |node| values::listen(node, around.base, values::ANYWHERE))?;
    // Port 0 picks another port each time.
    if addresses.iter().filter_map(Listen::tcp).all(|address| address.port() != 0) {
        values::refuse_repeated(&nodes, &addresses, "address");
    }
    Some(addresses)
}

// === [limits] ===

fn limits(table: &TomlTable<'_, '_>) -> LimitsConfig {
    let rate_or = |key, default| table.get(key).and_then(|node| node.parsed()).unwrap_or(default);
    let default = default_limits();
    LimitsConfig {
        client: rate_or("client", default.client),
        caller: rate_or("caller", default.caller),
        account: rate_or("account", default.account),
        admin: rate_or("admin", default.admin),
        failures: rate_or("failures", default.failures),
        stale_cookies: rate_or("stale_cookies", default.stale_cookies),
        pbx_logins: rate_or("pbx_logins", default.pbx_logins),
        shadow: table.get("shadow").and_then(|node| shadow(&node)).unwrap_or_default(),
    }
}

/// The limits that make guessing slow.
const GUESSES: [&str; 3] = ["failures", "stale_cookies", "pbx_logins"];

/// Reads `true`, `false`, or a list of limits.
fn shadow(node: &TomlNode<'_, '_>) -> Option<LimitSet> {
    let shadow = match node.value().as_bool() {
        Some(true) => LimitSet::ALL,
        Some(false) => LimitSet::default(),
        None => {
            let limits = LIMITS.map(|name| (name, name));
            let names = values::distinct(&node.list_or_empty()?, "limit", |node| node.choice(&limits))?;
            names.into_iter().fold(LimitSet::default(), LimitSet::with)
        }
    };
    let guesses: Vec<_> = GUESSES.into_iter().filter(|name| shadow.has(name)).collect();
    if !guesses.is_empty() {
        node.warn(
            format_args!("guesses are not limited while in shadow: {}", guesses.join(", ")),
            "watch the audit log, and take these limits out of shadow as soon as you have their numbers",
        );
    }
    Some(shadow)
}

fn default_limits() -> LimitsConfig {
    let rate = |text: &str| text.parse::<Rate>().expect("a rate");
    LimitsConfig {
        // 200 people behind one address at nine in the morning: 8 requests for each login, with all steps and tokens.
        client: rate("3000/min"),
        caller: rate("10/min"),
        account: rate("5/min"),
        admin: rate("3/h"),
        failures: rate("5/15min"),
        // All of them come with yesterday's cookie.
        stale_cookies: rate("20/min burst 250"),
        pbx_logins: rate("10/min burst 300"),
        shadow: LimitSet::default(),
    }
}

// === [log] ===

const DEFAULT_LOG: LogConfig = LogConfig {
    access: AccessLogTarget::Stdout,
    access_format: AccessFormat::Lines(LogFormat::Text),
    format: LogFormat::Text,
    level: Level::INFO,
};

fn log(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> LogConfig {
    let access = table.get("access").and_then(|node| access(&node, around));
    let access_format = table.get("access_format").and_then(|node| node.choice(&ACCESS_FORMATS));
    let format =
        table.get("format").and_then(|node| node.choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]));
    let format = format.unwrap_or(DEFAULT_LOG.format);
    let level = table.get("level").and_then(|node| node.choice(&LEVELS));
    LogConfig {
        access: access.unwrap_or(DEFAULT_LOG.access),
        access_format: access_format.unwrap_or(AccessFormat::Lines(format)),
        format,
        level: level.unwrap_or(DEFAULT_LOG.level),
    }
}

const ACCESS_FORMATS: [(&str, AccessFormat); 3] = [
    ("text", AccessFormat::Lines(LogFormat::Text)),
    ("json", AccessFormat::Lines(LogFormat::Json)),
    ("combined", AccessFormat::Combined),
];

/// Refuses audit lines among access lines of the combined format, which has no place for them.
fn check_combined(root: &TomlTable<'_, '_>, log: &LogConfig, audit: &AuditConfig) {
    let has_lines = log.access != AccessLogTarget::Off;
    if log.access_format == AccessFormat::Combined && has_lines && audit.file.is_none() {
        root.refuse::<()>(
            "`log.access_format`: the combined format has no audit lines",
            "add `file` to [audit], or take another format",
        );
    }
}

const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

fn access(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<AccessLogTarget> {
    let text = node.word()?;
    // A bare word is more likely a mistyped `stdout` than a file.
    if text.contains(['/', '.']) {
        return around.log_file(node).map(AccessLogTarget::File);
    }
    match text {
        "stdout" => Some(AccessLogTarget::Stdout),
        "off" => Some(AccessLogTarget::Off),
        word => node.refuse_word(
            format_args!("unknown word `{word}`, and a file has a / or a . in its name"),
            word,
            &["stdout", "off"],
        ),
    }
}

#[cfg(test)]
mod tests;
