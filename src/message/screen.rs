//! Checks HTTP/2 frames before the parser does, because it hides two errors: it cuts a target at `#`, and skips
//! pseudo-fields in trailers. The screen changes such frames so that the parser refuses them: a malformed request
//! resets its stream (RFC 9113 §8.1.1).
//!
//! Of HPACK (RFC 7541), this needs only the sizes of fields and the kinds of their names, not the fields.

mod block;

use std::collections::VecDeque;

use self::block::{Decoder, Oddity};

/// The length of the connection preface (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// The length of a frame's head.
const HEAD: usize = 9;
/// The most frames that the parser accepts for one block. It reads past a block that is too large for a request, and
/// continues with the connection.
const MAX_FRAMES: usize = 7;
/// The most bytes of frames that wait for the end of their block: 7 frames of 16 KiB each (RFC 9113 §6.5.2).
const MAX_WAITING: usize = 113 << 10;

/// The most streams with an unfinished request that are remembered: more than may be open.
const MAX_OPEN: usize = 128;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Checks the frames of a client one by one.
#[derive(Debug)]
pub struct Screen {
    decoder: Decoder,
    /// The number of bytes that pass before the next frame begins.
    rest: usize,
    /// The streams whose requests have not ended: fields on one of them are trailers.
    open: VecDeque<u32>,
    /// The parser will refuse the connection, so the rest passes unchecked.
    is_over: bool,
}

impl Default for Screen {
    fn default() -> Self {
        Self { decoder: Decoder::default(), rest: PREFACE, open: VecDeque::new(), is_over: false }
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy)]
struct FrameHead {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl FrameHead {
    fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, e, f, g, h] = *bytes.first_chunk::<HEAD>()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([e & 0x7f, f, g, h]) })
    }

    const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The state of the frames of one block of fields.
enum Frames {
    /// Some are missing.
    Coming,
    /// All are here, and end at this byte.
    Whole(usize),
    /// They are out of order.
    Broken,
}

impl Screen {
    /// Checks the next bytes, and returns how many of them may pass. The rest begins a frame; the next call gets it
    /// again with more bytes behind it.
    pub fn scan(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        loop {
            let passing = self.rest.min(bytes.len() - at);
            (at, self.rest) = (at + passing, self.rest - passing);
            if self.is_over {
                return bytes.len();
            }
            let Some(head) = FrameHead::read(&bytes[at..]).filter(|_| self.rest == 0) else { return at };
            if head.kind == DATA && head.has(END_STREAM) {
                self.ends(head.stream);
            }
            if head.kind != HEADERS {
                self.rest = HEAD + head.length;
                continue;
            }
            match frames(&bytes[at..]) {
                Frames::Whole(length) => {
                    self.is_over = self.read_block(&mut bytes[at..at + length], head).is_none();
                    at += length;
                }
                Frames::Coming if bytes.len() - at <= MAX_WAITING => return at,
                Frames::Coming | Frames::Broken => self.is_over = true,
            }
        }
    }

    fn begins(&mut self, stream: u32) {
        self.open.truncate(MAX_OPEN - 1);
        self.open.push_front(stream);
    }

    /// Notes that a request ends, or that it is refused. Returns whether it had begun.
    fn ends(&mut self, stream: u32) -> bool {
        let open = self.open.len();
        self.open.retain(|other| *other != stream);
        self.open.len() < open
    }

    /// Checks the complete frames of one block of fields. `None`: the parser will refuse the connection.
    fn read_block(&mut self, frames: &mut [u8], head: FrameHead) -> Option<()> {
        let is_trailers = self.ends(head.stream);
        if !is_trailers && !head.has(END_STREAM) {
            self.begins(head.stream);
        }
        let (start, end) = payload(frames, head)?;
        if depends_on_itself(frames, head) {
            // The parser resets the stream and does not read the fields.
            return Some(());
        }
        if head.has(END_HEADERS) {
            let oddity = self.decoder.read(frames.get(start..end)?)?;
            amend(frames, is_trailers, oddity, |at| start + at);
            return Some(());
        }
        let (mut block, mut places) = (frames.get(start..end)?.to_vec(), vec![(0, start)]);
        let mut at = HEAD + head.length;
        while let Some(next) = frames.get(at..).and_then(FrameHead::read) {
            places.push((block.len(), at + HEAD));
            block.extend_from_slice(frames.get(at + HEAD..at + HEAD + next.length)?);
            at += HEAD + next.length;
        }
        let oddity = self.decoder.read(&block)?;
        amend(frames, is_trailers, oddity, |byte| {
            let (first, place) = places.iter().rfind(|(first, _)| *first <= byte).copied().unwrap_or_default();
            place + byte - first
        });
        Some(())
    }
}

