//! The engine of `[shared]`, as `check --online` finds it.

use std::io;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::print_fact;
use crate::config::{EngineNode, HostPort, SharedConfig};
use crate::{members, tls};

/// How long a node may take to show whether it speaks TLS.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the operator can do about what an engine says.
const ADVICE: [(&str, &str); 6] = [
    ("NOAUTH", "set `password`, and `user` if the engine has one for callgate"),
    ("WRONGPASS", "correct `user` and `password`"),
    ("NOPERM", "give the user all rights on the keys and the channel of `prefix`"),
    ("WRONGTYPE", "another program uses these names: give callgate another `prefix`"),
    ("OOM", "give the engine more memory"),
    ("READONLY", "name the node that takes writes, or the sentinels"),
];

/// Prints what the engine is, and returns what is wrong with it, each with advice.
pub(super) async fn report(config: &SharedConfig) -> Vec<String> {
    let found = members::probe(config).await;
    if let Some(description) = &found.description {
        print_fact(&format_args!("shared: {} is {description}", config.nodes[0]));
    }
    let mut problems: Vec<_> = found.problems.iter().map(|problem| format!("shared: {}", advised(problem))).collect();
    if !problems.is_empty() && found.description.is_none() {
        for node in &config.nodes {
            problems.extend(other_protocol(node).await.map(|hint| format!("shared: {node} {hint}")));
        }
    }
    problems
}

fn advised(problem: &str) -> String {
    match ADVICE.iter().find(|(code, _)| problem.contains(code)) {
        Some((_, advice)) => format!("{problem}: {advice}"),
        None => problem.to_owned(),
    }
}

/// Says if a node speaks TLS where `url` says that it does not, or the other way round.
async fn other_protocol(node: &EngineNode) -> Option<&'static str> {
    let (found, hint) = match node {
        EngineNode::Plain(at) => (timeout(PATIENCE, speaks_tls(at)).await, "speaks TLS: write rediss:// in `url`"),
        EngineNode::Tls(at) => {
            (timeout(PATIENCE, speaks_plainly(at)).await, "speaks without TLS: name its port for TLS in `url`")
        }
        EngineNode::Unix(_) => return None,
    };
    matches!(found, Ok(Ok(true))).then_some(hint)
}

async fn speaks_tls(at: &HostPort) -> io::Result<bool> {
    let connector = TlsConnector::from(tls::client::unverified_config().map_err(io::Error::other)?);
    let name = ServerName::try_from(at.name().to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((at.name(), at.port)).await?;
    // An alert is TLS as well.
    Ok(match connector.connect(name, stream).await {
        Ok(_) => true,
        Err(error) => error.get_ref().is_some_and(|cause| {
            matches!(cause.downcast_ref::<rustls::Error>(), Some(rustls::Error::AlertReceived(_)))
        }),
    })
}

async fn speaks_plainly(at: &HostPort) -> io::Result<bool> {
    let mut stream = TcpStream::connect((at.name(), at.port)).await?;
    stream.write_all(b"PING\r\n").await?;
    Ok(matches!(stream.read_u8().await?, b'+' | b'-'))
}
