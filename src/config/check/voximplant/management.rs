//! `[voximplant] management`: the access to the Management API, by which passwords are set.

use http::Uri;
use serde::Deserialize;

use crate::config::document::{TomlNode, TomlTable};
use crate::config::source::Surroundings;
use crate::config::{ManagementConfig, ManagementProof};
use crate::model::loopback::is_loopback;
use crate::model::rsa::RsaKey;
use crate::model::secret::Secret;

/// The URL of the Management API's functions.
const URL: &str = "https://api.voximplant.com/platform_api/";

/// Reads `management`.
pub(super) fn management(table: &TomlTable<'_, '_>, around: &Surroundings<'_>) -> Option<ManagementConfig> {
    let url = table.get("url").map_or_else(|| Some(URL.to_owned()), |node| url(&node));
    let (account_id, api_key) = (table.get("account_id"), table.get("api_key"));
    let (account_id, proof) = match (table.get("service_account"), account_id, api_key) {
        (Some(node), None, None) => service_account(&node, around)?,
        (None, Some(id), Some(key)) => {
            let (id, key) = (id.integer(1..=usize::MAX), around.secret(&key));
            (id? as u64, ManagementProof::ApiKey(key?))
        }
        _ => {
            return table.refuse(
                "must have exactly one credential",
                "write service_account = { file = \"…\" }, or account_id = … and api_key = { file = \"…\" }",
            );
        }
    };
    Some(ManagementConfig { account_id, proof, url: url?, outbound_proxy: around.outbound_proxy() })
}

/// The key file of a service account, as the control panel creates it.
#[derive(Deserialize)]
struct ServiceAccount {
    account_id: u64,
    key_id: String,
    private_key: String,
}

fn service_account(node: &TomlNode<'_, '_>, around: &Surroundings<'_>) -> Option<(u64, ManagementProof)> {
    let text = around.long_secret(node)?;
    if text.is_unseen() {
        return Some((0, ManagementProof::ApiKey(text)));
    }
    // The parser's error is not reported, because it may quote the key.
    let Ok(account) = serde_json::from_str::<ServiceAccount>(text.expose()) else {
        return node.refuse("not the key of a service account", HINT);
    };
    let key = Secret::new(account.private_key);
    if RsaKey::from_pem(key.expose()).is_err() {
        return node.refuse("its `private_key` is not an RSA key in PEM form", HINT);
    }
    Some((account.account_id, ManagementProof::ServiceAccount { key_id: account.key_id, key }))
}

const HINT: &str = "name the JSON file that Voximplant's control panel gave for the key of a service account";

/// Reads another URL of the API: a gateway, or a stand-in on this machine.
fn url(node: &TomlNode<'_, '_>) -> Option<String> {
    let text = node.word()?;
    let uri = text.parse::<Uri>().ok().filter(|uri| text.ends_with('/') && uri.query().is_none());
    let is_safe = |uri: &Uri| match uri.scheme_str() {
        Some("https") => uri.host().is_some(),
        Some("http") => uri.host().is_some_and(is_loopback),
        _ => false,
    };
    if uri.as_ref().is_some_and(is_safe) && !text.contains('@') {
        return Some(text.to_owned());
    }
    let closed = format!("{text}/");
    if closed.parse::<Uri>().is_ok_and(|uri| is_safe(&uri) && uri.query().is_none()) && !text.contains('@') {
        return node.refuse("not the URL of an API", format_args!("write \"{closed}\", with a slash at the end"));
    }
    node.refuse("not the URL of an API", format_args!("write https:// and a slash at the end, as in \"{URL}\""))
}
