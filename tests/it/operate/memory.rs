//! What a new process remembers of the old one after a hand-over: the counts of limits.

use std::fs;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use callgate::model::ott::{VoximplantUser, users_line};
use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::kit::app::{App, AppOptions, SameSite};
use crate::kit::client::status;
use crate::kit::commands::{Running, callgate};
use crate::kit::gate::{VOX_PASSWORD, secret};
use crate::kit::program::{Program, Successor, code, written};
use crate::kit::upstream::RawUpstream;

/// A program that logs users of an app in at Voximplant.
struct Desk {
    app: App,
    program: Program,
}

impl Desk {
    /// Starts one with lines for `[limits]`.
    async fn with(limits: &str) -> Self {
        let app = App::start(AppOptions {
            pbx_origin: "https://pbx.test".into(),
            tenant: "acme.test".into(),
            voximplant: None,
            cookie_same_site: SameSite::Lax,
        })
        .await;
        let more = format!(
            "[voximplant]\nusers = {{ file = \"users\" }}\ndistinct_keys = \"2/24h\"\n\
             [[allow]]\nname = \"staff\"\nvoximplant = \"{{vox}}\"\n[limits]\n{limits}"
        );
        let (dir, roots) = written(app.addr, "listen = [\"127.0.0.1:0\"]\nworkers = 2", &more);
        let users = ["alice", "bob"].map(|user| users_line(&user.parse::<VoximplantUser>().unwrap(), VOX_PASSWORD));
        secret(&dir, "users", &users.join("\n"));
        let addr = ([127, 0, 0, 1], 0).into();
        let mut command = callgate(&["run", "--config"]);
        command.arg(dir.path().join("proxy.toml"));
        let text = fs::read_to_string(dir.path().join("proxy.toml")).unwrap();
        fs::write(dir.path().join("proxy.toml"), text.replace("[log]", "whoami = \"/api/me\"\n[log]")).unwrap();
        let mut program = Program { running: Running::start(command), dir, addr, roots };
        let line = program.running.complaint("listening").await;
        program.addr = line.split("address=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        Self { app, program }
    }

    /// Posts a form to the login from an address. Returns the answer's status, the limit that it names, and after how many
    /// seconds the client may come again.
    async fn post(&self, from: [u8; 4], cookie: &str, form: &str) -> (u16, String, u32) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut tls = self.program.over(socket.connect(self.program.addr).await.unwrap()).await;
        let request = format!(
            "POST /auth/ott HTTP/1.1\r\nHost: app.test\r\nCookie: {cookie}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        tls.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let field = |name: &str| {
            let value = answer.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            value.unwrap_or_default().to_owned()
        };
        let limit = field("ratelimit").split('"').nth(1).unwrap_or_default().to_owned();
        (status(&answer), limit, field("retry-after").parse().unwrap_or_default())
    }

    /// Posts a key as alice.
    async fn alice(&self, cookie: &str, key: &str) -> (u16, String) {
        let (status, limit, _) = self.post(ALICE, cookie, &format!("key={key}")).await;
        (status, limit)
    }

    /// Guesses a user, at the address of alice.
    async fn guess(&self, cookie: &str) -> (u16, String) {
        let (status, limit, _) = self.post(ALICE, cookie, "key=k9&appUser=alice").await;
        (status, limit)
    }

    /// Comes from another address without a cookie.
    async fn stranger(&self) -> (u16, String, u32) {
        self.post([127, 0, 0, 3], "none=1", "key=k9").await
    }
}

const ALICE: [u8; 4] = [127, 0, 0, 2];

fn ok() -> (u16, String) {
    (200, String::new())
}

fn limited(name: &str) -> (u16, String) {
    (429, name.to_owned())
}

const LIMITS: &str = "client = \"4/h\"\nfailures = \"2/24h\"\ncaller = \"99/h\"\naccount = \"99/h\"";

