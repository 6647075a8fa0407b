//! A connection to the shared engine: to one node, to the node that sentinels name, or to a cluster.

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, PushInfo, RedisConnectionInfo, RedisResult, TlsCertificates, TlsMode, Value,
};
use tokio::sync::broadcast;

use super::CONNECT_TIMEOUT;
use crate::config::{EngineLogin, EngineNode, EngineTopology, SharedConfig};

/// How many commands may wait for one connection to take them.
const QUEUE: usize = 1024;
/// How many answers may be outstanding. With more, the engine is too slow, and callers wait until their deadline.
const IN_FLIGHT: usize = 4096;

/// A connection that many callers use at once.
#[derive(Clone)]
pub(super) enum EngineLink {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl EngineLink {
    /// Connects and logs in. Messages of other members go to `messages`.
    pub(super) async fn connect(config: &SharedConfig, messages: broadcast::Sender<PushInfo>) -> RedisResult<Self> {
        match &config.topology {
            EngineTopology::Single => {
                let client = client(config, &config.nodes[0])?;
                client.get_multiplexed_async_connection_with_config(&settings(messages)).await.map(Self::Node)
            }
            EngineTopology::Sentinel { name } => {
                let mut sentinels = sentinels(config, name)?;
                sentinels.get_async_connection_with_config(&settings(messages)).await.map(Self::Node)
            }
            EngineTopology::Cluster => cluster(config, messages)?.get_async_connection().await.map(Self::Cluster),
        }
    }

    /// Sends a command, and waits for its answer.
    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::Node(link) => link.req_packed_command(command).await,
            Self::Cluster(link) => link.req_packed_command(command).await,
        };
        answer?.extract_error()
    }

    /// Asks for the messages of other members on a channel.
    pub(super) async fn subscribe(&mut self, channel: &str) -> RedisResult<()> {
        match self {
            Self::Node(link) => link.subscribe(channel).await,
            Self::Cluster(link) => link.subscribe(channel).await,
        }
    }
}

fn settings(messages: broadcast::Sender<PushInfo>) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        // Each caller has a deadline of its own.
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE)
        .set_concurrency_limit(IN_FLIGHT)
        .set_push_sender(sender(messages))
}

/// A message that no part of this member waits for is no error.
fn sender(messages: broadcast::Sender<PushInfo>) -> impl Fn(PushInfo) -> Result<(), redis::aio::SendError> {
    move |message| {
        let _ = messages.send(message);
        Ok(())
    }
}

// === What the crate is told ===

fn client(config: &SharedConfig, node: &EngineNode) -> RedisResult<Client> {
    let info = info(config, node)?;
    match node {
        EngineNode::Tls(_) => Client::build_with_tls(info, certificates(config)),
        EngineNode::Plain(_) | EngineNode::Unix(_) => Client::open(info),
    }
}

fn info(config: &SharedConfig, node: &EngineNode) -> RedisResult<ConnectionInfo> {
    let mut redis = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("callgate", env!("CARGO_PKG_VERSION"))
        .set_db(config.database.into());
    if let Some(EngineLogin { user, password }) = &config.login {
        redis = redis.set_password(password.expose());
        if let Some(user) = user {
            redis = redis.set_username(user);
        }
    }
    Ok(address(node).into_connection_info()?.set_redis_settings(redis))
}

fn address(node: &EngineNode) -> ConnectionAddr {
    match node {
        EngineNode::Plain(at) => ConnectionAddr::Tcp(at.name().to_owned(), at.port),
        EngineNode::Tls(at) => {
            ConnectionAddr::TcpTls { host: at.name().to_owned(), port: at.port, insecure: false, tls_params: None }
        }
        EngineNode::Unix(path) => ConnectionAddr::Unix(path.clone()),
    }
}

fn certificates(config: &SharedConfig) -> TlsCertificates {
    let client_tls = config.client.as_ref().map(|client| ClientTlsConfig {
        client_cert: client.chain.clone(),
        client_key: client.key.expose().as_bytes().to_vec(),
    });
    TlsCertificates { client_tls, root_cert: config.ca.clone() }
}

fn is_tls(config: &SharedConfig) -> bool {
    config.nodes.iter().any(|node| matches!(node, EngineNode::Tls(_)))
}

/// The node that sentinels name has the same login, and TLS if the sentinels have it.
fn sentinels(config: &SharedConfig, name: &str) -> RedisResult<redis::sentinel::SentinelClient> {
    let nodes = config.nodes.iter().map(address);
    let mut builder = SentinelClientBuilder::new(nodes, name, SentinelServerType::Master)?
        .set_client_to_redis_db(config.database.into())
        .set_client_to_redis_protocol(ProtocolVersion::RESP3);
    if is_tls(config) {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates(config))
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_certificates(certificates(config));
    }
    if let Some(EngineLogin { user, password }) = &config.login {
        builder = builder.set_client_to_redis_password(password.expose());
        if let Some(user) = user {
            builder = builder.set_client_to_redis_username(user);
        }
    }
    builder.build()
}

fn cluster(config: &SharedConfig, messages: broadcast::Sender<PushInfo>) -> RedisResult<redis::cluster::ClusterClient> {
    let nodes: RedisResult<Vec<_>> = config.nodes.iter().map(|node| info(config, node)).collect();
    let mut builder = ClusterClientBuilder::new(nodes?)
        .use_protocol(ProtocolVersion::RESP3)
        .connection_timeout(CONNECT_TIMEOUT)
        .push_sender(sender(messages))
        .connection_concurrency_limit(IN_FLIGHT)
        // Each caller has a deadline, and the circuit tries again.
        .retries(1);
    if is_tls(config) {
        builder = builder.tls(TlsMode::Secure).certs(certificates(config));
    }
    builder.build()
}
