//! Members at one engine, from one event to the next. Times are in microseconds. Chance comes from a seed.

mod freezes;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What the engine spends on each question, and what a member waits for besides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Costs {
    /// The questions of a login.
    pub(crate) login: [u64; 5],
    /// One of many marks that are written at the same time.
    pub(crate) mark_back: u64,
    pub(crate) freeze: u64,
    /// One freeze that one member is told of, in hundredths.
    pub(crate) told: u64,
    pub(crate) read_freezes: u64,
    pub(crate) connect: u64,
}

/// Between a member and the engine, there and back.
const NETWORK: u64 = 500;
/// What a login waits for behind each question: the app behind the first one, the PBX before the last one.
const BEHIND: [u64; 5] = [20_000, 0, 0, 50_000, 0];
/// How long a member's disk takes for a freeze.
const DISK: u64 = 1_000;
const SECOND: u64 = 1_000_000;

// As the sources say.
const DEADLINE: u64 = 50_000;
const FAILURES: u32 = 3;
const HEARTBEAT: u64 = 500_000;
const FIRST_PAUSE: u64 = 100_000;
const LONGEST_PAUSE: u64 = 2 * SECOND;
const CONNECT_TIMEOUT: u64 = 2 * SECOND;
const AGAIN: u64 = 500_000;
const PART: u64 = 200;
const MESSAGES: u64 = 256;

