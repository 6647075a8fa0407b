//! Closes a listening socket without losing a connection: the system refuses new ones, and TCP handshakes that are under way
//! complete. Their clients may take themselves for connected already.

use std::io;
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::os::fd::AsFd;

use socket2::{SockFilter, SockRef};

/// Makes the system refuse new connections at this socket. Needs no privilege since Linux 5.7.
///
/// The socket is bound to a network interface that does not exist. The system then finds no socket for a SYN, and refuses
/// it, so that the client can go elsewhere at once. A connection in its TCP handshake is found by its own addresses,
/// whatever its listening socket is bound to by then, and enters the queue when the handshake is complete. All sockets of
/// a `SO_REUSEPORT` group must be treated before the first of them is closed: the system deals connections out to each.
pub(super) fn refuse_new(socket: &TcpListener) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).bind_device_by_index_v4(NO_INTERFACE).or_else(|_| drop_syn(socket))
}

/// The highest index that an interface may have. The system counts up from 1, so no interface has it.
const NO_INTERFACE: Option<NonZeroU32> = NonZeroU32::new(i32::MAX as u32);

/// Refuses new connections on an older Linux, where only a privileged process may bind a socket to an interface: a packet
/// filter drops the SYN.
fn drop_syn(socket: &TcpListener) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).attach_filter(&NO_SYN)
}

/// A packet filter in the instructions of BPF: drops a TCP segment that has SYN and not ACK among its flags.
const NO_SYN: [SockFilter; 5] = {
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
};

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn queued_connections_are_served_and_later_ones_refused() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let address = listener.local_addr().unwrap();
            let mut waiting = TcpStream::connect(address).unwrap();
            refuse_new(&listener).unwrap();
            assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{address}");
            let (mut accepted, _) = listener.accept().unwrap();
            accepted.write_all(b"x").unwrap();
            waiting.read_exact(&mut [0]).unwrap();
        }
    }
}
