//! What the old process remembers, on its way to the new one: in a sealed file of the memory (memfd_create(2)), which has no
//! name and is never on a disk. The new process asks for it over the datagram socket between both, and the answer carries the
//! file (unix(7), SCM_RIGHTS).

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IoSlice, IoSliceMut, Read, Seek};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::Interest;

use crate::memory::{LONGEST, MemoryError, MemoryWriter, ProcessMemory};
use crate::server::snapshot::Snapshot;

/// The message of a new process that asks, and of the old one that answers.
pub(in crate::server) const MEMORY: &[u8] = b"MEMORY";
/// How long a new process waits for the answer. It may hold the state file meanwhile, for not much longer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Nothing changes the file any more.
const SEALED: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

// === The new process ===

/// Why the memory of the old process is not known.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum NoMemory {
    /// The old process does not know the question.
    #[error("it is of a version that keeps it to itself")]
    OtherVersion,
    /// It did not answer in time, or with something else.
    #[error("it did not answer")]
    NoAnswer(#[source] io::Error),
    /// Its answer came without a file. Its own events say why.
    #[error("it could not write it down")]
    NotWritten,
    /// The file could still change, or it is too long.
    #[error("its file is not sealed, or longer than {LONGEST} bytes")]
    NotSealed,
    /// The file cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[from] io::Error),
    /// The file is damaged, or in another format.
    #[error(transparent)]
    Unusable(#[from] MemoryError),
}

/// Asks the old process what it remembers.
pub(in crate::server) fn ask(old: &UnixDatagram) -> Result<ProcessMemory, NoMemory> {
    read(receive(old).map_err(NoMemory::NoAnswer)?.ok_or(NoMemory::NotWritten)?)
}

/// Asks for the file.
fn receive(old: &UnixDatagram) -> io::Result<Option<OwnedFd>> {
    old.set_read_timeout(Some(TIMEOUT))?;
    old.send(MEMORY)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let (mut control, mut message) = (RecvAncillaryBuffer::new(&mut space), [0; MEMORY.len()]);
    let received = recvmsg(old, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if message[..received.bytes.min(MEMORY.len())] != *MEMORY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    }))
}

fn read(file: OwnedFd) -> Result<ProcessMemory, NoMemory> {
    // Only files of the memory have seals.
    let is_sealed = fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALED));
    let mut file = File::from(file);
    if !is_sealed || file.metadata()?.len() > LONGEST {
        return Err(NoMemory::NotSealed);
    }
    file.rewind()?;
    Ok(ProcessMemory::read(BufReader::new(file.take(LONGEST)))?)
}

// === The old process ===

/// Answers a new process that asks what this one remembers. Writing takes a moment, in which the thread does nothing else: it
/// is the one that waits for signals, and has nothing else to do.
///
/// # Errors
/// When the new process cannot be reached. Without a file it is answered all the same.
pub(in crate::server) async fn answer(new: &tokio::net::UnixDatagram, snapshot: &Snapshot) -> io::Result<()> {
    let file = write(|writer| snapshot.pass_on(writer));
    let file = file.inspect_err(|error| tracing::warn!(%error, "the counts of limits cannot be passed on")).ok();
    new.async_io(Interest::WRITABLE, || send(new.as_fd(), file.as_ref().map(AsFd::as_fd))).await
}

fn send(new: BorrowedFd<'_>, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let (mut control, files) = (SendAncillaryBuffer::new(&mut space), file.as_slice());
    if !files.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(files));
    }
    sendmsg(new, &[IoSlice::new(MEMORY)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Writes a memory into a file, and seals it.
fn write(parts: impl FnOnce(&mut MemoryWriter<'_>) -> io::Result<()>) -> io::Result<OwnedFd> {
    let mut out = BufWriter::new(File::from(create()?));
    let mut writer = MemoryWriter::begin(&mut out)?;
    parts(&mut writer)?;
    writer.end()?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    fcntl_add_seals(&file, SEALED)?;
    Ok(file.into())
}

/// Makes an empty file in memory. Linux before 6.3 does not know the flag of files that are never executed.
fn create() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let made = match memfd_create("callgate-memory", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create("callgate-memory", flags),
        made => made,
    };
    Ok(made?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_memory_arrives_sealed_and_whole() {
        let (here, there) = UnixDatagram::pair().unwrap();
        let file = write(|writer| writer.add("one", &7)).unwrap();
        File::from(file.try_clone().unwrap()).write_all(b"x").unwrap_err();
        send(there.as_fd(), Some(file.as_fd())).unwrap();
        assert_eq!(ask(&here).unwrap().take::<u8>("one"), Some(7));
        let mut asked = [0; 8];
        assert_eq!(there.recv(&mut asked).unwrap(), MEMORY.len());
        assert_eq!(&asked[..MEMORY.len()], MEMORY);
    }

    /// Answers a new process, and compares what it says about the memory.
    #[track_caller]
    fn check(answer: impl FnOnce(&UnixDatagram), expected: &str) {
        let (here, there) = UnixDatagram::pair().unwrap();
        answer(&there);
        assert_eq!(ask(&here).err().unwrap().to_string(), expected);
    }

    fn filled(bytes: &[u8], seals: SealFlags) -> OwnedFd {
        let mut file = File::from(create().unwrap());
        file.write_all(bytes).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    #[test]
    fn an_answer_that_is_none_is_refused() {
        let given = |bytes: &'static [u8], seals| {
            move |new: &UnixDatagram| send(new.as_fd(), Some(filled(bytes, seals).as_fd())).unwrap()
        };
        let whole = br#"{"format":1,"at":0,"parts":{}}"#;
        let unsealed = "its file is not sealed, or longer than 134217728 bytes";
        check(|new| send(new.as_fd(), None).unwrap(), "it could not write it down");
        check(|new| assert_eq!(new.send(b"STATE").unwrap(), 5), "it did not answer");
        check(given(whole, SEALED.difference(SealFlags::WRITE)), unsealed);
        check(given(b"{\"format\":1,\"at\"", SEALED), "it is damaged");
        check(given(br#"{"format":9,"at":0}"#, SEALED), "its format is 9, not 1");
        let (pipe, _writer) = io::pipe().unwrap();
        check(|new| send(new.as_fd(), Some(pipe.as_fd())).unwrap(), unsealed);
        let huge = File::from(create().unwrap());
        huge.set_len(LONGEST + 1).unwrap();
        fcntl_add_seals(&huge, SEALED).unwrap();
        check(|new| send(new.as_fd(), Some(huge.as_fd())).unwrap(), unsealed);
    }
}
