use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

const SOON: Duration = Duration::from_secs(60);

fn to(addr: SocketAddr) -> SyslogStream {
    SyslogStream::tcp(HostPort { host: addr.ip().to_string(), port: addr.port() })
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn accept(syslog: &mut SyslogStream, numbers: std::ops::Range<usize>) {
    for number in numbers {
        syslog.accept(format!("{{\"n\":\"{number}é\"}}\n").as_bytes()).unwrap();
    }
}

/// Delivers until nothing waits.
fn deliver(syslog: &mut SyslogStream) {
    let end = Instant::now() + SOON;
    while syslog.deliver().is_err() || !syslog.is_drained() {
        assert!(Instant::now() < end, "{} messages wait", syslog.queue.len());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Reads one message; nothing at the end.
fn message(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut length = Vec::new();
    reader.read_until(b' ', &mut length).ok().filter(|read| *read > 0)?;
    let length = String::from_utf8(length).unwrap().trim_end().parse().unwrap();
    let mut message = vec![0; length];
    reader.read_exact(&mut message).ok()?;
    Some(String::from_utf8(message).unwrap())
}

fn server(listener: &TcpListener) -> BufReader<TcpStream> {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    BufReader::new(stream)
}

#[track_caller]
fn hears(reader: &mut BufReader<TcpStream>, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let told = message(reader).unwrap();
        assert!(told.ends_with(&format!(" audit - {{\"n\":\"{number}é\"}}")), "{number}: {told}");
        assert!(told.starts_with("<84>1 2"), "{told}");
    }
}

#[test]
fn messages_have_their_length_in_front() {
    let (listener, addr) = listener();
    let mut syslog = to(addr);
    accept(&mut syslog, 0..3);
    deliver(&mut syslog);
    let mut reader = server(&listener);
    hears(&mut reader, 0..3);
    assert_eq!((syslog.waiting, syslog.end()), (0, 0));
    assert_eq!(message(&mut reader), None);
}

#[test]
fn messages_wait_for_a_server_that_is_away() {
    let (gone, addr) = listener();
    drop(gone);
    let mut syslog = to(addr);
    accept(&mut syslog, 0..2);
    assert_eq!(syslog.deliver().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    // The next try comes after a pause.
    assert_eq!(syslog.deliver().unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert!(syslog.due().is_some_and(|due| due > Instant::now()));
    let listener = TcpListener::bind(addr).unwrap();
    let reader = thread::spawn(move || hears(&mut server(&listener), 0..3));
    accept(&mut syslog, 2..3);
    deliver(&mut syslog);
    reader.join().unwrap();
}

#[test]
fn a_server_that_closes_gets_what_may_be_missing_again() {
    let (listener, addr) = listener();
    let mut syslog = to(addr);
    accept(&mut syslog, 0..2);
    deliver(&mut syslog);
    // It goes without having read the second.
    let mut first = server(&listener);
    hears(&mut first, 0..1);
    drop(first);
    accept(&mut syslog, 2..3);
    let reader = thread::spawn(move || hears(&mut server(&listener), 0..3));
    deliver(&mut syslog);
    reader.join().unwrap();
}

#[test]
fn what_has_arrived_is_not_sent_again() {
    let mut kept = KeptMessages::default();
    kept.add(vec![0; 10]);
    let later = Instant::now() + Duration::from_secs(1);
    kept.forget_before(later);
    assert_eq!((kept.messages.len(), kept.bytes), (0, 0));
    for _ in 0..3 {
        kept.add(vec![0; MAX_KEPT / 2]);
    }
    assert_eq!((kept.messages.len(), kept.bytes), (2, MAX_KEPT));
}

#[test]
fn a_server_that_does_not_read_is_a_problem_and_gets_everything_in_the_end() {
    let (listener, addr) = listener();
    let mut syslog = to(addr);
    let line = format!("{{\"x\":\"{}\"}}", "x".repeat(60_000));
    let mut accepted = 0;
    let end = Instant::now() + SOON;
    // The system's buffers take some of them.
    loop {
        while syslog.accept(line.as_bytes()).is_ok() {
            accepted += 1;
        }
        assert!(syslog.waiting <= MAX_WAITING);
        if let Err(error) = syslog.deliver() {
            assert_eq!(error.to_string(), "it reads nothing");
            break;
        }
        assert!(Instant::now() < end);
    }
    assert!(syslog.accept(line.as_bytes()).is_err() && syslog.connection.is_some());
    let reader = thread::spawn(move || {
        let mut reader = server(&listener);
        (0..accepted).filter(|_| message(&mut reader).is_some_and(|told| told.ends_with("x\"}"))).count()
    });
    deliver(&mut syslog);
    assert_eq!(reader.join().unwrap(), accepted);
}

#[test]
fn what_was_never_sent_is_counted_at_the_end() {
    let (gone, addr) = listener();
    drop(gone);
    let mut syslog = to(addr);
    accept(&mut syslog, 0..3);
    assert!(syslog.deliver().is_err());
    assert_eq!(syslog.end(), 3);
}

#[test]
fn what_a_broken_connection_may_not_have_carried_is_counted_at_the_end() {
    let (listener, addr) = listener();
    let mut syslog = to(addr);
    accept(&mut syslog, 0..2);
    deliver(&mut syslog);
    // It goes for good, without having read the second.
    let mut first = server(&listener);
    hears(&mut first, 0..1);
    drop((first, listener));
    let end = Instant::now() + SOON;
    while syslog.deliver().is_ok() {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(10));
    }
    assert!(!syslog.is_drained());
    assert_eq!(syslog.end(), 2);
}

/// Prepares messages for a server over TLS at an address. Returns the server's side of TLS, too.
fn to_tls(addr: SocketAddr) -> (SyslogStream, ServerConnection) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["logs.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = versions.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let to = SyslogTls {
        at: HostPort { host: addr.ip().to_string(), port: addr.port() },
        ca: Some(vec![cert.der().clone()]),
        server_name: Some("logs.test".try_into().unwrap()),
    };
    (SyslogStream::tls(&to).unwrap(), ServerConnection::new(Arc::new(config)).unwrap())
}

#[test]
fn what_tls_could_not_pass_on_is_counted_at_the_end() {
    let (listener, addr) = listener();
    let (mut syslog, tls) = to_tls(addr);
    let (ended, end) = mpsc::channel::<()>();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut stream = StreamOwned::new(tls, stream);
        stream.conn.complete_io(&mut stream.sock).unwrap();
        end.recv().unwrap();
        let mut told = Vec::new();
        // The connection breaks off within a record.
        let _ = stream.read_to_end(&mut told);
        told.windows(5).filter(|five| *five == b"\"n\":1").count() as u64
    });
    let line = format!("{{\"x\":\"{}\",\"n\":1}}", "x".repeat(1000));
    let (mut accepted, begun) = (0_u64, Instant::now());
    loop {
        while syslog.accept(line.as_bytes()).is_ok() {
            accepted += 1;
        }
        if syslog.deliver().is_err() {
            break;
        }
        assert!(begun.elapsed() < SOON);
    }
    assert!(syslog.unflushed > 0 && !syslog.is_drained());
    let lost = syslog.end();
    ended.send(()).unwrap();
    let heard = server.join().unwrap();
    assert!(
        heard > 0 && heard + lost >= accepted,
        "{heard} arrived, {lost} are counted as lost, {accepted} were accepted"
    );
}

#[test]
fn a_server_that_closes_each_connection_at_once_is_not_tried_at_once() {
    let (listener, addr) = listener();
    let mut syslog = to(addr);
    accept(&mut syslog, 0..1);
    let closing = thread::spawn(move || drop(listener.accept().unwrap()));
    let end = Instant::now() + SOON;
    while syslog.deliver().is_ok() {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(10));
    }
    closing.join().unwrap();
    assert!(syslog.connection.is_none() && syslog.failures == 1 && syslog.next_try > Instant::now());
}

#[test]
fn a_name_is_looked_up() {
    let (listener, addr) = listener();
    let mut syslog = SyslogStream::tcp(HostPort { host: "localhost".to_owned(), port: addr.port() });
    accept(&mut syslog, 0..1);
    let reader = thread::spawn(move || hears(&mut server(&listener), 0..1));
    deliver(&mut syslog);
    reader.join().unwrap();
    let mut syslog = SyslogStream::tcp(HostPort { host: "no-such-host.invalid".to_owned(), port: 1 });
    let error = syslog.deliver().unwrap_err();
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
}
