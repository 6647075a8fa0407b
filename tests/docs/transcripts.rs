//! Commands and answers that the documents show are run, and do what is shown.

use crate::blocks::{Kind, blocks, documents, readme_configuration, split};
use crate::machine::{Machine, fits, meanwhile, serve};
use crate::programs::are_here;

/// The shell of the documents' commands, and the foreign programs that they call.
const TYPED: &[&str] = &["bash", "curl", "openssl", "python3"];

/// The table that the page about limits begins with.
const SHADOW: &str = "
[limits]
shadow = [\"client\", \"caller\", \"account\"]
";

/// More tables for the gate of the pages about audit, commands, freezes and limits.
const GUARDED: &str = "
[audit]
file = \"/var/log/callgate/audit.log\"
chain = true
[admin]
listen = \"unix:/etc/callgate/admin.sock\"
[state]
file = \"/etc/callgate/callgate.state\"
";

#[tokio::test]
async fn the_readme_leads_from_nothing_to_a_login() {
    if !are_here(TYPED) {
        return;
    }
    meanwhile(|app, pbx| {
        let mut machine = Machine::new(app, pbx);
        for block in blocks("README.md") {
            machine.do_block(&block);
        }
    })
    .await;
}

#[tokio::test]
async fn the_commands_of_the_other_documents_do_what_is_shown() {
    if !are_here(TYPED) {
        return;
    }
    meanwhile(|app, pbx| {
        let mirror = serve(mirrored);
        for path in documents().into_iter().filter(|path| !path.ends_with("README.md")) {
            let app = if path.ends_with("transparency.md") { mirror } else { app };
            let mut machine = Machine::new(app, pbx);
            machine.write_secrets();
            let is_one_of = |pages: &[&str]| pages.iter().any(|page| path.ends_with(page));
            let guarded = if is_one_of(&["audit.md", "commands.md", "freeze.md", "limits.md"]) { GUARDED } else { "" };
            let shadow = if is_one_of(&["limits.md"]) { SHADOW } else { "" };
            // A page that begins before there is a configuration makes its own.
            if !is_one_of(&["first-login.md"]) {
                machine.write("proxy.toml", &machine.real(&format!("{}{guarded}{shadow}", readme_configuration())));
                machine.start_gate();
            }
            for block in split(&path).1 {
                machine.do_block(&block);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_hangup_ends_nothing() {
    if !are_here(&["bash", "curl"]) {
        return;
    }
    meanwhile(|app, pbx| {
        let mut machine = Machine::new(app, pbx);
        machine.write_secrets();
        machine.write("proxy.toml", &machine.real(&readme_configuration()));
        machine.start_gate();
        let script =
            format!("kill -HUP {}; curl -s https://portal.example.com/auth/pbx", machine.running[0].child.id());
        let (told, success) = machine.bash(&script);
        assert!(success && told.contains("log in first"), "{told}");
    })
    .await;
}

/// Answers as docs/transparency.md says: with the head of the request, and some fields that are not for the client.
fn mirrored(head: &str) -> String {
    let fields = "Connection: close, X-Hop\r\nX-Hop: 1\r\nPBX-Account: 40\r\nServer: app\r\nContent-Type: text/plain";
    let body = head.replace('\r', "");
    format!("HTTP/1.1 200 Ok\r\n{fields}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn redirects_of_the_app_are_given_a_session() {
    if !are_here(&["bash", "curl"]) {
        return;
    }
    meanwhile(|_, pbx| {
        let redirect =
            blocks("README.md").into_iter().find(|block| block.text.contains("auth = \"redirect\"")).unwrap();
        for path in ["README.md", "docs/app.md"] {
            let blocks = blocks(path);
            let (at, answer) = blocks.iter().enumerate().find(|(_, block)| block.kind == Kind::Http).unwrap();
            let text = answer.text.replace('\n', "\r\n") + "\r\n";
            let app = serve(move |_| text.clone());
            let mut machine = Machine::new(app, pbx);
            machine.write_secrets();
            machine.write("proxy.toml", &machine.real(&format!("{}{}", readme_configuration(), redirect.text)));
            machine.start_gate();
            let (told, _) = machine.bash("curl -s --http1.1 -D - https://portal.example.com/telephone");
            let location = told.lines().find(|line| line.starts_with("location: ")).unwrap_or_else(|| panic!("{told}"));
            let next = blocks.get(at + 1).filter(|block| block.text.starts_with("location: "));
            let expected =
                next.map_or("location: https://pbx.example.com/welcome.htm?sessId=…", |block| block.text.trim());
            assert!(fits(location.trim(), expected), "{}: {location}", answer.place);
            assert!(!told.to_ascii_lowercase().contains("pbx-account"), "{told}");
        }
    })
    .await;
}
