//! `callgate certs`: makes a certificate for development, and says how to trust it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{CommandResult, print_line, print_remark, report_error};
use crate::config;
use crate::tls::dev;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Host names or addresses, such as app.example.com
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// The folder of the files, which is made where it is missing
    #[arg(long, value_name = "FOLDER", default_value = "certs")]
    folder: PathBuf,
    /// Replace files that exist. Clients must then trust the new ca.pem
    #[arg(long)]
    force: bool,
}

/// Writes the files, and prints what they are for.
pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let names: Vec<_> = arguments.names.iter().map(String::as_str).collect();
    let certificate = dev::certificate(&names).map_err(|error| report_error("no certificate made", &error))?;
    let written = certificate.write(&arguments.folder, arguments.force);
    written.map_err(|error| report_error("no certificate made (--force replaces files)", &error))?;
    warn_of_owner(&arguments.folder);
    let folder = arguments.folder.display();
    print_line(&format_args!("wrote ca.pem, fullchain.pem and privkey.pem into {folder}, for {}", names.join(", ")))?;
    print_line(&format_args!(
        "for proxy.toml: tls = {{ cert = \"{folder}/fullchain.pem\", key = \"{folder}/privkey.pem\" }}"
    ))?;
    print_line(&trust(&arguments.folder))
}

/// Warns where new files are in a folder of another user, who is not root: that user can put others in their place.
pub(super) fn warn_of_owner(folder: &Path) {
    if let Some(owner) = folder.metadata().ok().map(|found| found.uid()).filter(|owner| config::is_strangers(*owner)) {
        print_remark(&format_args!(
            "warning: {} belongs to the user with the id {owner}, who can replace the files in it: choose a folder of your own",
            folder.display()
        ));
    }
}

/// Says how clients trust a development certificate.
pub(super) fn trust(folder: &Path) -> String {
    let ca = folder.join("ca.pem").display().to_string();
    format!(
        "to trust it, on machines for development only:
  curl:            curl --cacert {ca} https://…
  Debian, Ubuntu:  sudo cp {ca} /usr/local/share/ca-certificates/callgate-development.crt && sudo update-ca-certificates
  Chromium:        certutil -d sql:$HOME/.pki/nssdb -A -n \"callgate development\" -t C,, -i {ca}
  Firefox:         Settings, Privacy & Security, View Certificates, Authorities, Import
  macOS:           security add-trusted-cert -r trustRoot -k ~/Library/Keychains/login.keychain-db {ca}"
    )
}
