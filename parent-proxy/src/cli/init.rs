//! The first files of an operator: a bundle, the sidecar's configuration, and a table of tests.

use std::fmt::Display;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use identity::Signer;
use policy::Bundle;
use protocol::Endpoint;

use super::{Failure, shell_quoted};
use crate::{Config, KeyFile};

/// What is not given is asked on a terminal; elsewhere the defaults count.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The folder to write into; made if missing
    folder: PathBuf,
    /// `development` to try it with `anchorhold-dev up`, or `production` [default: development]
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// Name of the agent's identity [default: agent]
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// User id of the agent, a number [default: yours]
    #[arg(long, value_name = "N")]
    uid: Option<u32>,
    /// What it may do; may be repeated, and end in `*` [default: read]
    #[arg(long, value_name = "ACTION", value_delimiter = ',')]
    action: Vec<String>,
    /// Where it may do that; may be repeated, and end in `*` [default: *]
    #[arg(long, value_name = "RESOURCE", value_delimiter = ',')]
    resource: Vec<String>,
    /// How many signatures it may have in an hour [default: 1000]
    #[arg(long, value_name = "N")]
    per_hour: Option<u64>,
    /// Where the enclave is [default: unix://FOLDER/enclave.sock for development, else
    /// vsock://16:5005]
    #[arg(long, value_name = "URI")]
    enclave: Option<String>,
    /// The socket for agents [default: FOLDER/sidecar.sock for development, else that of `serve`]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

const FILES: [&str; 5] = [
    "proxy.key",
    "operator.key",
    "policy.toml",
    "policy-tests.toml",
    "sidecar.toml",
];

/// Every question answered.
struct Answers {
    mode: &'static str,
    identity: String,
    uid: u32,
    actions: Vec<String>,
    resources: Vec<String>,
    per_hour: u64,
}

impl Init {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<(), Failure> {
        let there = |name: &&str| self.file(name).symlink_metadata().is_ok();
        if let Some(name) = FILES.iter().find(|name| there(name)) {
            return Err(Failure::Usage(format!(
                "{} is there already; nothing was written",
                self.file(name).display()
            )));
        }
        let answers = self.ask()?;
        let socket = self
            .socket
            .as_deref()
            .map(std::path::absolute)
            .transpose()?;
        // What is wrong is found before anything is written; the keys are no part of it.
        let stand_in = "z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK";
        let other = "z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";
        let wrong = |why: String| Failure::Usage(format!("{why}; nothing was written"));
        Bundle::from_toml(&answers.bundle(stand_in, other))
            .map_err(|error| wrong(error.to_string()))?;
        if let Some(enclave) = &self.enclave {
            enclave
                .parse::<Endpoint>()
                .map_err(|error| wrong(format!("enclave {enclave:?}: {error}")))?;
        }
        let made = self.folder.symlink_metadata().is_err();
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&self.folder)
            .map_err(|source| self.failed(&self.folder, source))?;
        self.check_folder(answers.mode)?;
        let written = self.write_all(&answers, socket.as_deref());
        if written.is_err() {
            // Nothing half stays. None of these was there before.
            for name in FILES {
                let _ = std::fs::remove_file(self.file(name));
            }
            if made {
                let _ = std::fs::remove_dir(&self.folder);
            }
        }
        written?;
        Ok(out.write_all(self.next_steps(answers.mode).as_bytes())?)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes the files, and tries them: the table on the bundle, and the configuration.
    fn write_all(&self, answers: &Answers, socket: Option<&Path>) -> Result<(), Failure> {
        let folder = std::path::absolute(&self.folder)?;
        let key = |name: &str| KeyFile::create(&self.file(name));
        let (proxy, operator) = (key("proxy.key")?, key("operator.key")?);
        let [proxy, operator] = [proxy, operator].map(|key| key.public_key().to_multikey());
        self.write("policy.toml", &answers.bundle(&proxy, &operator))?;
        self.write("policy-tests.toml", &answers.tests())?;
        let sidecar = self.sidecar(answers.mode, socket, &folder);
        self.write("sidecar.toml", &sidecar)?;
        Config::read(&self.file("sidecar.toml"))?;
        super::policy::test(&mut std::io::sink(), &self.file("policy-tests.toml"))
    }

