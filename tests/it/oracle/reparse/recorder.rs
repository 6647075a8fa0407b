//! An upstream that records all bytes of each connection, and does not decide where a request ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::kit::rfc9112::{self, Reading::Partial};
use crate::kit::stage::until;

/// It wants each request on a connection of its own, so that what a connection carried is one request or a lie.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

/// All that came on one connection.
#[derive(Debug, Clone)]
pub struct Record {
    pub bytes: Vec<u8>,
}

pub struct Recorder {
    pub addr: SocketAddr,
    records: Arc<Mutex<Vec<Record>>>,
    open: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Recorder {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (records, open) = (Arc::<Mutex<Vec<Record>>>::default(), Arc::<AtomicUsize>::default());
        let task = {
            let (records, open) = (records.clone(), open.clone());
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    open.fetch_add(1, Ordering::SeqCst);
                    let (records, open) = (records.clone(), open.clone());
                    tokio::spawn(async move {
                        let bytes = record(stream).await;
                        if !bytes.is_empty() {
                            records.lock().unwrap().push(Record { bytes });
                        }
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            })
        };
        Self { addr, records, open, task }
    }

    /// Takes what has come, once every connection has ended.
    pub async fn settled(&self) -> Vec<Record> {
        until("the connections to the upstream end", || self.open.load(Ordering::SeqCst) == 0).await;
        std::mem::take(&mut *self.records.lock().unwrap())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps every byte until the other side ends; answers when a request seems whole, or invalid.
async fn record(mut stream: TcpStream) -> Vec<u8> {
    let (mut bytes, mut answered) = (Vec::new(), false);
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        if !answered && rfc9112::request(&bytes) != Partial {
            answered = stream.write_all(ANSWER).await.is_ok();
        }
    }
    bytes
}
