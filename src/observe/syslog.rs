//! Log lines as datagrams: for a syslog daemon on this machine over its socket, or on another over UDP; for the journal of systemd.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::syslog_message;

/// How long one message may wait for the daemon.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where a syslog daemon receives datagrams.
pub(super) enum DatagramAddress {
    /// The socket of the daemon of this machine.
    Unix(PathBuf),
    /// A UDP address.
    Udp(SocketAddr),
    /// The socket of the journal.
    Journal(PathBuf),
}

/// A socket to a syslog daemon.
pub(super) struct SyslogClient {
    to: DatagramAddress,
    host: String,
    socket: Option<SyslogSocket>,
    /// The daemon did not accept the last message in time. Until it accepts one, messages are not waited for.
    is_deaf: bool,
}

enum SyslogSocket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

/// Opens a socket to the daemon, and closes it again.
pub(super) fn probe(to: &DatagramAddress) -> io::Result<()> {
    SyslogSocket::open(to).map(drop)
}

impl SyslogClient {
    pub(super) fn new(to: DatagramAddress) -> Self {
        Self { to, host: syslog_message::host(), socket: None, is_deaf: false }
    }

    /// Sends each line as a message of its own. Tries all; returns the first error.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let sent = lines.map(|line| self.send(&String::from_utf8_lossy(line)));
        sent.fold(Ok(()), Result::and)
    }

    /// Sends a line; if that fails, once more over a new socket, since the daemon may have restarted.
    fn send(&mut self, line: &str) -> io::Result<()> {
        let message = self.message(line);
        let sent = match self.socket.take() {
            Some(socket) => self.send_over(socket, &message),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match sent {
            Err(error) if !is_late(&error) => self.send_over(SyslogSocket::open(&self.to)?, &message),
            sent => sent,
        }
    }

    /// Sends over a socket, and keeps the socket unless its daemon is gone.
    fn send_over(&mut self, socket: SyslogSocket, message: &str) -> io::Result<()> {
        socket.set_waiting(!self.is_deaf)?;
        let sent = socket.send(message.as_bytes());
        self.is_deaf = sent.as_ref().is_err_and(is_late);
        if sent.is_ok() || self.is_deaf {
            self.socket = Some(socket);
        }
        sent
    }

    fn message(&self, line: &str) -> String {
        match &self.to {
            DatagramAddress::Unix(_) => syslog_message::local(line),
            DatagramAddress::Udp(_) => syslog_message::rfc5424(&self.host, line),
            DatagramAddress::Journal(_) => syslog_message::journal(line),
        }
    }
}

impl SyslogSocket {
    fn open(to: &DatagramAddress) -> io::Result<Self> {
        match to {
            DatagramAddress::Unix(path) | DatagramAddress::Journal(path) => unix(path).map(Self::Unix),
            DatagramAddress::Udp(address) => udp(*address).map(Self::Udp),
        }
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.send(message).map(drop),
            Self::Udp(socket) => socket.send(message).map(drop),
        }
    }

    /// Lets the next message wait for the daemon, or not at all.
    fn set_waiting(&self, is_waiting: bool) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.set_nonblocking(!is_waiting),
            Self::Udp(socket) => socket.set_nonblocking(!is_waiting),
        }
    }
}

/// Returns whether the daemon exists and did not accept the message in time.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn unix(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let any = if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind::<SocketAddr>(any)?;
    socket.connect(address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

impl fmt::Display for SyslogClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            DatagramAddress::Unix(path) => write!(f, "syslog at unix:{}", path.display()),
            DatagramAddress::Udp(address) => write!(f, "syslog at udp:{address}"),
            DatagramAddress::Journal(_) => f.write_str("the journal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const GRANT: &str = "{\"kind\":\"audit grant\"}";

    fn received(read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> String {
        let mut bytes = [0; 1024];
        let length = read(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_daemon_of_this_machine_hears_what_syslog_3_would_say() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut syslog = SyslogClient::new(DatagramAddress::Unix(path.clone()));
        assert!(syslog.write(b"{}\n").is_err(), "nobody is there");
        for _ in 0..2 {
            // The second is another daemon at the same name.
            let _ = std::fs::remove_file(&path);
            let daemon = UnixDatagram::bind(&path).unwrap();
            syslog.write(format!("{GRANT}\n{{}}\n").as_bytes()).unwrap();
            let told = received(|bytes| daemon.recv(bytes));
            let end = format!(" callgate[{}]: {GRANT}", std::process::id());
            assert!(told.starts_with("<85>") && told.ends_with(&end), "{told}");
            assert_eq!(told.find(" callgate"), Some("<85>Nov 23 05:40:00".len()), "{told}");
            let told = received(|bytes| daemon.recv(bytes));
            assert!(told.starts_with("<84>") && told.ends_with(": {}"), "{told}");
        }
    }

    #[test]
    fn a_daemon_that_reads_nothing_is_waited_for_once() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = UnixDatagram::bind(dir.path().join("log")).unwrap();
        let mut syslog = SyslogClient::new(DatagramAddress::Unix(dir.path().join("log")));
        let started = tokio::time::Instant::now();
        let failed = (0..1000).filter(|_| syslog.write(b"{}\n").is_err()).count();
        assert!(failed > 100, "{failed}");
        assert!(started.elapsed() < PATIENCE * 5, "{:?}", started.elapsed());
        let mut bytes = [0; 1024];
        daemon.recv(&mut bytes).unwrap();
        syslog.write(b"{}\n").unwrap();
    }

    #[test]
    fn the_journal_gets_the_fields_of_each_event() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut client = SyslogClient::new(DatagramAddress::Journal(path));
        client.write("PRIORITY=3\u{1e}MESSAGE=a\nlost lines=2\n".as_bytes()).unwrap();
        assert_eq!(received(|bytes| journal.recv(bytes)), "PRIORITY=3\nMESSAGE=a\n");
        let note = "PRIORITY=4\nSYSLOG_IDENTIFIER=callgate\nMESSAGE=lost lines=2\n";
        assert_eq!(received(|bytes| journal.recv(bytes)), note);
    }

    #[test]
    fn another_machine_hears_rfc_5424() {
        let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
        daemon.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut syslog = SyslogClient::new(DatagramAddress::Udp(daemon.local_addr().unwrap()));
        syslog.write(format!("{GRANT}\n").as_bytes()).unwrap();
        let told = received(|bytes| daemon.recv(bytes));
        let words: Vec<_> = told.splitn(8, ' ').collect();
        assert_eq!((words[0], words[3], words[5], words[6], words[7]), ("<85>1", "callgate", "audit", "-", GRANT));
        assert!(words[1].parse::<Timestamp>().is_ok() && !words[2].is_empty(), "{told}");
        assert_eq!(words[4], std::process::id().to_string());
    }
}
