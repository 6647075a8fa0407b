//! The types of `/auth/callgate/client.js`, for the compiler of TypeScript.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::kit::programs::output;

const COMPILER: &str = "target/typescript/node_modules/typescript/bin/tsc";
const MODULE: &str = "src/proxy/answer/client.js";
const TYPES: &str = "src/proxy/answer/client.d.ts";
const DOCUMENTS: [&str; 2] = ["docs/web-page.md", "docs/web-phone.md"];
/// What docs/web-page.md tells a developer to write in `tsconfig.json`.
const PATHS: &str = r#""paths": { "/auth/callgate/client.js": ["./client.d.ts"] }"#;

/// Returns the examples of a document that import the module.
fn examples(document: &str) -> Vec<String> {
    let text = fs::read_to_string(document).unwrap();
    let blocks = text.split("```js\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let examples: Vec<_> =
        blocks.filter(|block| block.contains("/auth/callgate/client.js")).map(str::to_owned).collect();
    assert!(!examples.is_empty(), "{document} has no example");
    examples
}

/// Makes a folder as a developer has it: the types beside the code.
fn project() -> TempDir {
    let folder = TempDir::new().unwrap();
    for file in fs::read_dir("tests/typescript").unwrap().map(|file| file.unwrap()) {
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    fs::copy(TYPES, folder.path().join("client.d.ts")).unwrap();
    fs::create_dir(folder.path().join("served")).unwrap();
    fs::copy(MODULE, folder.path().join("served/client.js")).unwrap();
    for (number, example) in DOCUMENTS.into_iter().flat_map(examples).enumerate() {
        fs::write(folder.path().join(format!("example-{number}.js")), format!("// @ts-check\n{example}")).unwrap();
    }
    folder
}

#[test]
#[ignore = "needs npm's typescript: tests/run"]
fn the_types_fit_the_module_and_the_documents() {
    assert!(Path::new(COMPILER).exists(), "tests/run installs {COMPILER}");
    for file in ["docs/web-page.md", "tests/typescript/tsconfig.json"] {
        assert!(fs::read_to_string(file).unwrap().contains(PATHS), "{file}");
    }
    let told = output(Command::new("node").args([COMPILER, "--project"]).arg(project().path()));
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));
}
