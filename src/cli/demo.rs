//! `callgate demo`: all logins on one machine, with stand-ins for the app, the PBX and Voximplant.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{CommandResult, print_line, report_error, report_problems, run};
use crate::config;
use crate::demo::app::{PortalApp, PortalOptions, SameSite};
use crate::demo::server::{serve, serve_at};
use crate::demo::vodia::{Tenant, VodiaOptions, VodiaPbx};
use crate::demo::voximplant::VoximplantCloud;
use crate::model::ott::{VoximplantUser, users_line};
use crate::observe::{RequestId, trace};
use crate::random;
use crate::server::InheritedSockets;
use crate::tls::dev;

/// The Voximplant password of every user of the demo.
const PASSWORD: &str = "Demo-Passw0rd!";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The address to serve at
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Serve only the stand-ins for the app, at 127.0.0.1:3000, and the PBX, at 127.0.0.1:8080, as the configuration in the
    /// README names them
    #[arg(long, conflicts_with = "listen")]
    stand_ins: bool,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    trace::init(tracing::Level::INFO, config::LogFormat::Text);
    let runtime = run::runtime()?;
    if arguments.stand_ins {
        let served = runtime.block_on(serve_stand_ins());
        return served.map_err(|error| report_error("cannot serve the stand-ins", &error));
    }
    runtime.block_on(show(arguments.listen))
}

/// Serves the app and the PBX of the README's configuration until a signal asks to stop.
async fn serve_stand_ins() -> io::Result<()> {
    let tenants = vec![Tenant::with_alice_and_bob("acme.example.com")];
    let pbx = VodiaPbx::new(VodiaOptions { tenants, ..VodiaOptions::default() });
    let app = PortalApp::new(PortalOptions {
        pbx_origin: "https://pbx.example.com".into(),
        tenant: "acme".into(),
        ..PortalOptions::default()
    });
    let app = serve_at(SocketAddr::from(([127, 0, 0, 1], 3000)), app).await?;
    let pbx = serve_at(SocketAddr::from(([127, 0, 0, 1], 8080)), pbx).await?;
    for (part, address) in [("app", app.addr), ("pbx", pbx.addr)] {
        tracing::info!(part, %address, "listening");
    }
    run::until_terminated().await
}

async fn show(listen: SocketAddr) -> CommandResult {
    let listen = with_port(listen).map_err(|error| report_error("cannot listen", &error))?;
    let port = listen.port();
    let options = VodiaOptions::default();
    let password = options.admin_password.clone();
    let pbx = serve(VodiaPbx::new(options)).await;
    let cloud = serve(VoximplantCloud::new(["alice", "bob"].map(|user| (user, PASSWORD)))).await;
    let app = serve(PortalApp::new(PortalOptions {
        pbx_origin: format!("https://pbx.localhost:{port}"),
        tenant: "acme.test".into(),
        voximplant: Some(cloud.addr),
        cookie_same_site: SameSite::Lax,
    }))
    .await;

    let folder = DemoFolder::new().map_err(|error| report_error("cannot make a folder for the demo", &error))?;
    let text = configuration(listen, app.addr, pbx.addr);
    folder.fill(&text, &password).map_err(|error| report_error("cannot write the files of the demo", &error))?;
    let config = config::parse(&text, &folder.0, &|_| None).map_err(|problems| report_problems(&problems))?;
    Box::pin(run::serve(config, None, InheritedSockets::default(), |_| welcome(port, &folder.0))).await
}

/// Replaces port 0 by a free port, since the app needs the port for its links before the gate listens.
fn with_port(listen: SocketAddr) -> io::Result<SocketAddr> {
    if listen.port() == 0 { TcpListener::bind(listen)?.local_addr() } else { Ok(listen) }
}

