//! Digests and marks of a session in JSON: one text each.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::credential_mark::{CredentialMark, MarkKind};
use crate::model::digest::Digest;

/// The bytes of a mark: its kind and its digest.
const MARK: usize = 17;

/// The digests of the ids of a session: in JSON one text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PackedIds(pub(super) Vec<Digest>);

impl Serialize for PackedIds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD_NO_PAD.encode(self.0.as_flattened()))
    }
}

impl<'de> Deserialize<'de> for PackedIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = unpacked(deserializer)?;
        let (ids, rest) = bytes.as_chunks();
        if rest.is_empty() { Ok(Self(ids.to_vec())) } else { Err(D::Error::custom("half a digest")) }
    }
}

/// Reads bytes in Base64.
fn unpacked<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = Cow::<'_, str>::deserialize(deserializer)?;
    BASE64_STANDARD_NO_PAD.decode(text.as_bytes()).map_err(|_| D::Error::custom("no Base64"))
}

/// The marks of a login: in JSON one text.
pub(super) mod marks {
    use super::{
        BASE64_STANDARD_NO_PAD, CredentialMark, Deserializer, Engine, Error, MARK, MarkKind, Serializer, unpacked,
    };

    /// Writes the marks.
    pub(in crate::pbx::issued_sessions) fn serialize<S: Serializer>(
        marks: &[CredentialMark],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(marks.len() * MARK);
        for CredentialMark { digest: [one, other], kind } in marks {
            bytes.push(match kind {
                MarkKind::Whole => b'w',
                MarkKind::Named => b'n',
                MarkKind::Likely => b'l',
            });
            bytes.extend(one.to_le_bytes());
            bytes.extend(other.to_le_bytes());
        }
        serializer.serialize_str(&BASE64_STANDARD_NO_PAD.encode(bytes))
    }

    /// Reads the marks.
    pub(in crate::pbx::issued_sessions) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<CredentialMark>, D::Error> {
        let bytes = unpacked(deserializer)?;
        let (marks, rest) = bytes.as_chunks::<MARK>();
        if !rest.is_empty() {
            return Err(D::Error::custom("half a mark"));
        }
        let mark = |[kind, digest @ ..]: &[u8; MARK]| {
            let kind = match kind {
                b'w' => MarkKind::Whole,
                b'n' => MarkKind::Named,
                b'l' => MarkKind::Likely,
                _ => return Err(D::Error::custom("a mark of no kind")),
            };
            let [one, other] = [0, 8].map(|at| digest[at..at + 8].try_into().expect("eight bytes are eight bytes"));
            Ok(CredentialMark { digest: [u64::from_le_bytes(one), u64::from_le_bytes(other)], kind })
        };
        marks.iter().map(mark).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Both {
        ids: PackedIds,
        #[serde(with = "marks")]
        marks: Vec<CredentialMark>,
    }

    #[test]
    fn digests_and_marks_are_read_as_they_were_written() {
        let all = [
            CredentialMark::whole([&b"a"[..]]),
            CredentialMark::named(b"a", b"b"),
            CredentialMark::likely(b"sid", b"9f86d081884c7d65").unwrap(),
        ];
        for count in 0..=all.len() {
            let both = Both { ids: PackedIds(vec![[7; 32]; count]), marks: all[..count].to_vec() };
            let text = serde_json::to_string(&both).unwrap();
            assert_eq!(serde_json::from_str::<Both>(&text).unwrap(), both, "{text}");
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let text = |bytes: &[u8]| BASE64_STANDARD_NO_PAD.encode(bytes);
        let read = |ids: &str, marks: &str| {
            let text = serde_json::json!({ "ids": ids, "marks": marks }).to_string();
            serde_json::from_str::<Both>(&text).map(drop).map_err(|error| error.to_string())
        };
        let (mark, id) = ([&b"w"[..], &[7; 16]].concat(), [7; 32]);
        assert_eq!(read(&text(&id), &text(&mark)), Ok(()));
        for (ids, marks, expected) in [
            (text(&id), text(&mark[1..]), "half a mark"),
            (text(&id), text(&[7; MARK]), "a mark of no kind"),
            (text(&id[1..]), text(&mark), "half a digest"),
            ("?".to_owned(), text(&mark), "no Base64"),
        ] {
            let refused = read(&ids, &marks).unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }
}
