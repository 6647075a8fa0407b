//! The first messages of TLS clients, also of those that are older than every library.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kit::gate::Gate;

/// An alert of rustls or callgate, fatal.
pub const ILLEGAL_PARAMETER: u8 = 47;
pub const INTERNAL_ERROR: u8 = 80;

fn vector16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
}

pub fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(content)].concat()
}

/// The extension with the names of hosts (SNI).
pub fn server_names(names: &[&str]) -> Vec<u8> {
    let entries = names.iter().flat_map(|name| [&[0][..], &vector16(name.as_bytes())].concat());
    extension(0, &vector16(&entries.collect::<Vec<_>>()))
}

/// A hello of TLS 1.0 with RC4 and 3DES, as an old desk phone sends it, in one record.
pub fn old_hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    in_records(&old_message(extensions), 1 << 14)
}

/// The same without its record.
pub fn old_message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let fixed = [&[3, 1][..], &[7; 32], &[0], &[0, 4, 0, 5, 0, 10], &[1, 0]].concat();
    let body = if extensions.is_empty() { fixed } else { [fixed, vector16(&extensions.concat())].concat() };
    [&[1, 0][..], &vector16(&body)].concat()
}

/// Splits a handshake message into records of this many bytes.
pub fn in_records(message: &[u8], length: usize) -> Vec<u8> {
    message.chunks(length).flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat()).collect()
}

/// The hello of an old phone that asks for a name.
pub fn old_hello_for(name: &str) -> Vec<u8> {
    old_hello(&[server_names(&[name])])
}

/// Connects, sends bytes, and returns all that comes until the gate closes.
pub async fn answer_to(gate: &Gate, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(gate.addr).await.unwrap();
    // The gate may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// Returns the description of a fatal alert, if that is all there is.
pub fn alert(answer: &[u8]) -> Option<u8> {
    match answer {
        [21, 3, _, 0, 2, 2, description] => Some(*description),
        _ => None,
    }
}