/// Changes the bytes that the parser would overlook into bytes that it refuses.
fn amend(frames: &mut [u8], is_trailers: bool, oddity: Oddity, place: impl Fn(usize) -> usize) {
    if let Some((at, mask)) = oddity.fragment
        && let Some(byte) = frames.get_mut(place(at))
    {
        // `#` becomes `>`, which is not allowed in a target either.
        *byte ^= mask;
    }
    if oddity.pseudo && is_trailers {
        // Trailers that do not end their stream are malformed (RFC 9113 §8.1).
        frames[4] &= !END_STREAM;
    }
}

/// Finds the end of the frames of one block.
fn frames(bytes: &[u8]) -> Frames {
    let Some(mut head) = FrameHead::read(bytes) else { return Frames::Coming };
    let (stream, mut at) = (head.stream, 0);
    for _ in 0..MAX_FRAMES {
        at += HEAD + head.length;
        if at > bytes.len() {
            return Frames::Coming;
        }
        if head.has(END_HEADERS) {
            return Frames::Whole(at);
        }
        match FrameHead::read(&bytes[at..]) {
            None => return Frames::Coming,
            Some(next) if next.kind == CONTINUATION && next.stream == stream => head = next,
            Some(_) => return Frames::Broken,
        }
    }
    Frames::Broken
}

/// Finds the fields within a frame (RFC 9113 §6.2).
fn payload(frame: &[u8], head: FrameHead) -> Option<(usize, usize)> {
    let padding = if head.has(PADDED) { usize::from(*frame.get(HEAD)?) } else { 0 };
    let start = HEAD + usize::from(head.has(PADDED)) + if head.has(PRIORITY) { 5 } else { 0 };
    let end = (HEAD + head.length).checked_sub(padding)?;
    (start <= end).then_some((start, end))
}

