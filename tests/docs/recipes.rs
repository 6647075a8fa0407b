//! The recipes in docs/recipes: whole apps, each with a gate before it.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use crate::blocks::{Block, Kind, split};
use crate::machine::{Daemon, Machine, meanwhile};
use crate::programs::{are_here, output};

pub fn recipes() -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir("docs/recipes").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Returns the file that a block is, by the comment in its first line.
fn file_of(block: &Block) -> Option<&str> {
    let (_, name) = block.text.lines().next()?.split_once(" file: ")?;
    Some(name.trim())
}

/// An app of a recipe: a folder, its server, and a gate before it.
struct RecipeApp {
    machine: Machine,
    app: Vec<Daemon>,
}

impl RecipeApp {
    fn new(pbx: SocketAddr) -> Self {
        let app = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let machine = Machine::new(app, pbx);
        machine.write_secrets();
        Self { machine, app: Vec::new() }
    }

    fn do_block(&mut self, block: &Block) {
        match (block.kind, file_of(block)) {
            (Kind::App | Kind::Js, Some(name)) => {
                let path = self.machine.folder.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, block.text.replace("listen(3000", &format!("listen({}", self.machine.app.port())))
                    .unwrap();
            }
            (Kind::Sh, _) if block.text.ends_with(" &\n") => self.serve(block.text.trim_end().trim_end_matches('&')),
            _ => self.machine.do_block(block),
        }
    }

    /// Starts the app, and waits until it accepts connections.
    fn serve(&mut self, command: &str) {
        let script = format!("exec >app.log 2>&1; set -eu; exec env {}", self.machine.real(command));
        let child = self.machine.command("bash").args(["-c", &script]).spawn().unwrap();
        self.app.push(Daemon::new(child));
        for _ in 0..600 {
            if TcpStream::connect(self.machine.app).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{command}: {}", fs::read_to_string(self.machine.folder.path().join("app.log")).unwrap());
    }
}

/// Needs PHP, Node with npm, Python with pip, and their registries.
#[tokio::test]
#[ignore = "needs the languages that apps are written in: tests/run has them"]
async fn the_recipes_lead_to_a_login() {
    meanwhile(|_, pbx| {
        let stub = std::path::absolute("tests/recipes/wordpress.php").unwrap();
        for path in recipes() {
            let mut kitchen = RecipeApp::new(pbx);
            if path.ends_with("wordpress.md") {
                kitchen.serve(&format!("WP_SECRET=secret php -S 127.0.0.1:3000 {}", stub.display()));
            }
            for block in split(&path).1 {
                kitchen.do_block(&block);
            }
        }
    })
    .await;
}

/// `docs/performance.md`
#[test]
#[ignore = "needs programs for load: tests/run has them"]
fn the_comparison_prints_a_ratio_for_each_workload() {
    let mut compare = Command::new("bench/compare");
    compare.args(["--quick", "h1", "h2", "new", "get", "get2", "idle"]).env("CALLGATE", env!("CARGO_BIN_EXE_callgate"));
    let output = output(&mut compare);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    let is_ratio = |cell: &&str| cell.trim_end_matches(" |").parse::<f64>().is_ok_and(|ratio| ratio > 0.0);
    let ratios = told.lines().skip(2).map(|line| line.split(" | ").skip(1).filter(is_ratio).count());
    assert_eq!(ratios.collect::<Vec<_>>(), [2; 6], "{told}");
}

/// `docs/performance.md`
#[test]
#[ignore = "needs programs for load: tests/run has them"]
fn the_cost_of_a_login_is_printed() {
    let mut login = Command::new("bench/login");
    let output = output(login.arg("--quick").env("CALLGATE", env!("CARGO_BIN_EXE_callgate")));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    let cost = told.strip_prefix("/auth/ott: ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    assert!(cost.parse::<f64>().is_ok_and(|micros| micros > 0.0), "{told}");
}

/// `docs/performance.md`
#[test]
fn a_request_may_cost_three_percent_more_instructions_than_before() {
    if !are_here(&["python3"]) {
        return;
    }
    let check = |[h1, h2]: [u32; 2], built: &str, expected: &str, fails: bool| {
        let script = format!(
            r#"import runpy, sys
bench = runpy.run_path("bench/instructions")
reference = bench["written"]({{"h1": 100000, "h2": 200000}}, "rustc 1")
told, failed = bench["verdict"]({{"h1": {h1}, "h2": {h2}}}, "{built}", reference)
print(told)
sys.exit(failed)"#
        );
        let output = output(Command::new("python3").args(["-c", &script]));
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains(expected), "{h1} {h2} {built}: {told} {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(fails.into()), "{told}");
    };
    check([102_900, 200_000], "rustc 1", "h1: 100,000 before, +2.9 %", false);
    check([103_100, 200_000], "rustc 1", "h1: a request costs over 3 % more", true);
    check([103_100, 206_200], "rustc 1", "h1 and h2: a request costs over", true);
    check([103_100, 190_000], "rustc 1", "Find the cause", true);
    check([100_000, 193_000], "rustc 1", "bench/instructions --renew", false);
    check([150_000, 200_000], "rustc 2", "holds for rustc 1; this is rustc 2", false);
}
