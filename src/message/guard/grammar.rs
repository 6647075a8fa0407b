//! The grammar of single lines (RFC 9112 §3 to §7), byte by byte.

use http::Uri;

use super::Violation;
use crate::message::framing::MAX_TARGET;

/// Checks a request target in the form that its method allows. A target that passes can be forwarded byte for byte.
pub(in crate::message) fn check_target(method: &[u8], target: &[u8]) -> Result<(), Violation> {
    if target.len() > MAX_TARGET {
        return Err(Violation::TargetSize);
    }
    let is_written = match target {
        [b'/', ..] => {
            let (_, query) = target.split_at(span(target, PATH));
            let is_clear = query.is_empty() || (query[0] == b'?' && span(query, QUERY) == query.len());
            is_clear && (target.is_ascii() || std::str::from_utf8(target).is_ok())
        }
        b"*" => method == b"OPTIONS",
        _ if target.contains(&b'#') => false,
        // Only CONNECT takes an authority alone.
        _ => Uri::try_from(target)
            .is_ok_and(|uri| uri.authority().is_some() && (uri.scheme().is_some() || method == b"CONNECT")),
    };
    if is_written { Ok(()) } else { Err(Violation::Target) }
}

/// Splits a field into its name and its value.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if let [b' ' | b'\t', ..] = line {
        return Err(Violation::Fold);
    }
    match line.split_at(span(line, NAME)) {
        ([_, ..], [b':', value @ ..]) if !is_value(value) => Err(Violation::Value),
        (name @ [_, ..], [b':', value @ ..]) => Ok((name, value)),
        _ => Err(Violation::Name),
    }
}

/// Accepts `chunked` alone. If the value is a list that ends in `chunked`, the codings before it are unknown ones
/// (§6.1).
pub(super) fn check_coding(value: &[u8]) -> Result<(), Violation> {
    let mut codings = value.rsplit(|byte| *byte == b',').map(|coding| coding.trim_ascii());
    if !codings.next().is_some_and(is_chunked) {
        return Err(Violation::Coding);
    }
    let mut others = codings.peekable();
    if others.peek().is_none() {
        return Ok(());
    }
    let is_coding = |coding: &[u8]| !coding.is_empty() && span(coding, NAME) == coding.len() && !is_chunked(coding);
    Err(if others.all(is_coding) { Violation::UnknownCoding } else { Violation::Coding })
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"chunked")
}

/// Reads the line before a chunk. Extensions are for this hop only, but must be well-formed (§7.1.1).
pub(super) fn chunk_size(line: &[u8]) -> Result<u64, Violation> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, mut rest) = line.split_at(digits);
    if !is_value(rest) {
        return Err(Violation::Chunk);
    }
    while !rest.is_empty() {
        rest = skip_extension(rest).ok_or(Violation::Chunk)?;
    }
    number(digits, 16).ok_or(Violation::Chunk)
}

/// Skips `;name`, `;name=value` or `;name="value"`, with blanks where the grammar allows them.
fn skip_extension(bytes: &[u8]) -> Option<&[u8]> {
    let rest = skip_token(bytes.trim_ascii_start().strip_prefix(b";")?.trim_ascii_start())?;
    let Some(value) = rest.trim_ascii_start().strip_prefix(b"=").map(<[u8]>::trim_ascii_start) else {
        return Some(rest);
    };
    match value {
        [b'"', quoted @ ..] => skip_quoted(quoted),
        _ => skip_token(value),
    }
}

fn skip_token(bytes: &[u8]) -> Option<&[u8]> {
    let (token, rest) = bytes.split_at(span(bytes, NAME));
    (!token.is_empty()).then_some(rest)
}

/// Skips the text after an opening quote, the closing one included.
fn skip_quoted(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        bytes = match bytes {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', _, rest @ ..] | [_, rest @ ..] => rest,
            [] => return None,
        }
    }
}

/// Reads digits and nothing else.
pub(super) fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let add =
        |sum: u64, digit: &u8| sum.checked_mul(radix.into())?.checked_add(char::from(*digit).to_digit(radix)?.into());
    // hyper gives the two largest numbers another meaning.
    digits.iter().try_fold(0, add).filter(|number| !digits.is_empty() && *number < u64::MAX - 1)
}

