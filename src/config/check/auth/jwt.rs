//! Method `jwt`: the rules for signed tokens, and their place in a request.

mod preset;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri, header};

use self::preset::Preset;
use super::Methods;
use super::app::cookie;
use crate::config::check::tls;
use crate::config::check::values::{self, distinct};
use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{JwksConfig, JwtConfig, JwtKeySource, MethodKind, TokenLocation};
use crate::model::jwt::{self, Algorithm, JwtKeyError, KeyFormat, VerificationKeys};
use crate::model::loopback::is_loopback;
use crate::model::redact;

/// The default tolerance between clocks.
const LEEWAY: Duration = Duration::from_secs(30);
/// The largest tolerance. A clock that differs more must be corrected.
const MAX_LEEWAY: Duration = Duration::from_secs(5 * 60);

/// Reads a table of type `jwt`.
pub(super) fn read(
    table: &TomlTable<'_, '_>,
    before: &Methods<'_, '_>,
    around: &Surroundings<'_>,
) -> Option<JwtConfig> {
    let preset = match table.get("preset") {
        Some(node) => Some(preset::read(&node, table)?),
        None => None,
    };
    let preset = preset.unwrap_or_default();
    let location = location(table, &preset);
    let is_ambient = is_ambient(table, location.as_ref());
    if let (Some(TokenLocation::Cookie(_)), Some(node)) = (&location, table.get("ignore_cookies")) {
        node.refuse::<()>("this method's own credential is a cookie", "remove the key");
    }
    let algorithms = table.get("algorithms").and_then(|node| distinct(&node.list()?, "algorithm", algorithm));
    let algorithms = algorithms.or_else(|| preset.algorithms.clone());
    let keys = keys(table, &preset, algorithms.as_deref(), around);
    let is_fetched = preset.is_chosen || matches!(keys, Some(JwtKeySource::Fetched(_)));
    let issuers = names(table, "issuer", preset.issuers.as_ref(), is_fetched);
    let audiences = names(table, "audience", preset.audiences.as_ref(), is_fetched);
    let audience_claim = audience_claim(table, audiences.is_some());
    let typ = table.get("typ").and_then(|node| node.word().map(str::to_owned));
    let max_age = table.get("max_age").and_then(|node| values::duration(&node));
    let leeway = table.get("leeway").and_then(|node| leeway(&node));
    let subject = table.get("subject").and_then(|node| node.word().map(str::to_owned));
    let leeway = leeway.unwrap_or(LEEWAY);
    let rules = jwt::TokenRules { issuers, audiences, audience_claim, algorithms, typ, max_age, leeway };
    let location = location?;
    check_alone(table, &location, &rules, before);
    Some(JwtConfig {
        location,
        is_ambient,
        keys: keys?,
        rules,
        subject: subject.or_else(|| preset.subject.map(str::to_owned)),
    })
}

/// Warns that a restart forgets which tokens have been used.
pub(super) fn warn_forgetful(methods: &Methods<'_, '_>) {
    for method in &methods.methods {
        let MethodKind::Jwt(JwtConfig { location: TokenLocation::Query(_), .. }) = &method.kind else { continue };
        let Some((_, node)) = methods.named.iter().find(|(name, _)| *name == method.name) else { continue };
        node.warn("after a restart, a token works once more until it expires", "add [state] with a `file`");
    }
}

/// Reads a text or a list, which is required where keys are fetched, because one server signs for many.
fn names(
    table: &TomlTable<'_, '_>,
    key: &'static str,
    preset: Option<&Vec<String>>,
    is_needed: bool,
) -> Option<Vec<String>> {
    let node = match (preset, is_needed) {
        (None, true) => table.require(key),
        _ => table.get(key),
    };
    let read = node.and_then(|node| distinct(&node.one_or_many()?, key, |node| node.word().map(str::to_owned)));
    read.or_else(|| preset.cloned())
}

/// Reads the claim that names the audience of a token without `aud`.
fn audience_claim(table: &TomlTable<'_, '_>, is_audience_known: bool) -> Option<String> {
    let node = table.get("audience_claim")?;
    match node.word()? {
        "aud" => node.refuse("`aud` is read without this key", "remove the key"),
        _ if !is_audience_known => node.refuse("no audience is configured", "write `audience` as well"),
        claim => Some(claim.to_owned()),
    }
}

