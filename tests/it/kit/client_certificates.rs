//! Certificates of clients and hosts, and gates that ask for them.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kit::app::{App, AppOptions};
use crate::kit::client::status;
use crate::kit::gate::{Gate, secret};
use crate::kit::upstream::RawUpstream;
use crate::kit::vodia::{Options, Tenant, Vodia};

/// An authority that signs certificates.
pub struct Authority {
    pem: String,
    pub issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Signs a certificate for these names, or for a client, and returns it with its key.
    pub fn sign(&self, names: &[&str], usage: ExtendedKeyUsagePurpose, end: i32) -> (String, String) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign_params(CertificateParams::new(names).unwrap(), usage, end)
    }

    pub fn sign_params(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        end: i32,
    ) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        params.extended_key_usages = vec![usage];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs one for a client with these alternative names, written as `kind:name`.
    pub fn client_named(&self, names: &[&str]) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            let (kind, name) = name.split_once(':').unwrap();
            match kind {
                "cn" => params.distinguished_name.push(DnType::CommonName, name),
                "email" => params.subject_alt_names.push(SanType::Rfc822Name(name.try_into().unwrap())),
                "uri" => params.subject_alt_names.push(SanType::URI(name.try_into().unwrap())),
                _ => params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap())),
            }
        }
        self.sign_params(params, ExtendedKeyUsagePurpose::ClientAuth, 2099)
    }

    pub fn client(&self) -> (String, String) {
        self.sign(&["ann"], ExtendedKeyUsagePurpose::ClientAuth, 2099)
    }
}

/// A folder with the certificates of hosts: `open.test` and `also.test`, where nothing is asked for, `staff.test` and
/// `crew.test`, where a certificate of the first authority is, `guest.test`, where one of the second is, and `lobby.test` and
/// `foyer.test`, where one of the first may be shown or left out.
pub struct CertificateFiles {
    pub dir: TempDir,
    pub servers: Authority,
    pub staff: Authority,
    pub guests: Authority,
}

pub const HOSTS: [(&str, &str); 5] = [
    ("open.test", ""),
    ("also.test", ""),
    ("staff.test", "staff.pem"),
    ("crew.test", "staff.pem"),
    ("guest.test", "guests.pem"),
];

/// Hosts of every policy that the first authority has.
pub const LOBBY: [(&str, &str); 4] = [
    ("open.test", ""),
    ("staff.test", "staff.pem"),
    ("lobby.test", "staff.pem optional"),
    ("foyer.test", "staff.pem optional"),
];

impl CertificateFiles {
    pub fn new() -> Self {
        let (servers, staff, guests) = (Authority::new("servers"), Authority::new("staff"), Authority::new("guests"));
        let dir = TempDir::new().unwrap();
        secret(&dir, "staff.pem", &staff.pem);
        secret(&dir, "guests.pem", &guests.pem);
        for (name, _) in HOSTS.iter().chain(&LOBBY[2..]) {
            let (chain, key) = servers.sign(&[name], ExtendedKeyUsagePurpose::ServerAuth, 2099);
            secret(&dir, name, &chain);
            secret(&dir, &format!("{name}.key"), &key);
        }
        Self { dir, servers, staff, guests }
    }

    /// The `tls` of all hosts, or of some. Behind the name of an authority may be a `client_auth`.
    pub fn tls(&self, hosts: &[(&str, &str)]) -> String {
        let at = self.dir.path().display();
        let entry = |(name, ca): &(&str, &str)| {
            let asked = match ca.split_once(' ') {
                Some((ca, mode)) => format!(", client_ca = \"{at}/{ca}\", client_auth = \"{mode}\""),
                None if ca.is_empty() => String::new(),
                None => format!(", client_ca = \"{at}/{ca}\""),
            };
            format!("{{ cert = \"{at}/{name}\", key = \"{at}/{name}.key\"{asked} }}")
        };
        format!("tls = {{ certificates = [{}] }}", hosts.iter().map(entry).collect::<Vec<_>>().join(", "))
    }

    pub async fn gate(&self, hosts: &[(&str, &str)], upstream: &RawUpstream) -> Gate {
        Gate::start(&format!("{}\nworkers = 1\n[app]\nurl = \"http://{}\"", self.tls(hosts), upstream.addr)).await
    }

    /// A client that trusts the servers, and shows this certificate.
    pub fn shows(
        &self,
        certificate: Option<&(String, String)>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.servers.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(callgate::tls::provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        match certificate {
            Some((chain, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        }
    }
}

pub const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// A gate whose clients log in by their certificates, before the stand-ins.
pub struct MtlsGate {
    pub gate: Gate,
    pub pbx: Vodia,
    pub app: App,
}

impl MtlsGate {
    pub async fn open(files: &CertificateFiles, hosts: &[(&str, &str)], rules: &str) -> Self {
        let tenants = vec![Tenant::with_alice_and_bob("acme.test")];
        let pbx = Vodia::start(Options { tenants, ..Options::default() }).await;
        let app = App::start(AppOptions::default()).await;
        let text = format!(
            "{}\nworkers = 1\n[app]\nurl = \"http://{}\"\nwhoami = \"/api/me\"\n[pbx]\nurl = \"http://{}\"\nhosts = [\"pbx.test\"]\n\
             admin = {{ user = \"sso\", password = {{ env = \"PBX_ADMIN\" }} }}\n{rules}\n\
             [limits]\nclient = \"1000/min\"\ncaller = \"1000/min\"\naccount = \"1000/min\"\nfailures = \"1000/min\"",
            files.tls(hosts),
            app.addr,
            pbx.addr
        );
        Self { gate: Gate::start(&text).await, pbx, app }
    }

    /// Asks for a session and returns the status of the answer.
    pub async fn ask(&self, config: &ClientConfig, name: &str, fields: &str) -> u16 {
        self.ask_at(config, name, name, fields).await.0
    }

    pub async fn ask_at(
        &self,
        config: &ClientConfig,
        name: &str,
        host: &str,
        fields: &str,
    ) -> (u16, Option<HandshakeKind>) {
        let stream = TcpStream::connect(self.gate.addr).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let Ok(mut tls) = TlsConnector::from(Arc::new(config.clone())).connect(name, stream).await else {
            return (0, None);
        };
        let request = format!("GET /auth/pbx HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n");
        let mut answer = Vec::new();
        if tls.write_all(request.as_bytes()).await.is_err() || tls.read_to_end(&mut answer).await.is_err() {
            return (0, None);
        }
        for session in self.pbx.sessions() {
            self.gate.canary(session.id);
        }
        (status(&String::from_utf8_lossy(&answer)), tls.get_ref().1.handshake_kind())
    }

    pub fn minted(&self) -> Vec<String> {
        self.pbx.mints().into_iter().filter_map(|mint| mint.username).collect()
    }
}

/// Certificates name a mail address; the part before its @ is the extension.
pub const BY_MAIL: &str = r#"
[[auth]]
type = "mtls"
[[allow]]
auth = "mtls"
pbx = { domain = "acme.test", account = "{email|before:@}" }
"#;
