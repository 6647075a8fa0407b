//! What becomes of fifty members, with what [`crate::engine_figures`] measured over TLS.

use std::fs;

use crate::simulation::{Costs, Outcome, Scenario, run};

const COSTS: Costs =
    Costs { login: [35, 35, 31, 21, 18], mark_back: 7, freeze: 26, told: 264, read_freezes: 305, connect: 1111 };

/// A million people who log in once within eight hours.
const HOUR: Scenario = Scenario {
    costs: COSTS,
    members: 50,
    seconds: 20,
    logins_a_second: 1_000_000 / (8 * 3600),
    slower: 1,
    restart: None,
    marks: 0,
    marks_at_once: 16,
    freezes: 0,
};
/// The same within a quarter of an hour.
const RUSH: Scenario = Scenario { logins_a_second: 1_000_000 / 900, ..HOUR };
/// The engine is restarted empty in the rush, and is back after a second.
const RESTART: Scenario = Scenario { restart: Some((BACK - 1_000_000, 1_000_000)), ..RUSH };
/// When it is back.
const BACK: u64 = 3_000_000;

/// The rows of the table of the documents.
const ROWS: [(&str, Scenario); 10] = [
    ("all log in within 8 hours: 34 a second", HOUR),
    ("all log in within 15 minutes: 1 111 a second", RUSH),
    ("7 000 logins a second", Scenario { seconds: 5, logins_a_second: 7_000, ..HOUR }),
    ("8 000 logins a second", Scenario { seconds: 5, logins_a_second: 8_000, ..HOUR }),
    ("1 111 logins a second, and the engine takes 6 times as long", Scenario { seconds: 5, slower: 6, ..RUSH }),
    ("… the engine takes 8 times as long", Scenario { seconds: 5, slower: 8, ..RUSH }),
    ("… each member freezes 200 accounts at the same time", Scenario { freezes: 200, ..RUSH }),
    ("… the engine is restarted empty, with 1 000 used links at each member", Scenario { marks: 1_000, ..RESTART }),
    ("… the engine is restarted empty, with 10 000 used links at each member", Scenario { marks: 10_000, ..RESTART }),
    ("… the engine is restarted empty, with 20 000 used links at each member", Scenario { marks: 20_000, ..RESTART }),
];

/// Writes what came of it, as a row of the table.
fn row(what: &str, outcome: &Outcome) -> String {
    let Outcome { logins, alone, busy, waits, .. } = outcome;
    let busiest = busy.iter().max().unwrap().min(&1_000_000) / 10_000;
    let wait = |thousandth: usize| waits[waits.len() * thousandth / 1000] as f64 / 1e3;
    let (p50, p99, alone) = (wait(500), wait(990), alone * 100 / logins);
    format!("| {what} | {busiest} % | {p50:.0} ms | {p99:.0} ms | {alone} % | {} |", end(outcome))
}

/// Tells how it ended.
fn end(outcome: &Outcome) -> String {
    let seconds = |at: u64| at as f64 / 1e6;
    match *outcome {
        Outcome { left: 0, known: 0, .. } => "as always".to_owned(),
        Outcome { left: 0, known, .. } => {
            format!("all members have stored all freezes after {:.0} s", seconds(known - 1_000_000))
        }
        Outcome { left: 50, used, written, .. } => format!(
            "members use it {:.1} s after it is back, and have written back {:.1} s after",
            seconds(used - BACK),
            seconds(written - BACK)
        ),
        Outcome { .. } => "members leave the engine and come back, again and again".to_owned(),
    }
}

#[test]
fn the_table_of_the_documents_is_that_of_the_simulation() {
    let document = fs::read_to_string("docs/scale.md").unwrap();
    let rows = ROWS.map(|(what, scenario)| row(what, &run(scenario)));
    let missing: Vec<_> = rows.iter().filter(|row| !document.contains(&***row)).collect();
    assert!(missing.is_empty(), "docs/scale.md lacks:\n{}", rows.join("\n"));
}

#[test]
fn members_that_write_128_marks_at_once_overload_the_engine_for_ever() {
    let outcome = run(Scenario { marks: 10_000, marks_at_once: 128, ..RESTART });
    assert!(outcome.written == 0 && outcome.left > 1_000, "{}", row("", &outcome));
    // With a tenth of the members it does no harm.
    let few = run(Scenario { marks: 10_000, marks_at_once: 128, members: 5, ..RESTART });
    assert!(few.written > BACK && few.left == 5, "{}", row("", &few));
}

#[test]
fn the_simulation_has_the_constants_of_the_sources() {
    for (file, constant) in [
        ("src/once/write_back.rs", "AT_ONCE: usize = 16;"),
        ("src/once/write_back.rs", "AGAIN: Duration = Duration::from_millis(500);"),
        ("src/once/generation.rs", "YOUNG: Duration = Duration::from_secs(5);"),
        ("src/config/check/shared.rs", "DEADLINE: Duration = Duration::from_millis(50);"),
        ("src/members/circuit.rs", "FAILURES: u32 = 3;"),
        ("src/members.rs", "HEARTBEAT: Duration = Duration::from_millis(500);"),
        ("src/members.rs", "FIRST_PAUSE: Duration = Duration::from_millis(100);"),
        ("src/members.rs", "LONGEST_PAUSE: Duration = Duration::from_secs(2);"),
        ("src/members.rs", "CONNECT_TIMEOUT: Duration = Duration::from_secs(2);"),
        ("src/members.rs", "MESSAGES: usize = 256;"),
        ("src/freeze/table.rs", "STEP: usize = 200;"),
        ("src/freeze/sharing.rs", "PAUSE: Duration = Duration::from_secs(1);"),
    ] {
        assert!(fs::read_to_string(file).unwrap().contains(constant), "{file}: {constant}");
    }
}
