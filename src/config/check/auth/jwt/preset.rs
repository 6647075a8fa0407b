//! Presets: known facts about the tokens of some servers.

use http::{HeaderName, Uri};

use crate::config::TokenLocation;
use crate::config::document::{TomlNode, TomlTable};
use crate::model::account::is_host_name;
use crate::model::jwt::Algorithm;

/// The defaults of a preset; the table itself takes precedence.
#[derive(Default)]
pub(super) struct Preset {
    /// Whether a preset was chosen.
    pub(super) is_chosen: bool,
    pub(super) location: Option<TokenLocation>,
    pub(super) jwks: Option<Uri>,
    pub(super) issuers: Option<Vec<String>>,
    pub(super) audiences: Option<Vec<String>>,
    pub(super) algorithms: Option<Vec<Algorithm>>,
    pub(super) subject: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum TokenIssuer {
    CloudflareAccess,
    GoogleIap,
    Pomerium,
    Keycloak,
    Entra,
}

const SERVERS: [(&str, TokenIssuer); 5] = [
    ("cloudflare-access", TokenIssuer::CloudflareAccess),
    ("google-iap", TokenIssuer::GoogleIap),
    ("pomerium", TokenIssuer::Pomerium),
    ("keycloak", TokenIssuer::Keycloak),
    ("entra", TokenIssuer::Entra),
];

/// Reads the preset, and the key that it requires.
pub(super) fn read(node: &TomlNode<'_, '_>, table: &TomlTable<'_, '_>) -> Option<Preset> {
    let Some(server) = node.choice(&SERVERS) else { return table.leave_unread() };
    let own = |key, read: fn(&TomlNode<'_, '_>) -> Option<Preset>| table.require(key).and_then(|node| read(&node));
    match server {
        TokenIssuer::CloudflareAccess => own("team", cloudflare_access),
        TokenIssuer::GoogleIap => Some(google_iap()),
        TokenIssuer::Pomerium => own("host", pomerium),
        TokenIssuer::Keycloak => own("realm", keycloak),
        TokenIssuer::Entra => own("tenant", entra),
    }
    .or_else(|| table.leave_unread())
}

/// Cloudflare sends the token in a field and, to browsers, also in a cookie; it recommends the field.
fn cloudflare_access(node: &TomlNode<'_, '_>) -> Option<Preset> {
    let team = node.word()?;
    if team.contains('.') || !is_host_name(team) {
        return node.refuse("not the name of a team", "write \"acme\" for acme.cloudflareaccess.com");
    }
    let issuer = format!("https://{}.cloudflareaccess.com", team.to_ascii_lowercase());
    Some(Preset {
        location: field("cf-access-jwt-assertion"),
        algorithms: Some(vec![Algorithm::RS256]),
        ..of(format!("{issuer}/cdn-cgi/access/certs"), issuer)
    })
}

fn google_iap() -> Preset {
    Preset {
        location: field("x-goog-iap-jwt-assertion"),
        algorithms: Some(vec![Algorithm::ES256]),
        ..of("https://www.gstatic.com/iap/verify/public_key-jwk".to_owned(), "https://cloud.google.com/iap".to_owned())
    }
}

/// Pomerium names the host of its route as issuer and audience (`jwt_issuer_format = hostOnly`, the default).
fn pomerium(node: &TomlNode<'_, '_>) -> Option<Preset> {
    let host = node.word()?.to_ascii_lowercase();
    if !is_host_name(&host) {
        return node.refuse("not a host name", "write the host of the route's `from`, without https://");
    }
    Some(Preset {
        location: field("x-pomerium-jwt-assertion"),
        algorithms: Some(vec![Algorithm::ES256]),
        audiences: Some(vec![host.clone()]),
        ..of(format!("https://{host}/.well-known/pomerium/jwks.json"), host)
    })
}

fn keycloak(node: &TomlNode<'_, '_>) -> Option<Preset> {
    let realm = node.word()?;
    super::url(node)?;
    if realm.ends_with('/') || !realm.contains("/realms/") {
        let hint = "write it as the tokens' `iss` has it: \"https://id.example.com/realms/acme\"";
        return node.refuse("not the address of a realm", hint);
    }
    Some(of(format!("{realm}/protocol/openid-connect/certs"), realm.to_owned()))
}

/// The tokens of a tenant carry its id, whichever name was used to request them. `common` and `organizations` stand
/// for all tenants, so they name no issuer.
fn entra(node: &TomlNode<'_, '_>) -> Option<Preset> {
    let tenant = node.word()?.to_ascii_lowercase();
    let groups: Vec<_> = tenant.split('-').map(str::len).collect();
    let is_id = groups == [8, 4, 4, 4, 12] && tenant.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    if !is_id {
        let hint = "write the directory (tenant) id, such as \"72f988bf-86f1-41af-91ab-2d7cd011db47\"; `common` and `organizations` stand for all tenants";
        return node.refuse("not the id of a tenant", hint);
    }
    let base = format!("https://login.microsoftonline.com/{tenant}");
    Some(Preset {
        algorithms: Some(vec![Algorithm::RS256]),
        // `sub` differs for each application of the tenant.
        subject: Some("oid"),
        ..of(format!("{base}/discovery/v2.0/keys"), format!("{base}/v2.0"))
    })
}

fn field(name: &'static str) -> Option<TokenLocation> {
    Some(TokenLocation::Header(HeaderName::from_static(name)))
}

fn of(jwks: String, issuer: String) -> Preset {
    let jwks = jwks.parse().ok();
    Preset { is_chosen: true, jwks, issuers: Some(vec![issuer]), ..Preset::default() }
}
