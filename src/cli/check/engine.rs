//! The engine of `[shared]`, as `check --online` finds it.

use std::io;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::diagnosis::Fault;
use super::finding::{Finding, PartQuestion};
use crate::config::{EngineNode, HostPort, SharedConfig};
use crate::{members, tls};

/// How long a node may take to show whether it speaks TLS.
const PATIENCE: Duration = Duration::from_secs(2);

/// The part that the findings are about.
pub(super) const PART: &str = "shared";

/// Whose fault it is what an engine says, and what the operator can do.
const ADVICE: [(&str, Fault, &str); 8] = [
    ("name it in `ca`", Fault::Configuration, "correct `ca`"),
    ("NOAUTH", Fault::Configuration, "set `password`, and `user` if the engine has one for callgate"),
    ("WRONGPASS", Fault::Configuration, "correct `user` and `password`"),
    ("NOPERM", Fault::Outside, "give the user all rights on the keys and the channel of `prefix`"),
    ("WRONGTYPE", Fault::Configuration, "another program uses these names: give callgate another `prefix`"),
    ("OOM", Fault::Outside, "give the engine more memory"),
    ("READONLY", Fault::Configuration, "name the node that takes writes, or the sentinels"),
    (members::OTHER_KEYS, Fault::Configuration, "give all members the same `keys`"),
];

/// Says what the engine is, or what is wrong with it.
pub(super) async fn findings(config: &SharedConfig, is_unseen: bool) -> Vec<Finding> {
    let question = PartQuestion::new(PART, format!("what members ask of {}", config.nodes[0]));
    if is_unseen {
        return vec![question.untried("a secret for the engine cannot be seen here, so the engine was not asked")];
    }
    let found = members::probe(config).await;
    let description = found.description.as_deref();
    if found.problems.is_empty() {
        return vec![question.ok(description.unwrap_or("it can be used"))];
    }
    let name = description.map(|description| format!("{description}: ")).unwrap_or_default();
    let of_problem = |problem: &String| of_problem(&question, &name, problem);
    let mut findings: Vec<_> = found.problems.iter().map(of_problem).collect();
    if description.is_none() {
        for node in &config.nodes {
            findings.extend(other_protocol(node).await);
        }
    }
    findings
}

fn of_problem(question: &PartQuestion, name: &str, problem: &str) -> Finding {
    let known = ADVICE.iter().find(|(code, ..)| problem.contains(code));
    let (fault, advice) = known.map_or((Fault::Outside, "is `url` right?"), |(_, fault, advice)| (*fault, *advice));
    question.fail(fault, format!("{name}{problem}"), advice)
}

/// Says if a node speaks TLS where `url` says that it does not, or the other way round.
async fn other_protocol(node: &EngineNode) -> Option<Finding> {
    let question = PartQuestion::new(PART, format!("the protocol of {node}"));
    let (found, answer, advice) = match node {
        EngineNode::Plain(at) => (timeout(PATIENCE, speaks_tls(at)).await, "it speaks TLS", "write rediss:// in `url`"),
        EngineNode::Tls(at) => {
            (timeout(PATIENCE, speaks_plainly(at)).await, "it speaks without TLS", "name its port for TLS in `url`")
        }
        EngineNode::Unix(_) => return None,
    };
    matches!(found, Ok(Ok(true))).then(|| question.fail(Fault::Configuration, answer, advice))
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
