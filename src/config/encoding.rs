//! Decodes text files of editors on all systems: removes the byte order mark, and detects UTF-16.

use zeroize::Zeroizing;

/// The byte order mark in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The problem with a text in UTF-16.
pub(super) const UTF_16: &str = "is text in UTF-16, not in UTF-8";
/// The remedy.
pub(super) const UTF_16_HINT: &str =
    "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE, or in PowerShell: Set-Content -Encoding utf8";

/// Removes the byte order mark that editors on Windows put before a text.
pub(super) fn without_mark(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.starts_with(MARK) {
        bytes.drain(..MARK.len());
    }
    bytes
}

/// Removes one line end of any system from the end of a text.
pub(super) fn without_last_newline(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    bytes
}

/// Tells whether bytes are text in UTF-16: by the byte order mark, or by ASCII letters beside zero bytes.
pub(super) fn is_utf_16(bytes: &[u8]) -> bool {
    let is_ascii_with_zeros = |zero: usize| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let start = &pairs[..pairs.len().min(16)];
        rest.is_empty()
            && start.len() > 1
            && start.iter().all(|pair| pair[zero] == 0 && pair[1 - zero].is_ascii() && pair[1 - zero] != 0)
    };
    bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || is_ascii_with_zeros(0) || is_ascii_with_zeros(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(text: &[u8]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.into())
    }

    #[test]
    fn cuts_exactly_one_newline() {
        for (written, kept) in [("a\n", "a"), ("a\r\n", "a"), ("a", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), ("\n", "")]
        {
            assert_eq!(*without_last_newline(owned(written.as_bytes())), kept.as_bytes(), "{written:?}");
        }
    }

    #[test]
    fn cuts_one_mark_at_the_start() {
        for (written, kept) in [("\u{feff}a", "a"), ("a\u{feff}", "a\u{feff}"), ("\u{feff}", ""), ("", "")] {
            assert_eq!(*without_mark(owned(written.as_bytes())), kept.as_bytes(), "{written:?}");
        }
    }

    #[test]
    fn knows_utf_16_with_and_without_its_mark() {
        let little = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let big = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        for text in ["\u{feff}a", "listen = \"0.0.0.0:443\"\r\n", "pw", "\u{feff}ä"] {
            assert!(is_utf_16(&little(text)) && is_utf_16(&big(text)), "{text:?}");
        }
        // The last one is the beginning of a certificate in DER form.
        for bytes in [&b""[..], b"a", b"ab", b"pw\n", b"\0\0\0\0", "\u{feff}ab".as_bytes(), b"\x30\x82\x01\x0a"] {
            assert!(!is_utf_16(bytes), "{bytes:?}");
        }
    }
}
