use std::future::poll_fn;
use std::os::fd::AsFd;

use rustix::io::ioctl_fionread;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector, client};

use super::*;
use crate::budget::{Budget, WorkerBudget};
use crate::observe::metrics::Tally;
use crate::tls::{dev, provider};

/// The largest DATA frame, with its head.
const FRAME: &[u8] = &[0; (16 << 10) + 9];

/// A connection between a client and callgate.
struct Line {
    client: client::TlsStream<UnixStream>,
    io: TrackedIo,
}

impl Line {
    async fn new(is_multiplexed: bool) -> Self {
        let certificate = dev::certificate(&["app.test"]).unwrap();
        let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
        let server = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let mut server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
        server.send_tls13_tickets = 0;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate.ca.as_bytes()).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let client = TlsConnector::from(Arc::new(client.with_root_certificates(roots).with_no_client_auth()));
        let (near, far) = UnixStream::pair().unwrap();
        let name = ServerName::try_from("app.test").unwrap();
        let server = TlsAcceptor::from(Arc::new(server));
        let (client, tls) = tokio::join!(client.connect(name, far), server.accept(ClientStream::Unix(near)));
        let ledger = WorkerBudget::new(Budget::new(1 << 20)).open(None);
        let activity = Activity::new(Instant::now(), is_multiplexed, Tally::default());
        Self { client: client.unwrap(), io: TrackedIo::new(Box::new(tls.unwrap()), activity, ledger) }
    }

    /// Writes as h2 writes a frame.
    async fn send(&mut self, frame: &[u8]) {
        self.io.write_all(frame).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// Returns how many bytes, encrypted, the client can read.
    fn sent(&self) -> u64 {
        ioctl_fionread(self.client.get_ref().0.as_fd()).unwrap()
    }

    fn is_corked(&self) -> bool {
        self.io.activity.is_corked()
    }
}

#[tokio::test]
async fn a_large_frame_of_http2_waits_for_the_next_flush() {
    let mut line = Line::new(true).await;
    line.send(FRAME).await;
    assert_eq!((line.sent(), line.is_corked()), (0, true));
    line.io.flush().await.unwrap();
    assert!(line.sent() > FRAME.len() as u64 && !line.is_corked());
    let mut arrived = vec![1; FRAME.len()];
    line.client.read_exact(&mut arrived).await.unwrap();
    assert_eq!(arrived, FRAME);
}

#[tokio::test]
async fn what_gathers_is_bounded() {
    let mut line = Line::new(true).await;
    for _ in 0..3 {
        line.send(FRAME).await;
        assert_eq!(line.sent(), 0);
    }
    line.send(FRAME).await;
    assert!(line.sent() > 3 * FRAME.len() as u64 && line.is_corked());
    line.send(b"small").await;
    let all = line.sent();
    assert!(all > 4 * FRAME.len() as u64 && !line.is_corked());
}

#[tokio::test]
async fn small_frames_and_http1_wait_for_nothing() {
    let mut line = Line::new(true).await;
    line.send(b"small").await;
    assert!(line.sent() > 0 && !line.is_corked());
    let mut line = Line::new(false).await;
    line.send(FRAME).await;
    assert!(line.sent() > FRAME.len() as u64 && !line.is_corked());
}

#[tokio::test]
async fn many_small_frames_wait_for_a_client_that_takes_none() {
    let mut line = Line::new(true).await;
    // As h2 does, whose flush waits for the client: it writes on as long as its own buffer has room.
    let sent = poll_fn(|cx| {
        for nth in 0..1_000_000 {
            match Pin::new(&mut line.io).poll_write(cx, b"small") {
                Poll::Ready(written) => assert_eq!(written.unwrap(), 5, "{nth}"),
                Poll::Pending => return Poll::Ready(nth),
            }
            let _ = Pin::new(&mut line.io).poll_flush(cx);
        }
        panic!("nothing waits");
    })
    .await;
    assert!(line.io.activity.write_blocked_since().is_some());
    let mut arrived = vec![0; 5 * sent];
    let (_, flushed) = tokio::join!(line.client.read_exact(&mut arrived), line.io.flush());
    flushed.unwrap();
    assert!(arrived.chunks(5).all(|frame| frame == b"small"));
}

#[tokio::test]
async fn a_shutdown_sends_what_gathers() {
    let mut line = Line::new(true).await;
    line.send(FRAME).await;
    line.io.shutdown().await.unwrap();
    assert!(!line.is_corked());
    let mut arrived = Vec::new();
    line.client.read_to_end(&mut arrived).await.unwrap();
    assert_eq!(arrived, FRAME);
}
