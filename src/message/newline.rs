//! The search for the end of a line.

const ONES: u64 = u64::MAX / 0xff;

/// Finds the first line feed. Lines of heads are short, and a search built for long texts takes longer to start.
#[must_use]
pub fn end(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks();
    for (at, word) in words.iter().enumerate() {
        if let Some(within) = end_within(u64::from_le_bytes(*word)) {
            return Some(at * word.len() + within);
        }
    }
    rest.iter().position(|byte| *byte == b'\n').map(|within| bytes.len() - rest.len() + within)
}

/// Finds the first line feed among eight bytes, the first of them lowest.
fn end_within(word: u64) -> Option<usize> {
    // The lowest set high bit marks the first byte that is a line feed.
    let others = word ^ (u64::from(b'\n') * ONES);
    let ends = others.wrapping_sub(ONES) & !others & (0x80 * ONES);
    (ends != 0).then(|| ends.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_feed_is_found_wherever_it_is() {
        for length in 0..20 {
            for at in 0..length {
                for other in [b'a', 0, b'\r', 0x0b, 0x8a, 0xff] {
                    let mut bytes = vec![other; length];
                    assert_eq!(end(&bytes), None, "{bytes:?}");
                    bytes[at] = b'\n';
                    assert_eq!(end(&bytes), Some(at), "{bytes:?}");
                    *bytes.last_mut().unwrap() = b'\n';
                    assert_eq!(end(&bytes), Some(at), "{bytes:?}");
                }
            }
        }
    }
}
