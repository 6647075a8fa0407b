//! SHA-256, for values that are recognized again without being stored.

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

/// A SHA-256 digest.
pub type Digest = [u8; SHA256_OUTPUT_LEN];

/// Returns the digest of one text.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest {
    whole(digest(&SHA256, bytes))
}

/// Returns the digest of a list of parts. Each part follows its length, so that two lists with other boundaries have
/// other digests.
pub fn sha256_of<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Digest {
    // One piece: for parts of this size a call costs more than the copy.
    let mut all = Vec::with_capacity(512);
    for part in parts {
        all.extend((part.len() as u64).to_be_bytes());
        all.extend(part);
    }
    sha256(&all)
}

fn whole(digest: aws_lc_rs::digest::Digest) -> Digest {
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let all: [&[&[u8]]; 5] = [&[], &[b""], &[b"ab"], &[b"a", b"b"], &[b"", b"ab"]];
        for (one, other) in (0..all.len()).flat_map(|one| (0..one).map(move |other| (one, other))) {
            assert_ne!(sha256_of(all[one].iter().copied()), sha256_of(all[other].iter().copied()));
        }
        assert!(hex::encode(sha256(b"abc")).starts_with("ba7816bf8f01cfea"));
    }
}