fn welcome(port: u16, folder: &Path) {
    // The log lines of the start come first.
    trace::flush();
    // The demo goes on when standard output is closed.
    let _ = print_line(&format_args!(
        r#"callgate demo
  app       https://localhost:{port}/       log in as alice or bob; the password is the name
  PBX       https://pbx.localhost:{port}/   a stand-in; extensions 40 (alice) and 41 (bob) of acme.test
  phone     https://localhost:{port}/phone  logs in to a Voximplant stand-in by one-time key
  bookmark  https://pbx.localhost:{port}/usr_index.htm  leads through the login and back
  log out   https://localhost:{port}/auth/pbx/logout
The certificate is new and made for this demo: accept it in your browser, or trust {}.
The configuration: {}
Commands to try in another terminal, as long as the demo runs:
  cd {}
  ./callgate check --online
  ./callgate explain --link "$(./callgate link --account 40 --domain acme.test --host localhost:{port})"
  curl -sk -c jar https://localhost:{port}/login -d 'user=alice&password=alice'
  ./callgate explain --running --host localhost --cookie "demo_app=$(awk '/demo_app/ {{ print $7 }}' jar)"
  curl -sk -b jar -w '\n' -X POST https://localhost:{port}/auth/pbx
  ./callgate sessions list
  ./callgate freeze account 40@acme.test --why "to see what happens"
  curl -sk -b jar -w '\n' -X POST https://localhost:{port}/auth/pbx
  ./callgate thaw account 40@acme.test
ready: https://localhost:{port}/"#,
        folder.join("ca.pem").display(),
        folder.join("proxy.toml").display(),
        quoted(folder),
    ));
}

/// Writes a path as one word for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Returns the origin of the app, without the port that `https` has anyway.
fn origin(port: u16) -> String {
    if port == 443 { "https://localhost".to_owned() } else { format!("https://localhost:{port}") }
}

fn configuration(listen: SocketAddr, app: SocketAddr, pbx: SocketAddr) -> String {
    format!(
        r#"listen = "{listen}"
tls = {{ cert = "fullchain.pem", key = "privkey.pem" }}

[app]
url = "http://{app}"
whoami = "/api/me"
login = "/"

[pbx]
url = "http://{pbx}"
hosts = ["pbx.localhost"]
admin = {{ user = "sso", password = {{ file = "pbx-admin" }} }}
socket = "/auth/pbx/socket"
auto = "{}"

[voximplant]
users = {{ file = "voximplant.htdigest" }}

[[auth]]
type = "link"
keys = [{{ kid = "demo", secret = {{ file = "link.key" }} }}]

[[allow]]
name = "staff"
pbx = {{ domain = "{{tenant}}", account = "{{ext}}" }}
voximplant = "{{vox}}"

[[allow]]
name = "named accounts"
auth = ["redirect", "link"]
pbx = {{ domain = "{{domain}}", account = "{{account}}" }}

[admin]
listen = "unix:admin.sock"

[state]
file = "callgate.state"
"#,
        origin(listen.port())
    )
}

/// A temporary folder for the files of one demo, removed when this is dropped.
struct DemoFolder(PathBuf);

impl DemoFolder {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("callgate-demo-{}", RequestId::next()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Writes the files, and a link to this program beside them. `admin`: the password of the PBX's administrator.
    fn fill(&self, configuration: &str, admin: &str) -> io::Result<()> {
        let certificate = dev::certificate(&["localhost", "*.localhost", "pbx.localhost", "127.0.0.1", "::1"])
            .map_err(io::Error::other)?;
        let users = ["alice", "bob"].map(|user| {
            let user: VoximplantUser = user.parse().expect("the name is of the form the grammar wants");
            users_line(&user, PASSWORD)
        });
        self.write("proxy.toml", configuration)?;
        self.write("ca.pem", &certificate.ca)?;
        self.write("fullchain.pem", &certificate.chain)?;
        self.write("privkey.pem", &certificate.key)?;
        self.write("pbx-admin", admin)?;
        self.write("link.key", &random::text::<32>())?;
        symlink(std::env::current_exe()?, self.0.join("callgate"))?;
        self.write("voximplant.htdigest", &format!("{}\n", users.join("\n")))
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.0.join(name))?;
        file.write_all(text.as_bytes())
    }
}

impl Drop for DemoFolder {
    fn drop(&mut self) {
        // A file that cannot be removed stays in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}
