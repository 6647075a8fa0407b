//! The first message of a connection, read before TLS: it decides whether TLS ends here, or the connection is passed on.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::GRACE;
use super::client_io::ClientStream;
use super::passthrough::{PassthroughRoute, PassthroughRoutes};
use crate::message::client_hello::{HelloReader, NamedHost};

/// More than the hello of most clients.
const CHUNK: usize = 4 << 10;

/// Why a connection ends before TLS begins, as TLS tells it (RFC 8446 §6.2).
#[derive(Debug, Clone, Copy)]
pub(super) enum FatalAlert {
    /// The hello names two hosts.
    IllegalParameter = 47,
    /// The target cannot be reached.
    InternalError = 80,
}

/// What a connection is for.
pub(super) enum FirstMessage {
    /// TLS ends here.
    Served(ClientStream),
    /// The connection is passed on.
    Passed(ClientToPass),
    /// The connection is refused.
    Refused,
}

/// A client whose connection is passed on.
pub(super) struct ClientToPass {
    pub(super) stream: ClientStream,
    /// What it has sent so far.
    pub(super) first: Bytes,
    /// The name that it asked for.
    pub(super) name: String,
    pub(super) route: Arc<PassthroughRoute>,
}

/// Reads the first message of a connection, and finds out what the connection is for. A connection without a hello is for
/// TLS, which tells its client what is wrong.
///
/// # Errors
/// When the connection breaks.
pub(super) async fn read(mut stream: ClientStream, routes: &PassthroughRoutes) -> io::Result<FirstMessage> {
    let mut reader = HelloReader::default();
    let mut chunk = vec![0; CHUNK];
    let named = loop {
        let length = stream.read(&mut chunk).await?;
        match reader.push(&chunk[..length]) {
            NamedHost::Incomplete if length > 0 => {}
            named => break named,
        }
    };
    let first = Bytes::from(reader.into_bytes());
    match named {
        NamedHost::Name(name) => match routes.find(&name) {
            Some(route) => Ok(FirstMessage::Passed(ClientToPass { stream, first, name, route: Arc::clone(route) })),
            None => Ok(FirstMessage::Served(stream.replay(first))),
        },
        NamedHost::None | NamedHost::Incomplete => Ok(FirstMessage::Served(stream.replay(first))),
        NamedHost::Several => {
            refuse(stream, FatalAlert::IllegalParameter).await;
            Ok(FirstMessage::Refused)
        }
    }
}

/// Tells the client why its connection ends, and closes it.
pub(super) async fn refuse(mut stream: ClientStream, alert: FatalAlert) {
    // A fatal alert in a record of TLS 1.0, which clients of every version read.
    let record = [21, 3, 1, 0, 2, 2, alert as u8];
    let told = async {
        stream.write_all(&record).await?;
        stream.shutdown().await
    };
    // A client that is gone needs no alert.
    let _ = timeout(GRACE, told).await;
}
