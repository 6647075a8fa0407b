//! The structure of `src/`: floors, imports between files, names of types, size of structs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(unreachable_pub, reason = "a test binary has no outside; `pub` is what one file offers the others")]

mod circles;
mod floors;
mod imports;
mod source;
mod types;
