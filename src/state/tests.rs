use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use jiff::SignedDuration;
use tempfile::TempDir;

use super::file::StateFile;
use super::tables::{FileRow, SealedTicket};
use super::*;
use crate::model::freeze_target::FreezeMeans;

fn later(seconds: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(seconds)
}

fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("state");
    (folder, path)
}

fn frozen(until: Option<Timestamp>) -> Freeze {
    Freeze { since: later(0), until, by: "ann".to_owned(), why: "calls to Cuba".to_owned(), shared: None }
}

async fn used_once(store: &Store) {
    assert_eq!(store.mark("link", b"a", later(60)).await, Ok(()));
    assert_eq!(store.mark("link", b"a", later(60)).await, Err(MarkError::AlreadyUsed));
    assert_eq!(store.mark("jti", b"a", later(60)).await, Ok(()), "another scope");
    assert_eq!(store.mark("lin", b"ka", later(60)).await, Ok(()), "scope and id are kept apart");
    assert!(store.is_marked("link", b"a") && !store.is_marked("link", b"b"));
}

#[tokio::test]
async fn what_is_used_is_used_once_with_a_file_and_without() {
    used_once(&Store::in_memory()).await;
    let (_folder, path) = folder();
    used_once(&Store::open(&path).unwrap()).await;
}

#[tokio::test]
async fn everything_outlives_a_restart() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    store.mark("link", b"a", later(60)).await.unwrap();
    store.keep_ticket([1; 32], b"sealed".to_vec(), later(60)).await.unwrap();
    store.keep_ticket([2; 32], b"taken".to_vec(), later(60)).await.unwrap();
    assert_eq!(store.take_ticket([2; 32]).await, Ok(Some(b"taken".to_vec())));
    store.freeze("40@acme.test", frozen(None)).await.unwrap();
    store.freeze("41@acme.test", frozen(None)).await.unwrap();
    assert_eq!(store.thaw("41@acme.test").await, Ok(true));
    let freezes = store.freezes(later(0));
    let suspension = |is_done| Suspension { means: FreezeMeans::Rotate, is_done };
    store.suspend("ann@phone.acme", suspension(false)).await.unwrap();
    store.suspend("ann@phone.acme", suspension(true)).await.unwrap();
    store.suspend("bob@phone.acme", suspension(false)).await.unwrap();
    store.end_suspension("bob@phone.acme").await.unwrap();
    store.end_suspension("nobody@phone.acme").await.unwrap();
    drop(store);

    let store = Store::open(&path).unwrap();
    assert_eq!(store.mark("link", b"a", later(60)).await, Err(MarkError::AlreadyUsed));
    assert_eq!(store.take_ticket([1; 32]).await, Ok(Some(b"sealed".to_vec())));
    assert_eq!(store.take_ticket([1; 32]).await, Ok(None), "once");
    assert_eq!(store.take_ticket([2; 32]).await, Ok(None), "taken before");
    assert_eq!(store.freezes(later(0)).len(), 1);
    assert_eq!(store.freezes(later(0))[0].0, freezes[0].0);
    assert_eq!(store.suspensions(), [("ann@phone.acme".to_owned(), suspension(true))].into());
    assert!(store.is_frozen("40@acme.test", later(0)) && !store.is_frozen("41@acme.test", later(0)));
    assert_eq!(store.thaw("41@acme.test").await, Ok(false));
}

async fn logins_end(store: &Store) {
    let at = later(0);
    let millisecond = SignedDuration::from_millis(1);
    store.end_logins("sub", b"ann", at, later(60)).await.unwrap();
    assert!(store.is_ended("sub", b"ann", at) && store.is_ended("sub", b"ann", at - SignedDuration::from_hours(9)));
    assert!(!store.is_ended("sub", b"ann", at + millisecond), "a later login is another");
    assert!(!store.is_ended("sub", b"bob", at) && !store.is_ended("sid", b"ann", at));
    // An older logout that arrives late makes no later one forgotten.
    store.end_logins("sub", b"ann", at - SignedDuration::from_secs(5), later(1)).await.unwrap();
    assert!(store.is_ended("sub", b"ann", at));
    store.end_logins("sub", b"ann", at + millisecond, later(60)).await.unwrap();
    assert!(store.is_ended("sub", b"ann", at + millisecond));
}