fn algorithm(node: &TomlNode<'_, '_>) -> Option<Algorithm> {
    let name = node.word()?;
    jwt::algorithm(name).or_else(|| {
        let hint = "known here: HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";
        node.refuse(format_args!("`{name}` is not an algorithm"), hint)
    })
}

fn leeway(node: &TomlNode<'_, '_>) -> Option<Duration> {
    match values::duration(node)? {
        leeway if leeway > MAX_LEEWAY => node.refuse("is more than 5 min", "set the clocks right instead"),
        leeway => Some(leeway),
    }
}

// === Where the token is ===

fn location(table: &TomlTable<'_, '_>, preset: &Preset) -> Option<TokenLocation> {
    match (table.get("header"), table.get("cookie"), table.get("query")) {
        (None, None, None) => Some(preset.location.clone().unwrap_or(TokenLocation::Bearer)),
        (Some(node), None, None) => header(&node),
        (None, Some(node), None) => cookie(&node).map(TokenLocation::Cookie),
        (None, None, Some(node)) => query(&node),
        _ => table.refuse("a token must have exactly one place", "write one of `header`, `cookie`, `query`"),
    }
}

fn header(node: &TomlNode<'_, '_>) -> Option<TokenLocation> {
    match HeaderName::from_bytes(node.word()?.as_bytes()) {
        Ok(header::AUTHORIZATION) => Some(TokenLocation::Bearer),
        Ok(header::COOKIE) => node.refuse("cookies have a key of their own", "write cookie = \"name\""),
        Ok(name) => Some(TokenLocation::Header(name)),
        Err(_) => node.refuse("not the name of a header field", "write a name such as \"authorization\""),
    }
}

/// Reads the name of a query parameter, whose value logs must hide.
fn query(node: &TomlNode<'_, '_>) -> Option<TokenLocation> {
    let name = node.word()?;
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if is_plain && redact::hides(name) {
        Some(TokenLocation::Query(name.to_owned()))
    } else {
        node.refuse("logs would show the token", "write \"token\", \"jwt\" or \"id_token\"")
    }
}

/// Tells whether browsers send the token on their own. A field other than `Authorization` is set by another proxy, for
/// any request with its cookie.
fn is_ambient(table: &TomlTable<'_, '_>, location: Option<&TokenLocation>) -> bool {
    let is_ambient = matches!(location, Some(TokenLocation::Cookie(_) | TokenLocation::Header(_)));
    let Some(node) = table.get("ambient") else { return is_ambient };
    match (node.boolean(), location) {
        (Some(false), Some(TokenLocation::Cookie(_) | TokenLocation::Header(_))) => {
            node.refuse::<()>(
                "browsers send such a token on their own",
                "remove the key, or use `header = \"authorization\"`",
            );
        }
        (Some(true), Some(TokenLocation::Query(_))) => {
            node.refuse::<()>("no browser adds a parameter by itself", "remove the key");
        }
        _ => {}
    }
    node.boolean().unwrap_or(is_ambient)
}

/// Checks that two methods with tokens in the same place differ by issuer.
fn check_alone(table: &TomlTable<'_, '_>, location: &TokenLocation, rules: &jwt::TokenRules, before: &Methods<'_, '_>) {
    let others = before.methods.iter().filter_map(|method| match &method.kind {
        MethodKind::Jwt(jwt) if jwt.location == *location => Some((&method.name, &jwt.rules)),
        _ => None,
    });
    for (name, other) in others {
        let is_told = match (&rules.issuers, &other.issuers) {
            (Some(ours), Some(theirs)) => !ours.iter().any(|issuer| theirs.contains(issuer)),
            _ => false,
        };
        if !is_told {
            table.refuse::<()>(
                format_args!("tokens of this method could be those of method `{name}`, in the same place"),
                "give each an `issuer` of its own, or another place",
            );
        }
    }
}

// === Keys ===

