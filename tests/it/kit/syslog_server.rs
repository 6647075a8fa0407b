//! A syslog server over TCP, which counts octets (RFC 6587 §3.4.1).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::kit::stage::until;

/// The server. It ends, with its connections, when this is dropped.
pub struct SyslogServer {
    pub addr: SocketAddr,
    messages: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl SyslogServer {
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn at(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let messages = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&messages);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(read(stream, Arc::clone(&heard)));
            }
        });
        Self { addr, messages, task }
    }

    /// Returns an address at which a server may be started later.
    pub async fn later() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    /// Returns all messages so far.
    pub fn messages(&self) -> Vec<String> {
        self.messages.lock().unwrap().clone()
    }

    /// Waits for the message with the line of a request, and returns the message and the line.
    pub async fn message(&self, id: &str) -> (String, Value) {
        let find = || self.messages().into_iter().find(|message| message.contains(id));
        until("the syslog server has the line", || find().is_some()).await;
        let message = find().unwrap();
        let line = serde_json::from_str(message.splitn(8, ' ').nth(7).unwrap()).unwrap();
        (message, line)
    }
}

impl Drop for SyslogServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads messages until the end. A length that is none ends the connection.
async fn read(stream: TcpStream, heard: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = Vec::new();
        if stream.read_until(b' ', &mut length).await.unwrap_or_default() == 0 {
            return;
        }
        let length = String::from_utf8(length).unwrap();
        let mut message = vec![0; length.trim_end_matches(' ').parse().unwrap()];
        if stream.read_exact(&mut message).await.is_err() {
            return;
        }
        heard.lock().unwrap().push(String::from_utf8(message).unwrap());
    }
}