#[tokio::test]
async fn logins_that_began_before_an_end_have_ended() {
    logins_end(&Store::in_memory()).await;
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    logins_end(&store).await;
    drop(store);
    let store = Store::open(&path).unwrap();
    assert!(store.is_ended("sub", b"ann", later(-5)) && !store.is_ended("sub", b"ann", later(5)));
}

#[tokio::test]
async fn ended_logins_are_forgotten_when_they_are_over_and_no_earlier() {
    let store = Store::in_memory();
    store.end_logins("sub", b"ann", later(-7200), later(-3600)).await.unwrap();
    store.end_logins("sub", b"bob", later(-1), later(60)).await.unwrap();
    store.sweep().await;
    assert!(!store.is_ended("sub", b"ann", later(-9000)) && store.is_ended("sub", b"bob", later(-60)));
}

#[tokio::test]
async fn a_full_table_of_ended_logins_refuses_and_forgets_none() {
    let store = Store::in_memory();
    for number in 0..100_000_u32 {
        let ended = EndedLogins { at: later(0), until: later(60) };
        store.shared.tables().ended.insert(digest("sub", &number.to_be_bytes()), ended);
    }
    assert_eq!(store.end_logins("sub", b"one more", later(0), later(60)).await, Err(KeepError::Full));
    assert_eq!(store.check(), Err("the table of ended logins is full".to_owned()));
    store.end_logins("sub", &0_u32.to_be_bytes(), later(0), later(60)).await.unwrap();
    assert!(store.is_ended("sub", &0_u32.to_be_bytes(), later(-1)), "the first one is still remembered");
}

#[tokio::test]
async fn many_at_once_share_writes_and_one_of_them_wins() {
    let (_folder, path) = folder();
    let store = Arc::new(Store::open(&path).unwrap());
    let marks: Vec<_> = (0..200)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.mark("link", b"one", later(60)).await })
        })
        .collect();
    let mut won = 0;
    for mark in marks {
        match mark.await.unwrap() {
            Ok(()) => won += 1,
            Err(error) => assert_eq!(error, MarkError::AlreadyUsed),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn freezes_end_by_themselves() {
    let store = Store::in_memory();
    store.freeze("40@acme.test", frozen(Some(later(60)))).await.unwrap();
    assert!(store.is_frozen("40@acme.test", later(59)));
    assert!(!store.is_frozen("40@acme.test", later(61)));
    assert_eq!(store.freezes(later(61)), []);
}

#[tokio::test]
async fn an_expired_ticket_is_worthless() {
    let store = Store::in_memory();
    store.keep_ticket([1; 32], b"late".to_vec(), later(-1)).await.unwrap();
    assert_eq!(store.take_ticket([1; 32]).await, Ok(None));
}

#[tokio::test]
async fn a_full_table_refuses_and_keeps_what_is_in_it() {
    let store = Store::in_memory();
    {
        let mut tables = store.shared.tables();
        for number in 0..100_000_u64 {
            tables.marks.insert(digest("link", &number.to_be_bytes()), later(60));
        }
    }
    assert_eq!(store.mark("link", b"one more", later(60)).await, Err(MarkError::Unkept(KeepError::Full)));
    assert_eq!(store.mark("link", &7_u64.to_be_bytes(), later(60)).await, Err(MarkError::AlreadyUsed));
    assert_eq!(store.check(), Err("the table of marks is full".to_owned()));
    // Only just expired: after the clock is set back, it could be used again.
    store.shared.tables().marks.insert(digest("link", &7_u64.to_be_bytes()), later(-60));
    assert_eq!(store.mark("link", b"one more", later(60)).await, Err(MarkError::Unkept(KeepError::Full)));
    store.shared.tables().marks.insert(digest("link", &7_u64.to_be_bytes()), later(-3600));
    assert_eq!(store.check(), Ok(()));
    assert_eq!(store.mark("link", b"one more", later(60)).await, Ok(()));
}

#[tokio::test]
async fn the_expired_are_swept_from_memory_and_file() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    store.mark("link", b"old", later(-3600)).await.unwrap();
    store.mark("link", b"new", later(60)).await.unwrap();
    store.keep_ticket([1; 32], b"old".to_vec(), later(-1)).await.unwrap();
    store.freeze("40@acme.test", frozen(Some(later(-8 * 24 * 3600)))).await.unwrap();
    store.sweep().await;
    drop(store);
    let store = Store::open(&path).unwrap();
    let tables = store.shared.tables();
    assert_eq!((tables.marks.len(), tables.tickets.len(), tables.freezes.len()), (1, 0, 0));
}

#[test]
fn the_file_is_its_owners_alone() {
    let (folder, path) = folder();
    drop(Store::open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left there");
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Exposed(_, 0o640)), "{error}");
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn only_one_process_has_it() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(OpenError::Locked(_))));
    drop(store);
    Store::open(&path).unwrap();
}