/// Tells whether a stream depends on itself, which is an error of this stream only (RFC 7540 §5.3.1).
fn depends_on_itself(frame: &[u8], head: FrameHead) -> bool {
    let at = HEAD + usize::from(head.has(PADDED));
    let on = frame.get(at..).filter(|_| head.has(PRIORITY)).and_then(<[u8]>::first_chunk::<4>);
    on.is_some_and(|on| u32::from_be_bytes(*on) & 0x7fff_ffff == head.stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"\x82\x87";

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// Passes frames in pieces of some size, and returns the bytes that pass.
    fn pass(frames: &[u8], size: usize) -> Vec<u8> {
        let (mut screen, mut held, mut gone) = (Screen::default(), Vec::new(), Vec::new());
        for piece in [&[b'p'; PREFACE], frames].concat().chunks(size) {
            held.extend_from_slice(piece);
            let on = screen.scan(&mut held);
            gone.extend(held.drain(..on));
        }
        assert!(held.is_empty(), "{held:?}");
        gone.split_off(PREFACE)
    }

    #[track_caller]
    fn check(frames: &[u8], expected: &[u8]) {
        for size in [1, 3, 10, 9999] {
            assert_eq!(pass(frames, size), expected, "{size} bytes at once");
        }
    }

    #[test]
    fn what_is_right_goes_on_as_it_is() {
        let request = [GET, b"\x04\x04/a?b\x40\x01x\x01#"].concat();
        let frames = [
            frame(4, 0, 0, b"\0\x03\0\0\0\x64"),
            frame(HEADERS, END_HEADERS, 1, &request),
            frame(0, 0, 1, b"#:method"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\0\x05x-sum\x01#"),
            frame(HEADERS, PADDED | PRIORITY, 3, &[b"\x02\0\0\0\0\x10", GET, b"\0\0"].concat()),
            frame(CONTINUATION, END_HEADERS, 3, b"\xbe"),
            frame(6, 0, 0, b"callgate"),
        ]
        .concat();
        check(&frames, &frames);
    }

    #[test]
    fn a_fragment_becomes_what_no_target_has() {
        for (path, expected) in [
            (&b"\x04\x04/a#b"[..], &b"\x04\x04/a>b"[..]),
            (b"\x05\x02/#", b"\x05\x02/>"),
            (b"\x44\x04/a#b", b"\x44\x04/a>b"),
            (b"\0\x05:path\x02/#", b"\0\x05:path\x02/>"),
            (b"\0\x84\xb9\x58\xd3\x3f\x02/#", b"\0\x84\xb9\x58\xd3\x3f\x02/>"),
            // `/` is 011000, `#` 111111111010, `>` 111111111011.
            (b"\x04\x83\x63\xfe\xbf", b"\x04\x83\x63\xfe\xff"),
        ] {
            let of = |path: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &[GET, path].concat());
            check(&of(path), &of(expected));
            let (start, end) = path.split_at(path.len() / 2);
            let split = |start: &[u8], end: &[u8]| {
                [frame(HEADERS, END_STREAM, 1, &[GET, start].concat()), frame(CONTINUATION, END_HEADERS, 1, end)]
                    .concat()
            };
            check(&split(start, end), &split(&expected[..path.len() / 2], &expected[path.len() / 2..]));
        }
    }

    #[test]
    fn a_name_is_known_from_the_table_too() {
        // Two entries have the name `:path`; a third entry evicts one of them.
        let first = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[GET, b"\x44\x02/a"].concat());
        let by_table = |path: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 3, &[GET, b"\x0f\x2f", path].concat());
        check(&[first.clone(), by_table(b"\x02/#")].concat(), &[first, by_table(b"\x02/>")].concat());
        let small =
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[b"\x3f\x09", GET, b"\x44\x02/a\x40\x01x\x01y"].concat());
        // The name at that index is `x` by now.
        check(&[small.clone(), by_table(b"\x02/#")].concat(), &[small, by_table(b"\x02/#")].concat());
    }

    #[test]
    fn behind_a_block_that_is_too_large_fields_are_looked_at() {
        let filler = [b"\0\x01x\x7f\x81\x7c".as_slice(), &[b'v'; 16_000]].concat();
        let mut frames = frame(HEADERS, END_STREAM, 1, GET);
        for number in 2..=MAX_FRAMES {
            frames.extend(frame(CONTINUATION, if number == MAX_FRAMES { END_HEADERS } else { 0 }, 1, &filler));
        }
        let next = |path: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 3, &[GET, path].concat());
        let [odd, expected] = [&b"\x04\x02/#"[..], b"\x04\x02/>"].map(|path| [frames.clone(), next(path)].concat());
        assert_eq!(pass(&odd, 9999), expected);
    }

    #[test]
    fn what_the_parser_does_not_read_changes_no_table() {
        let itself = frame(HEADERS, END_HEADERS | END_STREAM | PRIORITY, 1, b"\0\0\0\x01\x10\x40\x01x\x01y");
        let path = frame(HEADERS, END_HEADERS | END_STREAM, 3, &[GET, b"\x44\x02/a"].concat());
        let by_table = |value: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 5, &[GET, b"\x0f\x2f", value].concat());
        let before = [itself, path].concat();
        check(&[before.clone(), by_table(b"\x02/#")].concat(), &[before, by_table(b"\x02/>")].concat());
    }

    #[test]
    fn pseudo_fields_in_trailers_do_not_end_their_stream() {
        let post = frame(HEADERS, END_HEADERS, 1, b"\x83\x87\x84");
        for trailers in
            [&b"\x82"[..], b"\x04\x01/", b"\0\x07:method\x03GET", b"\0\x02:x\0", b"\x40\x84\xb9\x58\xd3\x3f\x01/"]
        {
            let of = |flags: u8| [post.clone(), frame(HEADERS, END_HEADERS | flags, 1, trailers)].concat();
            check(&of(END_STREAM), &of(0));
        }
    }

    #[test]
    fn what_the_parser_ends_for_goes_to_it_unseen() {
        for block in [&b"\x80"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x04\x7f", b"\x3f\xe2\x1f", b"\xbe"]
        {
            let frames = [frame(HEADERS, END_HEADERS, 1, block), frame(HEADERS, 4, 3, b"\x04\x02/#")].concat();
            check(&frames, &frames);
        }
        let broken = [frame(HEADERS, 0, 1, GET), frame(0, 0, 1, b"x")].concat();
        check(&broken, &broken);
    }

    #[test]
    fn fields_without_an_end_are_not_held_for_ever() {
        let mut screen = Screen::default();
        let mut flood = vec![b'p'; PREFACE];
        flood.extend(frame(HEADERS, 0, 1, GET));
        flood.extend(frame(CONTINUATION, 0, 1, b"").repeat(MAX_WAITING / HEAD + 1));
        assert_eq!(screen.scan(&mut flood), flood.len());
    }
}
