//! The code of `docs/links.md` in other languages signs links that log in. Languages without an interpreter here are
//! skipped, and listed.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::kit::gate::LINK_SECRET;
use crate::kit::links::method;
use crate::kit::programs::{is_here, output};
use crate::kit::stage::{Plan, Stage};

/// A claim that every language must escape and measure as we do.
const NOTE: &str = "Müller & Söhne = 1+1/2 % 密?";

/// The code around a recipe, and the command that runs it.
struct Language {
    name: &'static str,
    /// A program that is there when the language is.
    interpreter: &'static str,
    file: &'static str,
    before: &'static str,
    after: &'static str,
    run: &'static str,
}

const LANGUAGES: [Language; 6] = [
    Language {
        name: "php",
        interpreter: "php",
        file: "link.php",
        before: "<?php\n",
        after: "echo callgate_link('SECRET', '2026', 'app.test', ['account' => '40', 'domain' => 'acme.test', 'note' => 'NOTE']);",
        run: "php link.php",
    },
    Language {
        name: "javascript",
        interpreter: "node",
        file: "link.js",
        before: "",
        after: "console.log(callgateLink('SECRET', '2026', 'app.test', { account: '40', domain: 'acme.test', note: 'NOTE' }));",
        run: "node link.js",
    },
    Language {
        name: "python",
        interpreter: "python3",
        file: "link.py",
        before: "",
        after: "print(callgate_link('SECRET', '2026', 'app.test', {'account': '40', 'domain': 'acme.test', 'note': 'NOTE'}))",
        run: "python3 link.py",
    },
    Language {
        name: "ruby",
        interpreter: "ruby",
        file: "link.rb",
        before: "",
        after: "puts callgate_link('SECRET', '2026', 'app.test', { 'account' => '40', 'domain' => 'acme.test', 'note' => 'NOTE' })",
        run: "ruby link.rb",
    },
    Language {
        name: "go",
        interpreter: "go",
        file: "link.go",
        before: "package main\n\nimport (\n\"crypto/hmac\"\n\"crypto/rand\"\n\"crypto/sha256\"\n\"encoding/base64\"\n\"encoding/hex\"\n\
                 \"fmt\"\n\"net/url\"\n\"sort\"\n\"time\"\n)\n\n",
        after: "func main() {\nclaims := map[string]string{\"account\": \"40\", \"domain\": \"acme.test\", \"note\": \"NOTE\"}\n\
                fmt.Println(callgateLink(\"SECRET\", \"2026\", \"app.test\", claims, time.Minute))\n}",
        run: "GOCACHE=\"$PWD/cache\" GOPATH=\"$PWD/path\" go run link.go",
    },
    Language {
        name: "csharp",
        interpreter: "mcs",
        file: "link.cs",
        before: "using System; using System.Collections.Generic; using System.Linq; using System.Security.Cryptography; using System.Text;\n\
                 static class Program {\n",
        after: "static void Main() { var claims = new Dictionary<string, string> { [\"account\"] = \"40\", [\"domain\"] = \"acme.test\", \
                [\"note\"] = \"NOTE\" }; Console.WriteLine(CallgateLink(\"SECRET\", \"2026\", \"app.test\", claims)); }\n}",
        run: "mcs link.cs && mono link.exe",
    },
];

/// Returns the block of a language in the document.
fn recipe(name: &str) -> String {
    let text = fs::read_to_string("docs/links.md").unwrap();
    let head = format!("```{name}\n");
    let mut blocks = text.split(&head).skip(1);
    let block = blocks.next().unwrap_or_else(|| panic!("docs/links.md has no {name}"));
    assert!(blocks.next().is_none(), "docs/links.md has {name} twice");
    block.split("```").next().unwrap().to_owned()
}

/// Runs a program in a shell, and returns the line it prints.
fn run(folder: &Path, command: &str) -> String {
    let output = output(Command::new("sh").args(["-c", command]).current_dir(folder));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command}: {told}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn check(stage: &Stage, language: &Language) {
    let folder = TempDir::new().unwrap();
    let fill = |text: &str| text.replace("SECRET", LINK_SECRET).replace("NOTE", NOTE);
    let program = format!("{}{}\n{}\n", language.before, recipe(language.name), fill(language.after));
    fs::write(folder.path().join(language.file), program).unwrap();
    let run = language.run.to_owned();
    let url = tokio::task::spawn_blocking(move || self::run(folder.path(), &run)).await.unwrap();
    let path = url.strip_prefix("https://app.test").unwrap_or_else(|| panic!("{}: {url}", language.name));
    let answer = stage.gate.get(path).send().await;
    let log = stage.gate.log();
    assert_eq!(answer.status, 303, "{}: {url}\n{log}", language.name);
    stage.gate.get(path).send().await.expect(401);
}

#[test]
fn every_language_of_the_document_is_tried() {
    let text = fs::read_to_string("docs/links.md").unwrap();
    let shown = text.lines().filter_map(|line| line.strip_prefix("```")).filter(|word| !word.is_empty());
    let shown: Vec<_> = shown.filter(|word| !["text", "sh", "toml"].contains(word)).collect();
    assert_eq!(shown, LANGUAGES.map(|language| language.name));
}

#[tokio::test]
#[ignore = "needs interpreters; tests/run has them"]
async fn links_that_other_languages_sign_log_in() {
    let rules = method("confirm = \"never\"");
    let stage = Plan { rules: &rules, ..Plan::default() }.start().await;
    let mut tried = 0;
    for language in &LANGUAGES {
        if is_here(language.interpreter) {
            check(&stage, language).await;
            tried += 1;
        } else {
            println!("not tried, as {} is not here: {}", language.interpreter, language.name);
        }
    }
    assert!(tried > 0, "no interpreter is here");
    assert_eq!(stage.minted().len(), tried);
}
