//! For agents that use services: their environment, and a command that runs in it.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use clap::Args;
use serde_json::Value;
use tempfile::NamedTempFile;

use pem_rfc7468::LineEnding;

use super::ca::MaybeAttested;
use super::calls::{Connection, answer};
use super::{Failure, block_on, in_path, shell_quoted};

/// What AgentKeys' agents show where nobody looks at it.
const PLACEHOLDER: &str = "local-placeholder-no-real-secret";

/// Where OpenSSL, Python's requests, curl, git, Node and the AWS SDKs look for authorities.
const AUTHORITY_FILES: [&str; 6] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
];
/// Where hosts keep theirs: Debian, Fedora, Alpine.
const HOST_AUTHORITIES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

#[derive(Debug, Args)]
pub(super) struct Env {
    /// Write a file that tells agents where services are and what to show there, for your shell's rc
    /// [file: $XDG_CONFIG_HOME/agentkeys/env, or ~/.config/agentkeys/env]. What is shown is the token
    /// of --token-file
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Name of the identity; may be left out if you may use only one
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    #[command(flatten)]
    attested: MaybeAttested,
    #[command(flatten)]
    connection: Connection,
    /// The command, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Env {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        if !self.write {
            let uri = self.connection.uri()?;
            return Ok(writeln!(out, "export ANCHORHOLD_ENDPOINT_SOCKET='{uri}'")?);
        }
        let fetch = async {
            let bytes = self.connection.client()?.call("/services", None).await?;
            answer(&bytes)
        };
        let services = block_on(fetch)??;
        let token = self.connection.token()?;
        let token = token.as_ref().map_or(PLACEHOLDER, |token| token.as_str());
        let lines = variables(&services, token)?
            .into_iter()
            .map(|(name, value)| format!("export {name}={}\n", shell_quoted(&value)));
        let file = write_private(&lines.collect::<String>())?;
        let file = shell_quoted(&file.display().to_string());
        Ok(writeln!(out, ". {file}")?)
    }
}

/// `NAME_BASE_URL` and `NAME_API_KEY` of each service. A shell will read them: what is said to be a
/// name must be one.
fn variables(services: &Value, placeholder: &str) -> Result<Vec<(String, String)>, Failure> {
    let address = address(services)?;
    let names = services["services"].as_array().into_iter().flatten();
    let mut all = Vec::new();
    for name in names.filter_map(Value::as_str) {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if !name.starts_with(|first: char| first.is_ascii_lowercase()) || !name.bytes().all(good) {
            let why = format!("the sidecar names a service {name:?}, which no bundle does");
            return Err(Failure::Refused(why));
        }
        let upper = name.to_ascii_uppercase();
        all.push((
            format!("{upper}_BASE_URL"),
            format!("http://{address}/{name}"),
        ));
        all.push((format!("{upper}_API_KEY"), placeholder.to_owned()));
    }
    Ok(all)
}

/// Where programs look for a proxy, and for the authorities that they trust.
fn proxy_variables(
    services: &Value,
    placeholder: &str,
    authority: &Path,
) -> Result<Vec<(String, String)>, Failure> {
    let address = address(services)?;
    let file = authority.display().to_string();
    let proxy = format!("http://x:{placeholder}@{address}");
    let proxies = ["HTTPS_PROXY", "https_proxy"].map(|name| (name.to_owned(), proxy.clone()));
    let files = AUTHORITY_FILES.map(|name| (name.to_owned(), file.clone()));
    let node = [("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned())];
    Ok(proxies.into_iter().chain(files).chain(node).collect())
}

/// The enclave's authority and this host's own, in a file that anybody may read: most programs take one file in
/// place of what they trust otherwise.
fn authority_file(pem: &str) -> Result<NamedTempFile, Failure> {
    // Who has named a file trusts nobody beside it.
    let named = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty());
    let own = match named {
        Some(file) => {
            let why = |error| Failure::Usage(format!("SSL_CERT_FILE: {error}"));
            std::fs::read(file).map_err(why)?
        }
        None => HOST_AUTHORITIES
            .iter()
            .find_map(|file| std::fs::read(file).ok())
            .unwrap_or_default(),
    };
    let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    let mut file = tempfile::Builder::new()
        .prefix("anchorhold-ca-")
        .suffix(".pem")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(&[pem.as_bytes(), &own].concat())?;
    Ok(file)
}

/// What the sidecar says to be the authority: one certificate, and nothing beside it.
fn one_certificate(pem: &[u8]) -> Result<String, Failure> {
    let odd = || Failure::Refused("the sidecar names no certificate authority".into());
    let (label, der) = pem_rfc7468::decode_vec(pem).map_err(|_| odd())?;
    if label != "CERTIFICATE" {
        return Err(odd());
    }
    pem_rfc7468::encode_string(label, LineEnding::LF, &der).map_err(|_| odd())
}

fn address(services: &Value) -> Result<&str, Failure> {
    services["address"].as_str().ok_or_else(|| {
        let why = "the sidecar has no port for services: [proxy] listen";
        Failure::Refused(why.to_owned())
    })
}

fn write_private(text: &str) -> Result<PathBuf, Failure> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let config = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")))
        .ok_or_else(|| Failure::Usage("neither XDG_CONFIG_HOME nor HOME is set".into()))?;
    let folder = config.join("agentkeys");
    let file = folder.join("env");
    let written = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .and_then(|()| {
            // Never readable for others, not even for a moment.
            let beside = folder.join(".env.new");
            let _ = std::fs::remove_file(&beside);
            let mut opened = std::fs::OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&beside)?;
            opened.write_all(text.as_bytes())?;
            std::fs::rename(beside, &file)
        });
    written.map_err(|source| enclave_client::Error::File {
        file: file.clone(),
        source,
    })?;
    Ok(file)
}

