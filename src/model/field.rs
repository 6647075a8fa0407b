//! Field names as programs behind gateways read them: to them `X-User`, `x_user` and `X.User` are one name.

/// Maps a byte of a field name to the form that all spellings share. CGI writes `_` for every special character (RFC
/// 3875 §4.1.18).
#[must_use]
pub const fn fold(byte: u8) -> u8 {
    match byte {
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~' => b'-',
        other => other.to_ascii_lowercase(),
    }
}

/// Tells whether two names are spellings of one name.
#[must_use]
pub fn is_like(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(one, other)| fold(one) == fold(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_name_are_alike() {
        for other in ["remote-user", "Remote-User", "REMOTE_USER", "remote.user", "Remote~User"] {
            assert!(is_like("remote-user", other) && is_like(other, "remote-user"), "{other}");
        }
        for other in ["remote-use", "remote-users", "remoteuser", "remote user", "remote--ser", ""] {
            assert!(!is_like("remote-user", other), "{other}");
        }
    }
}