fn keys(
    table: &TomlTable<'_, '_>,
    preset: &Preset,
    only: Option<&[Algorithm]>,
    around: &Surroundings<'_>,
) -> Option<JwtKeySource> {
    let [secret, public_key, jwks, ca] = ["secret", "public_key", "jwks", "ca"].map(|key| table.get(key));
    if let (Some(ca), true) = (&ca, secret.is_some() || public_key.is_some()) {
        ca.refuse::<()>("has no effect without `jwks`", "remove the key");
    }
    let (node, fixed) = match (secret, public_key, jwks) {
        (Some(node), None, None) => {
            let keys = around.secret(&node).map(|secret| VerificationKeys::of_secret(secret.expose().as_bytes()));
            (node, keys?)
        }
        (None, Some(node), None) => {
            let keys = around.public_file(&node).map(|text| VerificationKeys::of_pem(&text));
            (node, keys?)
        }
        (None, None, Some(node)) => return url(&node).and_then(|url| fetched(url, ca, around)),
        (None, None, None) => {
            let url = preset.jwks.clone();
            let hint = "write one of `secret`, `public_key`, `jwks`, or a `preset`";
            return url
                .or_else(|| table.refuse("the source of the keys is missing", hint))
                .and_then(|url| fetched(url, ca, around));
        }
        _ => return table.refuse("keys must have exactly one source", "write one of `secret`, `public_key`, `jwks`"),
    };
    let keys = match fixed {
        Ok(keys) => keys,
        Err(error) => return node.refuse(&error, key_hint(&error)),
    };
    let known = keys.algorithms();
    if let Some(only) = only
        && !only.iter().all(|one| known.contains(one))
    {
        let message = format!("{only:?} is not what this key is for");
        return node.refuse(message, format_args!("it is for {known:?}; HS384 needs 48 bytes, HS512 64"));
    }
    Some(JwtKeySource::Fixed(Arc::new(keys)))
}

fn fetched(url: Uri, ca: Option<TomlNode<'_, '_>>, around: &Surroundings<'_>) -> Option<JwtKeySource> {
    if let Some(ca) = &ca
        && url.scheme_str() == Some("http")
    {
        ca.warn("has no effect: `jwks` is not https", "remove the key");
    }
    let ca = match ca {
        Some(node) => Some(tls::authorities(&node, around)?),
        None => None,
    };
    Some(JwtKeySource::Fetched(JwksConfig { url, ca, outbound_proxy: around.outbound_proxy() }))
}

/// Reads the URL of a key set. Anyone who could change the set in transit could become any caller.
fn url(node: &TomlNode<'_, '_>) -> Option<Uri> {
    let uri = node.word()?.parse::<Uri>().ok().filter(is_safe);
    uri.or_else(|| {
        node.refuse("not an https address", "write \"https://id.example.com/jwks.json\"; http only for this machine")
    })
}

fn is_safe(uri: &Uri) -> bool {
    let Some(authority) = uri.authority().filter(|authority| !authority.as_str().contains('@')) else { return false };
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_loopback(authority.host()),
        _ => false,
    }
}

const fn key_hint(error: &JwtKeyError) -> &'static str {
    match error {
        JwtKeyError::ShortSecret => "make a longer one: openssl rand -hex 32",
        JwtKeyError::Nothing => {
            "a public key starts with -----BEGIN PUBLIC KEY-----, a certificate with -----BEGIN CERTIFICATE-----"
        }
        JwtKeyError::Broken => "copy the file again, in binary mode: the text between two such lines is base64",
        JwtKeyError::Other => "leave public keys and certificates in it, and nothing else",
        JwtKeyError::Form(KeyFormat::Der) => {
            "convert it: openssl pkey -pubin -inform DER -in key.der, or openssl x509 -inform DER -in cert.der"
        }
        JwtKeyError::Form(KeyFormat::Ssh) => "convert it: ssh-keygen -e -m pkcs8 -f key.pub",
        JwtKeyError::Form(KeyFormat::Jwk) => {
            "such keys are fetched: write their address as `jwks`; or convert the key to PEM"
        }
        JwtKeyError::Form(KeyFormat::Utf16) => "save it as ASCII or UTF-8",
        JwtKeyError::Private => {
            "keep it where tokens are signed, and name its public part here: openssl pkey -in private.pem -pubout"
        }
        JwtKeyError::Unusable(_) | JwtKeyError::NoSet | JwtKeyError::TooMany | JwtKeyError::NothingUsable => {
            "use a key of RSA with 2048 bits or more, of P-256, P-384 or Ed25519"
        }
    }
}