// === Kinds of bytes ===

/// Characters of names: tokens (RFC 9110 §5.6.2).
pub(super) const NAME: u8 = 1;
/// Characters of values (RFC 9110 §5.5).
const VALUE: u8 = 2;
/// Characters of paths: RFC 3986 §3.3, and others that clients are known to send.
const PATH: u8 = 4;
/// Characters of queries, likewise.
const QUERY: u8 = 8;

static KINDS: [u8; 256] = kinds();

const fn kinds() -> [u8; 256] {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            b'\t' | b' ' => VALUE,
            b'!' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'|' | b'~' => {
                NAME | VALUE | PATH | QUERY
            }
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => NAME | VALUE | PATH | QUERY,
            b'(' | b')' | b',' | b'/' | b':' | b';' | b'=' | b'@' | b'[' | b']' | b'\\' | b'{' | b'}' => {
                VALUE | PATH | QUERY
            }
            b'`' => NAME | VALUE | QUERY,
            b'?' => VALUE | QUERY,
            b'"' => VALUE | PATH,
            b'#' => NAME | VALUE,
            b'<' | b'>' => VALUE,
            0x80.. => VALUE | PATH | QUERY,
            _ => 0,
        };
        byte += 1;
    }
    kinds
}

/// Returns the number of leading bytes of a kind.
pub(super) fn span(bytes: &[u8], kind: u8) -> usize {
    bytes.iter().position(|byte| KINDS[usize::from(*byte)] & kind == 0).unwrap_or(bytes.len())
}

/// Tells whether bytes may be a field value. Eight bytes are checked at a time, because most are valid.
fn is_value(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks();
    words.iter().all(|word| is_plain(u64::from_le_bytes(*word)) || span(word, VALUE) == word.len())
        && span(rest, VALUE) == rest.len()
}

/// Tells whether eight bytes have no control character, not even a tab.
const fn is_plain(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    // The high bit of a byte is set where the subtraction borrows: below a blank, and at DEL.
    let without_del = word ^ (0x7f * ONES);
    let low = word.wrapping_sub(0x20 * ONES) & !word;
    let del = without_del.wrapping_sub(ONES) & !without_del;
    (low | del) & (0x80 * ONES) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_end_in_one_chunked() {
        for (value, expected) in [
            ("chunked", Ok(())),
            ("Chunked", Ok(())),
            ("gzip, chunked", Err(Violation::UnknownCoding)),
            ("a,b ,\tCHUNKED", Err(Violation::UnknownCoding)),
            ("gzip", Err(Violation::Coding)),
            ("chunked, gzip", Err(Violation::Coding)),
            ("chunked, chunked", Err(Violation::Coding)),
            ("chunked, a, chunked", Err(Violation::Coding)),
            (", chunked", Err(Violation::Coding)),
            ("chunked,", Err(Violation::Coding)),
            ("a b, chunked", Err(Violation::Coding)),
            ("chunked;q=1", Err(Violation::Coding)),
            ("", Err(Violation::Coding)),
        ] {
            assert_eq!(check_coding(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn chunks_have_a_size_and_extensions() {
        for (line, expected) in [
            ("0", Ok(0)),
            ("00fF", Ok(255)),
            ("5;a", Ok(5)),
            ("5 ; a = b;c=\"d\\\"e\"", Ok(5)),
            ("", Err(Violation::Chunk)),
            ("5 ", Err(Violation::Chunk)),
            ("0x5", Err(Violation::Chunk)),
            ("5;", Err(Violation::Chunk)),
            ("5;a=", Err(Violation::Chunk)),
            ("5;a=\"b", Err(Violation::Chunk)),
            ("ffffffffffffffff", Err(Violation::Chunk)),
        ] {
            assert_eq!(chunk_size(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn bytes_of_values_are_looked_at_alike_alone_and_together() {
        for byte in 0..=255_u8 {
            let one = span(&[byte], VALUE) == 1;
            let mut many = [b'a'; 21];
            for at in 0..many.len() {
                many[at] = byte;
                assert_eq!(is_value(&many), one, "{byte:#x} at {at}");
                many[at] = b'a';
            }
        }
    }
}