#[test]
fn what_is_no_state_file_is_left_as_it_is() {
    let (_folder, path) = folder();
    let random: Vec<u8> = (0..20_000_u32).map(|number| ((number * 7919) >> 3) as u8).collect();
    for bytes in [&b""[..], b"\n", b"{}", "callgate".repeat(4000).as_bytes(), &random] {
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Foreign(_) | OpenError::Damaged(..)), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "{error}");
    }
}

#[test]
fn another_version_is_not_guessed_at() {
    let (_folder, path) = folder();
    let about = redb::TableDefinition::<&str, u64>::new("callgate");
    for version in [None, Some(2)] {
        let database = redb::Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        match version {
            Some(version) => drop(transaction.open_table(about).unwrap().insert("version", version).unwrap()),
            None => drop(transaction.open_table(redb::TableDefinition::<&str, &str>::new("theirs")).unwrap()),
        }
        transaction.commit().unwrap();
        drop(database);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Foreign(_)), "{error:?}");
        fs::remove_file(&path).unwrap();
    }
}

/// A file damaged anywhere is refused or read as before: no panic, no lost mark.
#[tokio::test]
async fn a_damaged_file_forgets_nothing() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    for number in 0..50_u8 {
        store.mark("link", &[number], later(60)).await.unwrap();
    }
    drop(store);
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    let used = whole.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).step_by(311);
    for at in (0..64).chain(used) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        fs::write(&path, &bytes).unwrap();
        match Store::open(&path) {
            Ok(store) => {
                for number in 0..50_u8 {
                    assert!(store.is_marked("link", &[number]), "byte {at} let mark {number} go");
                }
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
    assert!(refused > 10, "{refused}");
    for end in [1, 512, 4096, whole.len() / 2, whole.len() - 4096] {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(Store::open(&path).is_err(), "cut at {end}");
    }
}

/// The database's list of free pages differs from its count after about one close in thirty; no row is lost.
#[test]
fn a_file_that_was_closed_in_order_is_never_called_damaged() {
    let until = later(60);
    let key = |number: u64| digest("link", &number.to_be_bytes());
    let (mut seed, mut number) = (12345_u64, 0);
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..15 {
        let (_folder, path) = folder();
        StateFile::make(&path).unwrap();
        let mut live = Vec::new();
        for opened in 0..12 {
            let (mut file, found) = StateFile::open(&path).unwrap_or_else(|error| panic!("{round} {opened}: {error}"));
            assert_eq!(found.tables.tickets.len(), live.len(), "{round} {opened}");
            for _ in 0..random(40) {
                let mut rows = Vec::new();
                let grows = opened % 2 == 0 && random(3) != 0;
                for _ in 0..random(12) {
                    if grows {
                        number += 1;
                        live.push(number);
                        rows.push(FileRow::Mark(key(number), Some(until)));
                        rows.push(FileRow::Ticket(key(number), Some(SealedTicket { sealed: vec![7; 300], until })));
                    } else if let Some(number) = live.pop() {
                        rows.extend([FileRow::Mark(key(number), None), FileRow::Ticket(key(number), None)]);
                    }
                }
                file.write(&rows).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_file_is_lent_and_taken_back() {
    let (_folder, path) = folder();
    let store = Arc::new(Store::open(&path).unwrap());
    store.mark("link", b"before", later(60)).await.unwrap();
    store.pause().await;
    let waiting = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.mark("link", b"meanwhile", later(60)).await })
    };
    let other = Store::open(&path).unwrap();
    assert_eq!(other.mark("link", b"before", later(60)).await, Err(MarkError::AlreadyUsed));
    other.mark("link", b"there", later(60)).await.unwrap();
    drop(other);
    store.resume();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!(store.mark("link", b"there", later(60)).await, Err(MarkError::AlreadyUsed));
}

#[tokio::test]
async fn a_file_that_was_left_is_left() {
    let (_folder, path) = folder();
    let store = Arc::new(Store::open(&path).unwrap());
    store.pause().await;
    let waiting = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.mark("link", b"a", later(60)).await })
    };
    let other = Store::open(&path).unwrap();
    store.leave();
    assert_eq!(waiting.await.unwrap(), Err(MarkError::Unkept(KeepError::Unavailable)));
    assert_eq!(store.mark("link", b"a", later(60)).await, Err(MarkError::Unkept(KeepError::Unavailable)));
    other.mark("link", b"a", later(60)).await.unwrap();
}