    /// In a folder that others can write they could put other files in the place of these; and the
    /// socket of development lies in it, closed to others.
    fn check_folder(&self, mode: &str) -> Result<(), Failure> {
        let found = std::fs::metadata(&self.folder);
        let found = found.map_err(|source| self.failed(&self.folder, source))?;
        let (open, how) = if mode == "development" {
            (0o077, "700")
        } else {
            (0o022, "go-w")
        };
        let own = found.uid() == rustix::process::geteuid().as_raw();
        if own && found.mode() & open == 0 {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "{}: it is somebody else's, or open to others; name a folder of your own, or chmod {how} it. Nothing was written",
            self.folder.display()
        )))
    }

    fn ask(&self) -> Result<Answers, Failure> {
        let asking = Asking {
            terminal: std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
        };
        let mode = asking.one(
            "development or production",
            self.mode.clone(),
            "development".to_owned(),
        )?;
        let mode = match mode.as_str() {
            "development" => "development",
            "production" => "production",
            other => {
                return Err(Failure::Usage(format!(
                    "the mode is development or production, not {other:?}"
                )));
            }
        };
        let own = rustix::process::geteuid().as_raw();
        Ok(Answers {
            mode,
            identity: asking.one(
                "name of the agent's identity",
                self.identity.clone(),
                "agent".into(),
            )?,
            uid: asking.one("user id that the agent runs as", self.uid, own)?,
            actions: asking.several("what it may do", &self.action, "read")?,
            resources: asking.several("where it may do that", &self.resource, "*")?,
            per_hour: asking.one("signatures in an hour, at most", self.per_hour, 1000)?,
        })
    }

    fn sidecar(&self, mode: &str, socket: Option<&Path>, folder: &Path) -> String {
        let development = mode == "development";
        let enclave = self.enclave.clone().unwrap_or_else(|| {
            if development {
                format!("unix://{}", folder.join("enclave.sock").display())
            } else {
                "vsock://16:5005".into()
            }
        });
        let socket = match (socket, development) {
            (Some(socket), _) => Some(socket.display().to_string()),
            (None, true) => Some("sidecar.sock".into()),
            (None, false) => None,
        };
        let socket = socket.map_or_else(
            || "# socket = \"/run/anchorhold/sidecar.sock\"   # the default for root\n".into(),
            |socket| format!("socket = {}\n", quoted(&socket)),
        );
        let logs = if development {
            "log_format = \"text\"\nlog_level = \"warn\"\n"
        } else {
            ""
        };
        format!(
            "enclave = {}\nbundle = \"policy.toml\"\nproxy_key = \"proxy.key\"\n{socket}record = \"record\"\n{logs}",
            quoted(&enclave)
        )
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let file = self.folder.join(name);
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&file);
        opened
            .and_then(|mut opened| opened.write_all(text.as_bytes()))
            .map_err(|source| self.failed(&file, source))
    }

    fn failed(&self, file: &Path, source: std::io::Error) -> Failure {
        let file = file.to_owned();
        enclave_client::Error::File { file, source }.into()
    }

    fn next_steps(&self, mode: &str) -> String {
        let name = self.folder.display().to_string();
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        let folder = if name.chars().all(plain) {
            name
        } else {
            shell_quoted(&name)
        };
        let run = if mode == "development" {
            format!("anchorhold-dev up --state {folder}")
        } else {
            format!("anchorhold serve --config {folder}/sidecar.toml")
        };
        format!(
            "{folder} has a policy bundle, a table of tests for it, the sidecar's configuration, and two keys.\n\
             operator.key orders what callers may not: keep it where no agent runs.\n\n\
             anchorhold policy test {folder}/policy-tests.toml\n\
             anchorhold serve --check --config {folder}/sidecar.toml\n\
             {run}\n"
        )
    }
}

