//! Fields that tell a program behind a proxy about its client: the client's address, name and certificate, and the
//! original host and scheme. Only the nearest proxy knows these, so such fields of clients are removed.

use super::field::fold;

/// Tells whether only this program may set a field, in any spelling: some gateways turn `_` or `.` into `-`.
#[must_use]
pub fn is_identity(name: &str) -> bool {
    let name = name.as_bytes();
    let Some(first) = name.first() else { return false };
    let known = match fold(*first) {
        b'x' => return is_experimental(name),
        b'a' => &["ali-cdn-real-ip"][..],
        b'c' => &C,
        b'd' => &["do-connecting-ip"],
        b'f' => &F,
        b'h' => &["http-client-ip"],
        b'g' => &["gap-auth"],
        b'i' => &["impersonate-*", "incap-client-ip", "iv-user", "iv-groups", "iv-creds", "iv-remote-address"],
        b'm' => &["ms-aspnetcore-*"],
        b'o' => &["oam-remote-user", "oidc-claim-*"],
        b'p' => &["proxy", "proxy-client-ip", "proxy-remote-user", "proxy-user"],
        b'r' => &["remote-*", "real-ip"],
        b's' => &["ssl-client-*", "shib-*", "sm-user", "sm-userdn", "sm-universalid"],
        b't' => &["true-client-*", "tailscale-user-*"],
        b'w' => &["wl-proxy-*"],
        b'z' => &["z-forwarded-for"],
        _ => return false,
    };
    known.iter().any(|known| fits(name, known.as_bytes()))
}

/// Fields of CDNs and front ends, by their first letter. A `*` at the end stands for any further text.
const C: [&str; 10] = [
    "client-cert*",
    "client-ip",
    "clientip",
    "cluster-client-ip",
    "cf-connecting-ip*",
    "cf-pseudo-ipv4",
    "cf-access-authenticated-user-*",
    "cdn-src-ip",
    "cdn-real-ip",
    "cloudfront-viewer-address",
];
const F: [&str; 11] = [
    "forwarded",
    "forwarded-for*",
    "forwarded-proto*",
    "forwarded-host",
    "forwarded-port",
    "forwarded-ip",
    "forwarded-ssl",
    "fastly-client*",
    "fastly-ssl",
    "fly-client-ip",
    "fly-forwarded-*",
];

/// Does the same for names that begin with `x-`, by the next letter.
fn is_experimental(name: &[u8]) -> bool {
    let Some((b'-', [letter, ..])) = name.get(1).map(|byte| fold(*byte)).zip(name.get(2..)) else { return false };
    let known = match fold(*letter) {
        b'a' => &A_[..],
        b'b' => &["x-backend-remote-user"],
        b'c' => &C_,
        b'e' => &[
            "x-envoy-external-address",
            "x-envoy-internal",
            "x-envoy-original-*",
            "x-envoy-peer-*",
            "x-endpoint-api-userinfo",
        ],
        b'f' => &["x-forwarded*", "x-forward-for", "x-fastly-client-*"],
        b'g' => &["x-goog-authenticated-user-*", "x-gateway-client-ip"],
        b'h' => &["x-http-host-override", "x-host-override"],
        b'i' => &["x-incap-client-ip", "x-iis-windowsauthtoken", "x-ip", "x-ip-address"],
        b'l' => &["x-logon-user"],
        b'm' => &["x-ms-client-principal*", "x-ms-token-*", "x-ms-forwarded-client-ip"],
        b'n' => &["x-nf-client-connection-ip"],
        b'o' => &["x-original-*", "x-originating-ip", "x-origin-ip"],
        b'p' => &["x-proxyuser-*", "x-proxy-user*", "x-proxy-remote-*", "x-pomerium-claim-*", "x-peer-ip"],
        b'r' => &R_,
        b's' => &["x-ssl-*", "x-sucuri-clientip", "x-source-ip", "x-scheme", "x-shib-*"],
        b't' => &["x-true-client-*", "x-true-ip", "x-tailscale-user-*"],
        b'u' => &["x-url-scheme", "x-user-ip"],
        b'v' => &["x-vercel-forwarded-for", "x-vercel-proxied-for", "x-vouch-*"],
        b'w' => &["x-webauth-*", "x-wap-network-client-ip"],
        b'z' => &["x-zscaler-client-ip"],
        _ => return false,
    };
    known.iter().any(|known| fits(name, known.as_bytes()))
}