/// What happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) costs: Costs,
    pub(crate) members: usize,
    pub(crate) seconds: u64,
    pub(crate) logins_a_second: u64,
    /// How many times as long as usual the engine takes.
    pub(crate) slower: u64,
    /// When the engine is restarted empty, and how long that takes.
    pub(crate) restart: Option<(u64, u64)>,
    /// How many used links each member knows, and how many of them it writes back at the same time.
    pub(crate) marks: u64,
    pub(crate) marks_at_once: u64,
    /// How many accounts each member freezes, one after the other, from the first second on.
    pub(crate) freezes: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Logins, and those of them that a member decided by itself at some step.
    pub(crate) logins: u64,
    pub(crate) alone: u64,
    /// How long the engine worked, in each second.
    pub(crate) busy: Vec<u64>,
    /// How long each login waited for the engine.
    pub(crate) waits: Vec<u64>,
    /// How often a member left the engine.
    pub(crate) left: u64,
    /// When the last member used the engine again, had written its marks back, and knew all freezes.
    pub(crate) used: u64,
    pub(crate) written: u64,
    pub(crate) known: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Login,
    /// A login goes on with its next question: the member, the step, its wait so far, whether a member decided alone.
    Step(usize, usize, u64, bool),
    Heartbeat(usize),
    Restart,
    Reach(usize, u32),
    Reached(usize),
    WriteBack(usize),
    Freeze(usize),
    /// A member reads the table of freezes, or the next part of it.
    Read(usize),
    ReadOn(usize),
    /// An answer, or none within the deadline.
    Answer(usize, Asker, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asker {
    Login { step: usize, asked: u64, waited: u64, alone: bool },
    Heartbeat,
    Mark,
    Freeze,
    Read,
}

#[derive(Debug, Clone, Copy, Default)]
struct Member {
    is_away: bool,
    failures: u32,
    /// Whether the engine may lack its marks; those that are not written yet, those of the batch, and whether one of these
    /// failed.
    lacks: bool,
    marks: u64,
    batch: u64,
    batch_failed: bool,
    /// Freezes to order, those it knows, when it has stored them, the place in the table that it reads, and how many it was
    /// told of meanwhile.
    to_freeze: u64,
    knows: u64,
    stored: u64,
    reading: Option<u64>,
    missed: u64,
}

struct Simulation {
    scenario: Scenario,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    chance: u64,
    members: Vec<Member>,
    /// When the engine has answered all that it was asked, and how many freezes it holds.
    free: u64,
    frozen: u64,
    outcome: Outcome,
}

pub(crate) fn run(scenario: Scenario) -> Outcome {
    let member = Member { to_freeze: scenario.freezes, ..Member::default() };
    let mut simulation = Simulation {
        members: vec![member; scenario.members],
        events: BinaryHeap::new(),
        outcome: Outcome { busy: vec![0; scenario.seconds as usize + 1], ..Outcome::default() },
        scenario,
        now: 0,
        count: 0,
        chance: 7,
        free: 0,
        frozen: 0,
    };
    simulation.begin();
    while let Some(Reverse((at, _, event))) = simulation.events.pop() {
        if at > scenario.seconds * SECOND {
            break;
        }
        simulation.now = at;
        simulation.handle(event);
    }
    simulation.outcome.waits.sort_unstable();
    simulation.outcome
}

impl Simulation {
    fn begin(&mut self) {
        self.after(0, Event::Login);
        for member in 0..self.members.len() {
            let pause = self.below(HEARTBEAT);
            self.after(pause, Event::Heartbeat(member));
            if self.scenario.freezes > 0 {
                self.after(SECOND, Event::Freeze(member));
            }
        }
        if let Some((at, _)) = self.scenario.restart {
            self.after(at, Event::Restart);
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % bound.max(1)
    }

    fn after(&mut self, pause: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((self.now + pause, self.count, event)));
    }

    /// Pauses as `backoff` does, and tries to reach the engine.
    fn reach_later(&mut self, member: usize, failures: u32) {
        let pause = (FIRST_PAUSE << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
        let pause = pause / 2 + self.below(pause / 2);
        self.after(pause, Event::Reach(member, failures));
    }

    /// Lets the engine work when it has answered everything before. Returns how long the answer takes.
    fn serve(&mut self, cost: u64) -> u64 {
        let cost = cost * self.scenario.slower;
        let begin = self.free.max(self.now + NETWORK / 2);
        self.free = begin + cost;
        let second = (begin / SECOND) as usize;
        if let Some(busy) = self.outcome.busy.get_mut(second) {
            *busy += cost;
        }
        self.free + NETWORK / 2 - self.now
    }

    fn ask(&mut self, member: usize, cost: u64, asker: Asker) {
        if self.members[member].is_away {
            return self.after(0, Event::Answer(member, asker, false));
        }
        let wait = self.serve(cost);
        self.after(wait.min(DEADLINE), Event::Answer(member, asker, wait <= DEADLINE));
    }

    fn note(&mut self, member: usize, answered: bool) {
        let one = &mut self.members[member];
        one.failures = if answered { 0 } else { one.failures + 1 };
        if !one.is_away && one.failures >= FAILURES {
            one.is_away = true;
            self.outcome.left += 1;
            self.reach_later(member, 1);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Login => {
                let (member, pause) =
                    (self.below(self.members.len() as u64) as usize, SECOND / self.scenario.logins_a_second);
                // Logins come by chance, on average after such a pause.
                let pause = self.below(2 * pause + 1);
                self.after(pause, Event::Login);
                self.after(0, Event::Step(member, 0, 0, false));
            }
            Event::Step(member, step, waited, alone) if step < BEHIND.len() => {
                self.ask(
                    member,
                    self.scenario.costs.login[step],
                    Asker::Login { step, asked: self.now, waited, alone },
                );
            }
            Event::Step(_, _, waited, alone) => {
                self.outcome.logins += 1;
                self.outcome.alone += u64::from(alone);
                self.outcome.waits.push(waited);
            }
            Event::Heartbeat(member) => {
                self.ask(member, self.scenario.costs.mark_back, Asker::Heartbeat);
                self.after(HEARTBEAT, Event::Heartbeat(member));
            }
            Event::Restart => {
                let (_, length) = self.scenario.restart.expect("there is a restart");
                self.free = self.now + length;
                for member in 0..self.members.len() {
                    self.members[member].is_away = true;
                    self.outcome.left += 1;
                    self.reach_later(member, 1);
                }
            }
            Event::Reach(member, failures) => {
                let is_down = self.scenario.restart.is_some_and(|(at, length)| (at..at + length).contains(&self.now));
                let wait =
                    if is_down { CONNECT_TIMEOUT } else { self.serve(self.scenario.costs.connect) + 4 * NETWORK };
                match wait < CONNECT_TIMEOUT {
                    true => self.after(wait, Event::Reached(member)),
                    false => self.reach_later(member, failures + 1),
                }
            }
            Event::Reached(member) => {
                self.members[member] = Member { is_away: false, failures: 0, lacks: true, ..self.members[member] };
                self.outcome.used = self.now;
                self.after(0, Event::WriteBack(member));
                self.after(0, Event::Read(member));
            }
            Event::WriteBack(member) => {
                let one = &mut self.members[member];
                if one.lacks && !one.is_away && one.batch == 0 {
                    one.marks = self.scenario.marks;
                    self.write_batch(member);
                }
            }
            Event::Freeze(member) => {
                let told = self.scenario.costs.told * self.members.len() as u64 / 100;
                self.ask(member, self.scenario.costs.freeze + told, Asker::Freeze);
            }
            Event::Read(member) => {
                if self.members[member].reading.is_none() {
                    self.members[member].reading = Some(0);
                    self.ask(member, self.scenario.costs.read_freezes, Asker::Read);
                }
            }
            Event::ReadOn(member) => self.ask(member, self.scenario.costs.read_freezes, Asker::Read),
            Event::Answer(member, asker, answered) => {
                self.note(member, answered);
                self.go_on(member, asker, answered);
            }
        }
    }

    fn go_on(&mut self, member: usize, asker: Asker, answered: bool) {
        match asker {
            Asker::Login { step, asked, waited, alone } => {
                let next = Event::Step(member, step + 1, waited + self.now - asked, alone || !answered);
                self.after(BEHIND[step], next);
            }
            Asker::Heartbeat => {}
            Asker::Mark => {
                let one = &mut self.members[member];
                one.batch -= 1;
                one.batch_failed |= !answered;
                match (one.batch, one.batch_failed) {
                    (0, false) => self.write_batch(member),
                    (0, true) => self.after(AGAIN, Event::WriteBack(member)),
                    _ => {}
                }
            }
            Asker::Freeze => {
                if answered {
                    self.frozen += 1;
                    self.members[member].to_freeze -= 1;
                    (0..self.members.len()).for_each(|member| self.tell(member));
                }
                if self.members[member].to_freeze > 0 {
                    self.after(DISK, Event::Freeze(member));
                }
            }
            Asker::Read => self.read_on(member, answered),
        }
    }

    fn write_batch(&mut self, member: usize) {
        let one = &mut self.members[member];
        let batch = one.marks.min(self.scenario.marks_at_once);
        (one.marks, one.batch, one.batch_failed) = (one.marks - batch, batch, false);
        if batch == 0 {
            one.lacks = false;
            self.outcome.written = self.now;
        }
        for _ in 0..batch {
            self.ask(member, self.scenario.costs.mark_back, Asker::Mark);
        }
    }
}
