//! Blocks of fields in HPACK (RFC 7541): the length of each field, and the kind of its name.

use std::collections::VecDeque;

/// The largest dynamic table, in bytes: the default size (RFC 9113 §6.5.2).
const MAX_TABLE: usize = 4096;
/// The size of an entry beyond its bytes (RFC 7541 §4.1).
const OVERHEAD: usize = 32;

/// The errors in a block that the parser overlooks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Oddity {
    /// The position of a `#` in the target, and the bits that change this byte into a `>`.
    pub(super) fragment: Option<(usize, u8)>,
    /// Whether there is a pseudo-field.
    pub(super) pseudo: bool,
}

/// The dynamic table of one direction.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The newest first.
    entries: VecDeque<TableEntry>,
    size: usize,
    most: usize,
}

#[derive(Debug, Clone, Copy)]
struct TableEntry {
    name: Name,
    size: usize,
}

/// A field name: its kind and length.
#[derive(Debug, Clone, Copy)]
struct Name {
    kind: NameKind,
    length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NameKind {
    Path,
    Pseudo,
    Field,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, most: MAX_TABLE }
    }
}

impl Decoder {
    /// Reads a block. `None`: the block is invalid, and all later ones cannot be read.
    pub(super) fn read(&mut self, block: &[u8]) -> Option<Oddity> {
        let (mut oddity, mut reader) = (Oddity::default(), BlockReader { block, at: 0 });
        while let Some(first) = reader.peek() {
            match first {
                0x80.. => {
                    let index = reader.number(7)?;
                    oddity.pseudo |= self.name(index)?.kind != NameKind::Field;
                }
                0x20..=0x3f => self.resize(reader.number(5)?)?,
                0x40..=0x7f => {
                    let (name, value) = self.literal(&mut reader, 6, &mut oddity)?;
                    self.keep(name, value);
                }
                _ => drop(self.literal(&mut reader, 4, &mut oddity)?),
            }
        }
        Some(oddity)
    }

    /// Reads a literal field, and returns its name and the length of its value.
    fn literal(&self, reader: &mut BlockReader<'_>, prefix: u32, oddity: &mut Oddity) -> Option<(Name, usize)> {
        let name = match reader.number(prefix)? {
            0 => reader.string()?.name()?,
            index => self.name(index)?,
        };
        let value = reader.string()?;
        oddity.pseudo |= name.kind != NameKind::Field;
        let (length, fragment) = value.measure()?;
        if name.kind == NameKind::Path {
            oddity.fragment = oddity.fragment.or(fragment);
        }
        Some((name, length))
    }

    fn name(&self, index: usize) -> Option<Name> {
        if let Some(length) = STATIC.get(index.checked_sub(1)?) {
            let kind = match index {
                4 | 5 => NameKind::Path,
                1..=14 => NameKind::Pseudo,
                _ => NameKind::Field,
            };
            return Some(Name { kind, length: usize::from(*length) });
        }
        self.entries.get(index - 1 - STATIC.len()).map(|entry| entry.name)
    }

    fn keep(&mut self, name: Name, value: usize) {
        let size = name.length + value + OVERHEAD;
        self.shrink(self.most.saturating_sub(size));
        if size <= self.most {
            self.entries.push_front(TableEntry { name, size });
            self.size += size;
        }
    }

    fn resize(&mut self, most: usize) -> Option<()> {
        self.most = Some(most).filter(|most| *most <= MAX_TABLE)?;
        self.shrink(most);
        Some(())
    }

    fn shrink(&mut self, most: usize) {
        while self.size > most {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= oldest.size;
        }
    }
}

/// The lengths of the names in the static table (RFC 7541 appendix A).
const STATIC: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4,
    4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

struct BlockReader<'b> {
    block: &'b [u8],
    at: usize,
}

/// A string as encoded.
struct HpackString<'b> {
    bytes: &'b [u8],
    /// Its position in the block.
    start: usize,
    /// Whether it is in Huffman code.
    coded: bool,
}