/// A missing file is not created again while the process runs: all credentials could be used again.
#[tokio::test]
async fn a_file_that_cannot_be_opened_again_refuses() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    store.mark("link", b"a", later(60)).await.unwrap();
    store.pause().await;
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    store.resume();
    assert_eq!(store.mark("link", b"b", later(60)).await, Err(MarkError::Unkept(KeepError::Unavailable)));
    assert!(store.check().unwrap_err().contains("cannot open the state file"), "{:?}", store.check());
    assert!(!path.exists());
    // The store retries by itself, at most once a second.
    fs::rename(&away, &path).unwrap();
    let healed = async {
        while store.mark("link", b"c", later(60)).await == Err(MarkError::Unkept(KeepError::Unavailable)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(20), healed).await.unwrap();
    assert_eq!(store.check(), Ok(()));
    assert_eq!(store.mark("link", b"a", later(60)).await, Err(MarkError::AlreadyUsed));
}

#[tokio::test]
async fn a_full_table_of_tickets_refuses_and_the_expired_make_room() {
    let store = Store::in_memory();
    let ticket = |number: u16| {
        let mut ticket = [0; 32];
        ticket[..2].copy_from_slice(&number.to_be_bytes());
        ticket
    };
    for number in 0..10_000 {
        store.keep_ticket(ticket(number), vec![], later(60)).await.unwrap();
    }
    assert_eq!(store.keep_ticket(ticket(10_000), vec![], later(60)).await, Err(KeepError::Full));
    assert_eq!(store.take_ticket(ticket(0)).await, Ok(Some(vec![])), "what is out stays good");
    store.keep_ticket(ticket(0), vec![], later(-1)).await.unwrap();
    store.keep_ticket(ticket(10_000), vec![], later(60)).await.unwrap();
}

/// Waits until the store reports a change of the file, while nothing is written.
async fn noticed(store: &Store, part: &str) {
    let noticed = async {
        while !store.check().is_err_and(|problem| problem.contains(part)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(10), noticed).await.unwrap_or_else(|_| panic!("{part}: {:?}", store.check()));
}

#[tokio::test]
async fn a_file_that_is_cut_short_is_noticed_and_marks_are_refused_until_a_copy_is_there() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    store.mark("link", b"a", later(60)).await.unwrap();
    let whole = fs::read(&path).unwrap();
    store.freeze("40@acme.test", frozen(None)).await.unwrap();
    store.mark("link", b"b", later(60)).await.unwrap();
    for length in [0, whole.len() as u64 / 2] {
        fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        let refused = store.mark("cut", &length.to_be_bytes(), later(60)).await;
        assert_eq!(refused, Err(MarkError::Unkept(KeepError::Unavailable)));
        assert_eq!(fs::metadata(&path).unwrap().len(), length, "what another program did is left as it is");
        noticed(&store, "the state file").await;
        // The copy is older than the state in memory, which is written to it.
        fs::write(&path, &whole).unwrap();
        let healed = async {
            while store.check().is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(20), healed).await.unwrap();
        assert!(store.is_frozen("40@acme.test", later(0)));
    }
    drop(store);
    let store = Store::open(&path).unwrap();
    assert!(
        store.is_marked("link", b"a") && store.is_marked("link", b"b") && store.is_frozen("40@acme.test", later(0))
    );
}

