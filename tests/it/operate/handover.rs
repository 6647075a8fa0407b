//! Hand-over: a new process takes the listening sockets from the old one, and no connection is refused.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::kit::client::{read_head, status};
use crate::kit::commands::{Running, callgate, piped};
use crate::kit::program::{Program, check_echo, echo, tunnel};
use crate::kit::program::{Successor, code};
use crate::kit::stage::until;
use crate::kit::upstream::RawUpstream;

/// Hands over under load, from two workers to as many as the new configuration says.
async fn check_swap(workers: usize) {
    let upstream = RawUpstream::ok().await;
    let mut program = Program::before(upstream.addr, "").await;
    let load = program.load();
    load.more(300).await;
    program.change("workers = 2", &format!("workers = {workers}"));
    let successor = Successor::of(&mut program).await;
    assert_eq!(code(&mut program).await, Some(0));
    load.more(500).await;
    load.may_be_refused();
    successor.signal("-TERM");
    load.refused().await;
}

#[tokio::test]
async fn under_load_a_hand_over_costs_no_request() {
    check_swap(2).await;
}

#[tokio::test]
async fn more_workers_or_fewer_leave_no_queue_unserved() {
    check_swap(1).await;
    check_swap(3).await;
}

#[tokio::test]
async fn a_successor_hands_over_as_well() {
    let upstream = RawUpstream::ok().await;
    let mut program = Program::before(upstream.addr, "").await;
    let load = program.load();
    let first = Successor::of(&mut program).await;
    assert_eq!(code(&mut program).await, Some(0));
    first.signal("-USR2");
    let told = program.running.complaint("handed over").await;
    let second = Successor::told(&told);
    until("the first successor ends", || !first.signal("-0")).await;
    load.more(500).await;
    load.stop().await;
    assert!(second.signal("-0"));
}

#[tokio::test]
async fn a_tunnel_goes_on_in_the_old_process() {
    let upstream = echo().await;
    let mut program = Program::before(upstream.addr, "").await;
    let mut before = tunnel(&program).await;
    let _successor = Successor::of(&mut program).await;
    let mut after = tunnel(&program).await;
    check_echo(&mut before).await;
    check_echo(&mut after).await;
    before.shutdown().await.unwrap();
    drop(before.read_to_end(&mut Vec::new()).await);
    assert_eq!(code(&mut program).await, Some(0));
    check_echo(&mut after).await;
}

#[tokio::test]
async fn a_configuration_that_is_wrong_leaves_the_old_process_as_it_was() {
    let upstream = RawUpstream::ok().await;
    let mut program = Program::before(upstream.addr, "").await;
    let load = program.load();
    let good = fs::read_to_string(program.file("proxy.toml")).unwrap();
    fs::write(program.file("proxy.toml"), format!("wrokers = 3\n{good}")).unwrap();
    program.running.signal("-USR2");
    program.running.complaint("unknown key `wrokers`").await;
    let told = program.running.complaint("not handed over: everything stays as it was").await;
    assert!(told.contains("exit status: 78"), "{told}");
    load.more(200).await;
    fs::write(program.file("proxy.toml"), good).unwrap();
    let _successor = Successor::of(&mut program).await;
    assert_eq!(code(&mut program).await, Some(0));
    load.more(200).await;
    load.stop().await;
}

// === Socket activation ===

/// Starts the program as systemd does: with a socket, and with a receiver of notifications.
fn activated(program: &Program, socket: OwnedFd, notify: &UnixDatagram) -> Running {
    let mut command = callgate(&["run", "--config"]);
    command.arg(program.file("proxy.toml")).env("LISTEN_FDS", "1");
    command.env("NOTIFY_SOCKET", notify.local_addr().unwrap().as_pathname().unwrap());
    command.fd_mappings(vec![FdMapping { parent_fd: socket, child_fd: 3 }]).unwrap();
    Running::start(command)
}

fn notified(notify: &UnixDatagram) -> String {
    let mut message = [0; 200];
    let length = notify.recv(&mut message).unwrap();
    String::from_utf8_lossy(&message[..length]).into_owned()
}