impl Run {
    /// Gives the exit code of the command.
    pub(super) fn run(self) -> Result<u8, Failure> {
        let mut path = "/placeholder".to_owned();
        if let Some(identity) = &self.identity {
            path = format!("{path}?identity={}", in_path("--identity", identity)?);
        }
        block_on(async {
            let held = self.connection.client()?.hold(&path).await?;
            let services = answer(held.line())?;
            let placeholder = services["placeholder"].as_str().unwrap_or_default();
            let mut variables = variables(&services, placeholder)?;
            // Until the command has ended.
            let mut _authority = None;
            if services["https_proxy"] == true {
                let client = self.connection.client()?;
                let pem = match self.attested.wanted() {
                    Some(attested) => attested.fetch(&client).await?,
                    None => one_certificate(&client.call("/ca", None).await?)?,
                };
                let file = authority_file(&pem)?;
                variables.extend(proxy_variables(&services, placeholder, file.path())?);
                _authority = Some(file);
            }
            // It ends the placeholder when it is dropped: with the child.
            let ended = tokio::task::spawn_blocking(move || start(&self.command, variables)).await;
            drop(held);
            let ended = ended.unwrap_or_else(|error| Err(Failure::Refused(error.to_string())));
            ended.map(exit_code)
        })?
    }
}

fn start(command: &[String], variables: Vec<(String, String)>) -> Result<ExitStatus, Failure> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Failure::Usage("a command".into()))?;
    let mut child = Command::new(program);
    child.args(arguments).envs(variables);
    // What goes to this host goes to no proxy.
    let mut direct = std::env::var("NO_PROXY").unwrap_or_default();
    if !direct.split(',').any(|host| host.trim() == "127.0.0.1") {
        let before = if direct.is_empty() { "" } else { "," };
        direct = format!("{direct}{before}localhost,127.0.0.1");
    }
    child.env("NO_PROXY", &direct).env("no_proxy", &direct);
    let ended = child.status();
    ended.map_err(|error| Failure::Usage(format!("{program}: {error}")))
}

/// As shells say it: 128 and the signal, if one ended it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(70)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_shell_reads_is_a_name_and_one_word() {
        let services = |name: &str, address: &str| json!({"services": [name], "address": address});
        let good = variables(&services("api_2", "127.0.0.1:9090"), "x").ok();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let wanted = [
            pair("API_2_BASE_URL", "http://127.0.0.1:9090/api_2"),
            pair("API_2_API_KEY", "x"),
        ];
        assert_eq!(good, Some(wanted.to_vec()));
        for odd in [
            "", "2api", "_api", "API", "a;b", "a=b", "a b", "a\nb", "a$(b)", "a/b",
        ] {
            let refused = variables(&services(odd, "127.0.0.1:9090"), "x");
            assert!(matches!(refused, Err(Failure::Refused(_))), "{odd:?}");
        }
        for value in [
            "plain",
            "",
            "it's",
            "'; touch evil; '",
            "$(evil) `evil` \"\\\n",
        ] {
            let script = format!("printf %s {}", shell_quoted(value));
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        }
    }
}