#[tokio::test]
async fn a_file_that_others_write_or_remove_is_noticed_while_nothing_is_written() {
    for (part, act) in [
        ("changed", (|path: &Path| fs::write(path, vec![7; 1 << 23])) as fn(&Path) -> std::io::Result<()>),
        ("cut it short", |path| fs::write(path, "")),
        ("moved or removed", |path| fs::remove_file(path)),
        ("moved or removed", |path| fs::rename(path, path.with_extension("away")).and_then(|()| fs::write(path, ""))),
    ] {
        let (_folder, path) = folder();
        let store = Store::open(&path).unwrap();
        store.mark("link", b"a", later(60)).await.unwrap();
        // Within one tick of the file system's clock, a change may have the same time.
        tokio::time::sleep(Duration::from_millis(50)).await;
        act(&path).unwrap();
        let problem = async {
            loop {
                if let Err(problem) = store.check() {
                    return problem;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let problem = timeout(Duration::from_secs(10), problem).await.unwrap();
        assert!(problem.contains(part), "{part}: {problem}");
    }
}

/// The test cannot set the wall clock; it sets the believed time instead.
#[tokio::test]
async fn a_freeze_that_ended_by_a_wrong_clock_is_in_force_again() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    store.freeze("40@acme.test", frozen(Some(later(3600)))).await.unwrap();
    store.mark("link", b"a", later(600)).await.unwrap();
    let set = |ahead: i64| {
        *store.shared.clock.lock().unwrap() = BelievedClock::since(later(ahead));
    };
    // Behind the time of the file, the earlier time holds.
    set(-86_400);
    assert!(store.now() < later(-86_000));
    store.sweep().await;
    set(0);
    assert!(store.is_frozen("40@acme.test", store.now()) && store.is_marked("link", b"a"));
    assert!(!store.is_frozen("40@acme.test", later(7200)));
    store.sweep().await;
    assert!(store.is_frozen("40@acme.test", store.now()));
}

#[tokio::test]
async fn the_time_that_was_believed_outlives_a_restart() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    *store.shared.clock.lock().unwrap() = BelievedClock::since(later(-86_400));
    store.mark("link", b"a", later(60)).await.unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert!(store.now() < later(-86_000), "{}", store.now());
}

#[test]
fn an_inspection_says_what_opening_would_and_changes_nothing() {
    let (folder, path) = folder();
    assert!(Store::inspect(&path).is_ok() && !path.exists(), "it can be made, and is not");
    let nowhere = Store::inspect(&folder.path().join("no/state"));
    assert!(matches!(nowhere, Err(OpenError::Io(..))), "{nowhere:?}");
    let store = Store::open(&path).unwrap();
    assert!(matches!(Store::inspect(&path), Err(OpenError::Locked(_))));
    drop(store);
    let good = fs::read(&path).unwrap();
    assert!(Store::inspect(&path).is_ok());
    fs::set_permissions(&path, Permissions::from_mode(0o660)).unwrap();
    assert!(matches!(Store::inspect(&path), Err(OpenError::Exposed(_, 0o660))));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    for (bytes, is_foreign) in [(&b""[..], false), (b"a diary", true), (&good[..good.len() / 2], false)] {
        fs::write(&path, bytes).unwrap();
        let inspected = Store::inspect(&path).unwrap_err();
        let opened = Store::open(&path).err().unwrap();
        assert_eq!(inspected.to_string(), opened.to_string());
        assert_eq!(matches!(inspected, OpenError::Foreign(_)), is_foreign, "{inspected:?}");
    }
    fs::write(&path, &good).unwrap();
    assert!(Store::inspect(&path).is_ok());
    assert_eq!(fs::read(&path).unwrap(), good);
}
