//! A proxy between callgate and the internet, and a server that only the proxy finds.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use callgate::tls::dev;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::kit::gate::secret;
use crate::kit::upstream::RawUpstream;

/// The name of the server. No resolver knows it.
pub const BEHIND: &str = "idp.test";
/// The user of the proxy, as a URL has it.
pub const USER: &str = "ann:open%40s%C3%A9same";
/// The same as `Proxy-Authorization` has it, and the password alone: what no output may contain.
pub const USER_SECRETS: [&str; 3] = ["open%40s%C3%A9same", "open@s\u{e9}same", "YW5uOm9wZW5Ac8Opc2FtZQ=="];
/// Every variable that names a proxy.
const VARIABLES: [&str; 8] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"];

/// Sets the variables of a command that name proxies to these, and no others.
pub fn with_proxies(mut command: Command, variables: &[(&str, &str)]) -> Command {
    for name in VARIABLES {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    command
}

/// A proxy that leads to one server, whatever host it is asked for.
pub async fn leading_to(server: SocketAddr) -> RawUpstream {
    RawUpstream::serving(move |mut line| async move {
        if line.head().await.is_some() {
            let mut server = TcpStream::connect(server).await.unwrap();
            line.say("HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n").await;
            // Either side may end in any way.
            drop(copy_bidirectional(&mut line.stream, &mut server).await);
        }
    })
    .await
}

/// TLS before a server that speaks plain HTTP, with a certificate for some names.
pub struct TlsFront {
    pub addr: SocketAddr,
    dir: TempDir,
    /// Ends the thread when it is closed.
    _open: oneshot::Sender<()>,
}

impl TlsFront {
    /// Serves on a thread of its own, because tests wait, without yielding, for logs that are sent here.
    pub async fn before(plain: SocketAddr, names: &[&str]) -> Self {
        let certificate = dev::certificate(names).unwrap();
        let dir = TempDir::new().unwrap();
        secret(&dir, "ca.pem", &certificate.ca);
        let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).map(Result::unwrap).collect();
        let config = rustls::ServerConfig::builder_with_provider(callgate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let (open, closed) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, &acceptor, plain) => {}
                    _ = closed => {}
                }
            });
        });
        Self { addr, dir, _open: open }
    }

    /// Returns the line of a method that trusts this server.
    pub fn ca(&self) -> String {
        format!("ca = {:?}\n", self.dir.path().join("ca.pem").display().to_string())
    }
}

/// Ends TLS, and passes the bytes on.
async fn serve(listener: std::net::TcpListener, acceptor: &TlsAcceptor, plain: SocketAddr) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(mut tls) = acceptor.accept(stream).await else { return };
            let mut plain = TcpStream::connect(plain).await.unwrap();
            drop(copy_bidirectional(&mut tls, &mut plain).await);
        });
    }
}
