//! Figures of a real engine. What a question costs is the engine's own processor time. On a busy machine that grows too, up
//! to five times: measure on a quiet one.

use std::time::Instant;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;

use crate::engine::{Engine, Question, Transport, load};

/// How many members ask.
const MEMBERS: usize = 50;

/// The members of an engine, and one more that asks how it does.
struct Members {
    links: Vec<MultiplexedConnection>,
    watcher: MultiplexedConnection,
}

impl Members {
    async fn connect(engine: &Engine, transport: Transport) -> Self {
        let mut watcher = engine.connect(Transport::Plain).await;
        load(&mut watcher).await;
        let mut links = Vec::new();
        for _ in 0..MEMBERS {
            links.push(engine.connect(transport).await);
        }
        Self { links, watcher }
    }

    /// Returns a number that the engine tells of itself.
    async fn told(&mut self, section: &str, name: &str) -> f64 {
        let text: String = redis::cmd("INFO").arg(section).query_async(&mut self.watcher).await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        value.trim().parse().unwrap()
    }

    /// Returns the processor time of the engine in microseconds.
    async fn used(&mut self) -> f64 {
        let user = self.told("cpu", "used_cpu_user_main_thread").await;
        (user + self.told("cpu", "used_cpu_sys_main_thread").await) * 1e6
    }

    /// Lets each member ask a question again and again, so many at the same time. Returns the processor time of the engine
    /// for one, in microseconds.
    async fn cost(&mut self, question: Question, at_once: usize, rounds: usize) -> f64 {
        let before = self.used().await;
        let askers = self.links.iter().flat_map(|link| std::iter::repeat_n(link, at_once));
        join_all(askers.map(|link| ask(link.clone(), question, rounds))).await;
        (self.used().await - before) / (MEMBERS * at_once * rounds) as f64
    }
}

async fn ask(mut link: MultiplexedConnection, question: Question, rounds: usize) {
    for _ in 0..rounds {
        let answer: redis::Value = question.command().query_async(&mut link).await.unwrap();
        assert!(!matches!(answer, redis::Value::ServerError(_)), "{question:?}: {answer:?}");
    }
}

/// Returns by how many bytes the engine grows with one question.
async fn growth(members: &mut Members, question: Question) -> f64 {
    let before = members.told("memory", "used_memory").await;
    members.cost(question, 1, 400).await;
    (members.told("memory", "used_memory").await - before) / (MEMBERS * 400) as f64
}

#[tokio::test]
#[ignore = "prints figures"]
async fn figures() {
    let Some(engine) = Engine::start() else { return };
    for transport in [Transport::Plain, Transport::Tls] {
        let mut watcher = Members { links: Vec::new(), watcher: engine.connect(Transport::Plain).await };
        let before = (watcher.used().await, watcher.told("memory", "used_memory").await);
        let mut members = Members::connect(&engine, transport).await;
        let after = (watcher.used().await, watcher.told("memory", "used_memory").await);
        let each = |after: f64, before: f64| (after - before) / MEMBERS as f64;
        println!("\n{transport:?}, {MEMBERS} members: processor time of the engine in µs, one by one and 128 at once");
        println!("connect: {:.0} µs, {:.0} bytes", each(after.0, before.0), each(after.1, before.1));
        for question in [
            Question::ThreeLimits,
            Question::OneLimit,
            Question::Breaker,
            Question::Session,
            Question::Mark,
            Question::MarkBack,
        ] {
            let calm = members.cost(question, 1, 200).await;
            println!("{question:?}: {calm:.1} {:.1}", members.cost(question, 128, 4).await);
        }
        let alone = members.cost(Question::Freeze, 1, 100).await;
        println!("ReadFreezes: {:.1}", members.cost(Question::ReadFreezes, 1, 20).await);
        for link in &mut members.links {
            link.subscribe("callgate:messages").await.unwrap();
        }
        let told = members.cost(Question::Freeze, 1, 20).await;
        println!("Freeze: {alone:.1} alone, {:.2} more for each member that is told", (told - alone) / MEMBERS as f64);
        for link in &mut members.links {
            link.unsubscribe("callgate:messages").await.unwrap();
        }
        print_waits(&members).await;
    }
}

/// Prints how long answers take, when members ask what logins ask, and when they write marks back.
#[expect(clippy::print_stdout, reason = "the figures are for people")]
async fn print_waits(members: &Members) {
    for (what, questions, at_once) in [
        ("logins", &Question::LOGIN[..], 1),
        ("marks, 16 at once", &[Question::MarkBack], 16),
        ("marks, 128 at once", &[Question::MarkBack], 128),
    ] {
        let began = Instant::now();
        let askers = members.links.iter().flat_map(|link| std::iter::repeat_n(link, at_once));
        let waits = join_all(askers.map(|link| waits(link.clone(), questions))).await;
        let mut waits: Vec<_> = waits.concat();
        waits.sort_unstable();
        let rate = waits.len() as f64 / began.elapsed().as_secs_f64();
        let part = |part: usize| waits[waits.len() * part / 100];
        println!("{what}: {rate:.0} a second, p50 {} µs, p99 {} µs", part(50), part(99));
    }
}

async fn waits(mut link: MultiplexedConnection, questions: &[Question]) -> Vec<u128> {
    let mut waits = Vec::new();
    for question in questions.iter().cycle().take(50) {
        let began = Instant::now();
        let _: redis::Value = question.command().query_async(&mut link).await.unwrap();
        waits.push(began.elapsed().as_micros());
    }
    waits
}

#[tokio::test]
async fn a_count_takes_200_bytes_of_the_engine_a_mark_150_and_a_session_700() {
    for (question, bytes) in [(Question::OneLimit, 200.0), (Question::MarkBack, 150.0), (Question::Session, 700.0)] {
        let Some(engine) = Engine::start() else { return };
        let mut members = Members::connect(&engine, Transport::Plain).await;
        let grown = growth(&mut members, question).await;
        println!("{question:?}: {grown:.0} bytes");
        assert!((bytes * 0.75..bytes * 1.25).contains(&grown), "{question:?}: {grown:.0}");
    }
}