#[tokio::test]
async fn counts_of_limits_live_through_two_hand_overs_and_begin_anew_where_the_rate_has_changed() {
    let mut desk = Desk::with(&LIMITS.replace("4/h", "40/h")).await;
    let (alice, bob) = (desk.app.log_in("alice"), desk.app.log_in("bob"));
    // The cookie of alice is proven; she has used up her keys. Guesses of others at her address have used up `failures`.
    assert_eq!((desk.alice(&alice, "k1").await, desk.alice(&alice, "k2").await), (ok(), ok()));
    assert_eq!(desk.alice(&alice, "k3").await, limited("distinct_keys"));
    for _ in 0..2 {
        assert_eq!(desk.guess(&bob).await.0, 403);
    }
    assert_eq!(desk.guess(&bob).await, limited("failures"));
    while desk.stranger().await.0 == 401 {}
    let first = Successor::of(&mut desk.program).await;
    assert_eq!(code(&mut desk.program).await, Some(0));
    let check_others = async |desk: &Desk| {
        assert_eq!(desk.guess(&bob).await, limited("failures"));
        assert_eq!(desk.alice(&alice, "k1").await, ok(), "a proven credential is exempt, and a repeated key is free");
        assert_eq!(desk.alice(&alice, "k3").await, limited("distinct_keys"));
    };
    let (status, limit, wait) = desk.stranger().await;
    assert_eq!((status, limit.as_str()), (429, "client"));
    assert!((1..=90).contains(&wait), "{wait}");
    check_others(&desk).await;
    desk.program.change("40/h", "41/h");
    let _second = first.next(&mut desk.program).await;
    assert_eq!(desk.stranger().await.0, 401, "the rate of `client` has changed");
    check_others(&desk).await;
}

#[tokio::test]
async fn a_successor_that_fails_after_it_has_asked_changes_nothing_and_the_next_one_has_all_counts() {
    let mut desk = Desk::with(LIMITS).await;
    for _ in 0..3 {
        assert_eq!(desk.stranger().await.0, 401);
    }
    // An address that is taken is found once all else is built.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("listen = [\"{}\", \"127.0.0.1:0\"]", taken.local_addr().unwrap());
    desk.program.change("listen = [\"127.0.0.1:0\"]", &more);
    desk.program.running.signal("-USR2");
    desk.program.running.complaint("not handed over: everything stays as it was").await;
    assert_eq!(desk.stranger().await.0, 401);
    assert_eq!(desk.stranger().await.1, "client");
    desk.program.change(&more, "listen = [\"127.0.0.1:0\"]");
    let _successor = Successor::of(&mut desk.program).await;
    assert_eq!(desk.stranger().await.1, "client");
}

// === Other old processes ===

/// Starts a new process whose old one gives this name to their socket and answers the question for its memory in this way.
/// Returns the event about it.
async fn told_after(name: &str, answer: impl FnOnce(&UnixDatagram)) -> String {
    let upstream = RawUpstream::ok().await;
    let (dir, _) = written(upstream.addr, "listen = \"127.0.0.1:0\"\nworkers = 1", "");
    let (old, new) = UnixDatagram::pair().unwrap();
    old.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = callgate(&["run", "--config"]);
    command.arg(dir.path().join("proxy.toml")).env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", name);
    command.fd_mappings(vec![FdMapping { parent_fd: new.into(), child_fd: 3 }]).unwrap();
    let mut running = Running::start(command);
    answer(&old);
    let told = running.complaint("the memory of the old process is lost").await;
    running.complaint("listening").await;
    let mut ready = [0; 8];
    assert_eq!(old.recv(&mut ready).unwrap(), 5);
    assert_eq!(&ready[..5], b"READY");
    told
}

/// Waits for the question.
fn asked(old: &UnixDatagram) {
    let mut question = [0; 8];
    let length = old.recv(&mut question).unwrap();
    assert_eq!(&question[..length], b"MEMORY");
}

fn file(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let file = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    fs::File::from(file.try_clone().unwrap()).write_all(bytes).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

fn give(old: &UnixDatagram, file: &OwnedFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    sendmsg(old, &[IoSlice::new(b"MEMORY")], &mut control, SendFlags::empty()).unwrap();
}

#[tokio::test]
async fn without_a_memory_that_can_be_read_a_new_process_starts_all_the_same_and_says_so() {
    let told = told_after("", |_| {}).await;
    assert!(told.contains("WARN") && told.contains("it is of a version that keeps it to itself"), "{told}");
    let told = told_after("callgate-memory", asked).await;
    assert!(told.contains("it did not answer"), "{told}");
    let told = told_after("callgate-memory", |old| {
        asked(old);
        give(old, &file(b"garbage", SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE));
    })
    .await;
    assert!(told.contains("it is damaged"), "{told}");
    let told = told_after("callgate-memory", |old| {
        asked(old);
        give(old, &file(br#"{"format":1,"at":0,"parts":{}}"#, SealFlags::empty()));
    })
    .await;
    assert!(told.contains("its file is not sealed"), "{told}");
}