impl Answers {
    fn bundle(&self, proxy_key: &str, operator_key: &str) -> String {
        let Self {
            mode,
            identity,
            uid,
            actions,
            resources,
            per_hour,
        } = self;
        format!(
            "# Who may get which signature: docs/policy.md\n\
             version = 1\nmode = \"{mode}\"\nproxy_key = \"{proxy_key}\"\noperator_key = \"{operator_key}\"\n\n\
             [[identities]]\nname = {}\nenvironment = \"{mode}\"\ndid = \"did:key\"\nalgorithm = \"EdDSA\"\n\
             max_validity_seconds = 3600\ncallers = {{ uids = [{uid}] }}\nlimits = [{{ per = \"hour\", max = {per_hour} }}]\n\n\
             [[identities.rules]]\nname = \"first\"\nactions = {}\ntargets = [\"*\"]\nresources = {}\n",
            quoted(identity),
            list(actions),
            list(resources)
        )
    }

    /// What it should allow, and what it should not.
    fn tests(&self) -> String {
        let uid = self.uid;
        let (action, resource) = (example(&self.actions), example(&self.resources));
        let test = |name: &str, uid: u32, action: &str, resource: &str, expect: &str| {
            format!(
                "\n[[tests]]\nname = \"{name}\"\ncaller = {{ uid = {uid} }}\naction = {}\nresource = {}\nexpect = \"{expect}\"\n",
                quoted(action),
                quoted(resource)
            )
        };
        let mut text = "# anchorhold policy test FILE\nbundle = \"policy.toml\"\n".to_owned();
        text += &test("the agent may", uid, &action, &resource, "allow");
        let nobody = uid.wrapping_add(1);
        text += &test(
            "another user may not",
            nobody,
            &action,
            &resource,
            "caller_not_allowed",
        );
        let any = |patterns: &[String]| patterns.iter().any(|pattern| pattern == "*");
        let other = "an-action-that-nobody-named";
        if !any(&self.actions) && !self.actions.iter().any(|action| prefixes(action, other)) {
            let code = "intent_action_not_in_allowlist";
            text += &test("nothing else may be done", uid, other, &resource, code);
        }
        let other = "https://elsewhere.invalid/";
        if !any(&self.resources) && !self.resources.iter().any(|one| prefixes(one, other)) {
            let code = "intent_resource_out_of_scope";
            text += &test("nor elsewhere", uid, &action, other, code);
        }
        text
    }
}

/// Something that the first of these patterns accepts.
fn example(patterns: &[String]) -> String {
    let first = patterns.first().map_or("", String::as_str);
    first
        .strip_suffix('*')
        .map_or_else(|| first.to_owned(), |prefix| format!("{prefix}x"))
}

fn prefixes(pattern: &str, text: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(pattern == text, |prefix| text.starts_with(prefix))
}

struct Asking {
    terminal: bool,
}

impl Asking {
    /// What was given; or what is typed, the default for nothing; or the default.
    fn one<T: FromStr + Display>(
        &self,
        question: &str,
        given: Option<T>,
        default: T,
    ) -> Result<T, Failure> {
        if given.is_some() || !self.terminal {
            return Ok(given.unwrap_or(default));
        }
        let typed = self.line(&format!("{question} [{default}]: "))?;
        if typed.is_empty() {
            return Ok(default);
        }
        typed.parse().map_err(|_| {
            Failure::Usage(format!(
                "{question}: {typed:?} is none; nothing was written"
            ))
        })
    }

    fn several(
        &self,
        question: &str,
        given: &[String],
        default: &str,
    ) -> Result<Vec<String>, Failure> {
        if !given.is_empty() {
            return Ok(given.to_vec());
        }
        let typed = self.one(
            &format!("{question}, separated by commas"),
            None,
            default.to_owned(),
        )?;
        let all = typed
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty());
        Ok(all.map(str::to_owned).collect())
    }

    fn line(&self, question: &str) -> Result<String, Failure> {
        let mut terminal = std::io::stderr().lock();
        terminal.write_all(question.as_bytes())?;
        terminal.flush()?;
        let mut typed = String::new();
        if std::io::stdin().lock().read_line(&mut typed)? == 0 {
            return Err(Failure::Usage("nothing was written".into()));
        }
        Ok(typed.trim().to_owned())
    }
}

fn list(all: &[String]) -> String {
    let all: Vec<String> = all.iter().map(|one| quoted(one)).collect();
    format!("[{}]", all.join(", "))
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