const A_: [&str; 10] = [
    "x-appengine-*",
    "x-arr-*",
    "x-auth-request-*",
    "x-authenticated-*",
    "x-authentik-*",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-amzn-oidc-identity",
    "x-amzn-mtls-clientcert*",
    "x-anonymous-consumer",
];
const C_: [&str; 14] = [
    "x-client-cert*",
    "x-client-ip",
    "x-clientip",
    "x-client-addr*",
    "x-client-dn",
    "x-client-verify",
    "x-client-real-ip",
    "x-cluster-client-ip",
    "x-cf-connecting-ip*",
    "x-cdn-src-ip",
    "x-coming-from",
    "x-connecting-ip",
    "x-consumer-*",
    "x-credential-*",
];
const R_: [&str; 9] = [
    "x-real-ip",
    "x-realip",
    "x-real-host",
    "x-real-port",
    "x-real-proto",
    "x-remote-*",
    "x-rewrite-*",
    "x-request-id",
    "x-rproxy-remote-user",
];

/// Tells whether a name is a spelling of a known one.
fn fits(name: &[u8], known: &[u8]) -> bool {
    let (known, is_long_enough) = match known.split_last() {
        Some((b'*', beginning)) => (beginning, name.len() >= beginning.len()),
        _ => (known, name.len() == known.len()),
    };
    is_long_enough && name.iter().zip(known).all(|(one, other)| fold(*one) == *other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_frameworks_and_front_ends_believe_in_all_spellings() {
        for name in [
            "forwarded",
            "Forwarded-For",
            "x-forwarded",
            "x_forwarded_for",
            "X.Forwarded.For",
            "x-forwarded-anything",
            "x-real-ip",
            "X_Real_IP",
            "X!Real~IP",
            "x-original-url",
            "x-rewrite-url",
            "X_Request_Id",
            "Client_Cert_Chain",
            "X-SSL-Client-Verify",
            "ssl_client_s_dn",
            "Client-IP",
            "CLIENT_IP",
            "True-Client-IP",
            "true.client.ip",
            "CF-Connecting-IP",
            "CF-Connecting-IPv6",
            "X-Amzn-Mtls-Clientcert-Subject",
            "X-Consumer-Username",
            "X-Credential-Identifier",
            "X-Anonymous-Consumer",
            "X-Endpoint-API-UserInfo",
            "X-MS-Token-AAD-Id-Token",
            "Gap-Auth",
            "Impersonate-User",
            "Fastly-Client-IP",
            "X-Client-IP",
            "X-Cluster-Client-IP",
            "X-Remote-IP",
            "X-Remote-Addr",
            "X-Remote-User",
            "Remote-User",
            "REMOTE_USER",
            "Remote-Addr",
            "X-ProxyUser-IP",
            "WL-Proxy-Client-IP",
            "WL_Proxy_SSL",
            "X-Azure-ClientIP",
            "Fly-Client-IP",
            "X-Appengine-User-IP",
            "X-Envoy-External-Address",
            "X-SSL-Cipher",
            "X-ARR-ClientCert",
            "X-ARR-SSL",
            "Proxy",
            "PROXY",
            "Proxy-Client-IP",
            "X-WebAuth-User",
            "X-Auth-Request-Email",
            "X-MS-Client-Principal-Name",
            "MS-ASPNETCORE-CLIENTCERT",
        ] {
            assert!(is_identity(name), "{name}");
        }
    }

    #[test]
    fn leaves_what_says_nothing_of_a_client() {
        for name in [
            "",
            "x",
            "x-",
            "host",
            "from",
            "forwarded-not",
            "x-real-ipv",
            "x-forward",
            "x-original",
            "x-requested-with",
            "xforwarded-for",
            "via",
            "cookie",
            "client",
            "client-i",
            "ssl-client",
            "x-ssl",
            "content-type",
            "proxy-authorization",
            "proxyx",
            "x-client-data",
            "x-client-info",
            "x-csrf-token",
            "x-auth-token",
            "x-api-key",
            "authorization",
            "x-user-agent",
            "remote",
            "true",
            "cf-access-jwt-assertion",
            "cf-ray",
            "traceparent",
            "sec-websocket-key",
        ] {
            assert!(!is_identity(name), "{name}");
        }
    }
}
