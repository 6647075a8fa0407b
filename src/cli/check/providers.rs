//! The servers of auth methods, as `check --online` finds them: key sets and identity providers.

use http::Uri;

use super::clock::ClockDifferences;
use super::diagnosis::Diagnosis;
use super::finding::{Finding, PartQuestion};
use crate::auth::{self, Provider};
use crate::config::{JwksConfig, JwtConfig, JwtKeySource, MethodConfig, MethodKind, OidcConfig, OutboundProxy};

/// Fetches what a method needs from another server.
pub(super) async fn findings(method: &MethodConfig, clock: &ClockDifferences) -> Vec<Finding> {
    let part = format!("method {:?}", method.name);
    let finding = match &method.kind {
        MethodKind::Jwt(JwtConfig { keys: JwtKeySource::Fetched(at), .. }) => of_keys(at, &part, clock).await,
        MethodKind::Oidc(settings) => of_provider(settings, &part, clock).await,
        MethodKind::Jwt(_)
        | MethodKind::App(_)
        | MethodKind::Header(_)
        | MethodKind::Key(_)
        | MethodKind::Link(_)
        | MethodKind::Mtls(_) => return Vec::new(),
    };
    vec![finding]
}

/// Fetches a set of keys.
async fn of_keys(at: &JwksConfig, part: &str, clock: &ClockDifferences) -> Finding {
    let question = PartQuestion::new(part, format!("keys at {}{}", at.url, way(&at.url, at.outbound_proxy.as_deref())));
    match auth::fetch_once(at).await {
        Ok(fetched) => {
            clock.note(part, &fetched.headers);
            let (count, skipped) = (fetched.keys.count(), fetched.skipped);
            question.ok(format!(
                "keys: {count}, for {:?}; others, which cannot be used: {skipped}",
                fetched.keys.algorithms()
            ))
        }
        Err(error) => question.failed(Diagnosis::of(&*error), "is `jwks` right, and may callgate reach it?"),
    }
}

/// Fetches the metadata and the keys of an identity provider.
async fn of_provider(settings: &OidcConfig, part: &str, clock: &ClockDifferences) -> Finding {
    let issuer = &settings.issuer;
    let way = issuer.parse().map(|url| way(&url, settings.outbound_proxy.as_deref())).unwrap_or_default();
    let question = PartQuestion::new(part, format!("metadata and keys of {issuer}{way}"));
    let advice = "is `issuer` right, and may callgate reach it?";
    let provider = match Provider::new(settings) {
        Ok(provider) => provider,
        Err(error) => return question.failed(Diagnosis::of(&error), "correct `ca`"),
    };
    match provider.try_once().await {
        Ok(found) => {
            clock.note(part, &found.headers);
            question.ok(format!("keys: {}", found.metadata.keys.count()))
        }
        Err(error) => question.failed(Diagnosis::of(&error), advice),
    }
}

/// Says by which proxy of the environment a URL is reached, if by one.
pub(super) fn way(url: &Uri, proxy: Option<&OutboundProxy>) -> String {
    match proxy.filter(|proxy| proxy.is_for(url)) {
        Some(OutboundProxy { address, variable, .. }) => format!(" through the proxy {address} of {variable}"),
        None => String::new(),
    }
}