#[tokio::test]
async fn sockets_of_systemd_are_taken_and_each_step_is_notified() {
    let upstream = RawUpstream::ok().await;
    let mut program = Program::before(upstream.addr, "").await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    program.change("127.0.0.1:0", &addr.to_string());
    program.addr = addr;
    let notify = UnixDatagram::bind(program.file("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Connections from before the start wait in the queue.
    let early = tokio::net::TcpStream::connect(addr).await.unwrap();
    let mut running = activated(&program, socket.into(), &notify);
    assert_eq!(notified(&notify), "READY=1\n");
    let mut tls = program.over(early).await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
    running.signal("-HUP");
    let told = notified(&notify);
    assert!(told.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{told}");
    assert_eq!(notified(&notify), "READY=1\n");
    running.complaint("reloaded").await;
    running.signal("-USR2");
    // The new process says that it is ready; the old one, who it is.
    assert_eq!(notified(&notify), "READY=1\n");
    let told = notified(&notify);
    let successor = Successor(told.strip_prefix("MAINPID=").unwrap().split('\n').next().unwrap().parse().unwrap());
    until("the old process ends", || running.child.try_wait().unwrap().is_some()).await;
    successor.signal("-TERM");
    assert_eq!(notified(&notify), "STOPPING=1\n");
}

/// How long a message to systemd is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads all messages as they come, as systemd does: its socket may hold ten.
fn messages(notify: UnixDatagram) -> mpsc::Receiver<String> {
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let (sender, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut message = [0; 200];
        while let Ok(length) = notify.recv(&mut message) {
            if sender.send(String::from_utf8_lossy(&message[..length]).into_owned()).is_err() {
                return;
            }
        }
    });
    told
}

#[tokio::test]
async fn the_watchdog_of_systemd_is_notified_also_by_the_process_that_was_handed_over_to() {
    let upstream = RawUpstream::ok().await;
    let program = Program::before(upstream.addr, "").await;
    program.change("127.0.0.1:0", &TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string());
    let notify = UnixDatagram::bind(program.file("notify")).unwrap();
    let told = messages(notify);
    // As systemd, which names the first process.
    let mut command = piped(Command::new("sh"));
    command.args(["-c", "WATCHDOG_PID=$$ exec \"$0\" run --config \"$1\"", env!("CARGO_BIN_EXE_callgate")]);
    command.arg(program.file("proxy.toml")).env("WATCHDOG_USEC", "20000").env("NOTIFY_SOCKET", program.file("notify"));
    let mut running = Running::start(command);
    let heard = |part: &str| {
        let end = Instant::now() + PATIENCE;
        while !told.recv_timeout(end.saturating_duration_since(Instant::now())).unwrap().starts_with(part) {}
    };
    heard("READY=1");
    heard("WATCHDOG=1");
    running.signal("-USR2");
    let successor = Successor::told(&running.complaint("handed over").await);
    until("the old process ends", || running.child.try_wait().unwrap().is_some()).await;
    heard("MAINPID=");
    heard("WATCHDOG=1");
    successor.signal("-TERM");
    heard("STOPPING=1");
}

/// systemd watches only its own children, and the newest process is the child of an old one.
#[tokio::test]
async fn the_parent_of_the_newest_process_tells_systemd_of_its_end() {
    let upstream = echo().await;
    let mut program = Program::before(upstream.addr, "").await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    program.addr = socket.local_addr().unwrap();
    program.change("127.0.0.1:0", &program.addr.to_string());
    let notify = UnixDatagram::bind(program.file("notify")).unwrap();
    notify.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let running = activated(&program, socket.into(), &notify);
    assert_eq!(notified(&notify), "READY=1\n");
    let mut kept = tunnel(&program).await;
    running.signal("-USR2");
    assert_eq!(notified(&notify), "READY=1\n");
    let told = notified(&notify);
    let successor = Successor(told.strip_prefix("MAINPID=").unwrap().split('\n').next().unwrap().parse().unwrap());
    check_echo(&mut kept).await;
    successor.signal("-KILL");
    assert_eq!(notified(&notify), format!("MAINPID={}\n", running.child.id()));
    // A failure: the service is to be restarted at once.
    assert_eq!(running.end().await.0, Some(1));
}

#[tokio::test]
async fn a_connection_waiting_at_a_socket_of_systemd_is_served_by_the_next_process() {
    let upstream = RawUpstream::ok().await;
    let program = Program::before(upstream.addr, "").await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    program.change("127.0.0.1:0", &addr.to_string());
    let notify = UnixDatagram::bind(program.file("notify")).unwrap();
    let lent = || socket.try_clone().unwrap().into();
    let mut first = activated(&program, lent(), &notify);
    first.complaint("listening").await;
    // Also when another process was in between.
    first.signal("-USR2");
    let told = first.complaint("handed over").await;
    let second = Successor::told(&told);
    second.signal("-TERM");
    until("the second ends", || !second.signal("-0")).await;
    let waiting = tokio::net::TcpStream::connect(addr).await.unwrap();
    let mut third = activated(&program, lent(), &notify);
    third.complaint("listening").await;
    let mut tls = program.over(waiting).await;
    tls.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut tls).await), 200);
}

#[tokio::test]
async fn a_socket_that_the_configuration_does_not_name_is_refused() {
    let upstream = RawUpstream::ok().await;
    let program = Program::before(upstream.addr, "").await;
    let notify = UnixDatagram::bind(program.file("notify")).unwrap();
    let socket = TcpListener::bind("127.0.0.2:0").unwrap();
    let (code, told) = activated(&program, socket.into(), &notify).end().await;
    assert!(code == Some(1) && told.contains("a socket was passed for 127.0.0.2:"), "{code:?} {told}");
}