impl<'b> BlockReader<'b> {
    fn peek(&self) -> Option<u8> {
        self.block.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Reads an integer with a prefix of this many bits (RFC 7541 §5.1). The parser also refuses larger ones.
    fn number(&mut self, prefix: u32) -> Option<usize> {
        let most = (1 << prefix) - 1;
        let mut number = usize::from(self.next()?) & most;
        if number < most {
            return Some(number);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.next()?;
            number += usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn string(&mut self) -> Option<HpackString<'b>> {
        let coded = self.peek()? >= 0x80;
        let length = self.number(7)?;
        let start = self.at;
        self.at = start.checked_add(length)?;
        Some(HpackString { bytes: self.block.get(start..self.at)?, start, coded })
    }
}

impl HpackString<'_> {
    fn name(&self) -> Option<Name> {
        let kind = match (self.coded, self.bytes) {
            (false, b":path") | (true, b"\xb9\x58\xd3\x3f") => NameKind::Path,
            (false, [b':', ..]) => NameKind::Pseudo,
            // `:` is 1011100.
            (true, [first, ..]) if first >> 1 == 0b101_1100 => NameKind::Pseudo,
            _ => NameKind::Field,
        };
        Some(Name { kind, length: self.measure()?.0 })
    }

    /// Returns the decoded length, and the position of the first `#`, with the bits that make it a `>`.
    fn measure(&self) -> Option<(usize, Option<(usize, u8)>)> {
        if self.coded {
            let (length, fragment) = measure_coded(self.bytes)?;
            return Some((length, fragment.map(|bit| (self.start + bit / 8, 0x80 >> (bit % 8)))));
        }
        let fragment = self.bytes.iter().position(|byte| *byte == b'#');
        Some((self.bytes.len(), fragment.map(|at| (self.start + at, b'#' ^ b'>'))))
    }
}

/// For each code length: the first number beyond its codes, left-aligned in 32 bits (RFC 7541 appendix B).
const CODES: [(u32, u64); 21] = [
    (5, 0x0a << 27),
    (6, 0x2e << 26),
    (7, 0x7c << 25),
    (8, 0xfe << 24),
    (10, 0x3fd << 22),
    (11, 0x7fd << 21),
    (12, 0xffc << 20),
    (13, 0x1ffe << 19),
    (14, 0x3ffe << 18),
    (15, 0x7fff << 17),
    (19, 0x7_fff3 << 13),
    (20, 0xf_ffee << 12),
    (21, 0x1f_ffe9 << 11),
    (22, 0x3f_ffec << 10),
    (23, 0x7f_fff5 << 9),
    (24, 0xff_fff6 << 8),
    (25, 0x1ff_fff0 << 7),
    (26, 0x3ff_ffef << 6),
    (27, 0x7ff_fff1 << 5),
    (28, 0xfff_ffff << 4),
    (30, 0x4000_0000 << 2),
];
/// The code of `#`, of 12 bits; the code of `>` differs in the last bit.
const FRAGMENT: u64 = 0xffa;
/// The code of the end of a string (EOS), of 30 bits.
const END: u64 = 0x3fff_ffff;

/// Counts the decoded bytes, and finds the last bit of the first `#`.
fn measure_coded(bytes: &[u8]) -> Option<(usize, Option<usize>)> {
    let (mut waiting, mut bits, mut passed) = (0_u64, 0_u32, 0_usize);
    let (mut count, mut fragment) = (0, None);
    let mut bytes = bytes.iter();
    loop {
        while bits <= 32
            && let Some(byte) = bytes.next()
        {
            waiting = (waiting << 8) | u64::from(*byte);
            bits += 8;
        }
        // Missing bits of the 32 are ones, as in the padding (RFC 7541 §5.2).
        let missing = 32_u32.saturating_sub(bits);
        let next = if bits >= 32 { waiting >> (bits - 32) } else { ((waiting + 1) << missing) - 1 };
        if bits < 8 && next == u64::from(u32::MAX) {
            return Some((count, fragment));
        }
        // EOS must not appear in a string.
        if next >> 2 == END {
            return None;
        }
        let (length, _) = *CODES.iter().find(|(_, end)| next < *end)?;
        bits = bits.checked_sub(length)?;
        waiting &= (1 << bits) - 1;
        passed += length as usize;
        count += 1;
        if length == 12 && next >> 20 == FRAGMENT {
            fragment = fragment.or(Some(passed - 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_measured() {
        // RFC 7541 appendix C.4 and C.6.
        for (code, length) in [
            (&b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"[..], "www.example.com".len()),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache".len()),
            (b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f", "custom-key".len()),
            (b"\x9d\x29\xad\x17\x18\x63\xc7\x8f\x0b\x97\xc8\xe9\xae\x82\xae\x43\xd3", "https://www.example.com".len()),
            (b"", 0),
        ] {
            assert_eq!(measure_coded(code), Some((length, None)), "{code:x?}");
        }
        for broken in [&b"\xff"[..], b"\xff\xff\xff\xff", b"\x00"] {
            assert_eq!(measure_coded(broken), None, "{broken:x?}");
        }
        assert_eq!(measure_coded(b"\xff\xaf"), Some((1, Some(11))));
    }

    #[test]
    fn every_code_has_its_length() {
        // One code for each byte and one for EOS: they fill the whole tree.
        let starts = std::iter::once(0).chain(CODES.iter().map(|(_, end)| *end));
        let count: u64 = starts.zip(CODES).map(|(start, (length, end))| (end - start) >> (32 - length)).sum();
        assert_eq!((count, CODES[20].1), (257, 1 << 32));
    }
}
