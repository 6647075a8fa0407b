//! Hosts that lead to this machine only.

use std::net::IpAddr;

/// Tells whether a host is a name or an address of this machine. An IPv6 address may be in brackets.
///
/// Names below `localhost` are not: resolvers may send them anywhere.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_local_and_no_others() {
        for host in ["localhost", "127.0.0.1", "127.8.9.1", "[::1]", "::1", "::ffff:127.0.0.1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example.com",
            "a.localhost",
            "127.0.0.1.example.com",
            "example.com",
            "10.0.0.1",
            "[::]",
            "0.0.0.0",
            "",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
