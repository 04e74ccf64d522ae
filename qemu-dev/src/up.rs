//! `anchorhold-dev up`: a mock enclave and a sidecar, until Ctrl-C.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use parent_proxy::cli::default_socket;
use parent_proxy::{Client, Config, Target};
use protocol::Endpoint;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use crate::state::private_folder;
use crate::{Child, DurableState, Error, Program, State};

/// What `up` is started with.
#[derive(Debug, Clone)]
pub struct Up {
    /// The state directory; a temporary one if not given.
    pub state: Option<PathBuf>,
    /// The state directory whose keys last: a mock of AWS keeps them.
    pub durable: Option<PathBuf>,
    /// The sidecar's socket; that of the configuration, or the default one, if not given.
    pub socket: Option<PathBuf>,
}

/// Runs both processes until one ends or a signal comes. A caller that stops it early cleans up by
/// dropping it.
pub async fn up(options: &Up) -> Result<(), Error> {
    let mut told = Signals::new([SIGTERM, SIGINT]).map_err(io)?;
    tokio::select! {
        ended = run(options) => ended,
        signal = told.next() => {
            if signal == Some(SIGTERM) {
                return Ok(());
            }
            let keys = match &options.durable {
                None => "the keys are gone".into(),
                Some(folder) => format!("the keys are kept in {}", folder.display()),
            };
            let _ = writeln!(std::io::stderr(), "stopped; {keys}");
            Ok(())
        }
    }
}

async fn run(options: &Up) -> Result<(), Error> {
    let temporary = private_folder().map_err(io)?;
    let folder = options.durable.as_ref().or(options.state.as_ref());
    let state = State::open(folder.map_or(temporary.path(), PathBuf::as_path))?;
    let _lock = state.lock()?;
    state.verifier_files()?;
    let program = Program::this()?;
    let lasting = options
        .durable
        .as_ref()
        .map(|_| DurableState::prepare(&state));
    let lasting = lasting.transpose()?;
    let (config, socket) = configuration(&state, options.socket.as_deref(), lasting.as_ref())?;
    if UnixStream::connect(&socket).is_ok() {
        return Err(Error::State(format!(
            "{}: another process listens there; name another --socket",
            socket.display()
        )));
    }
    let aws = lasting.as_ref().map(|lasting| {
        if lasting.certify_if_needed()? {
            say("as the operator, certified this program under this bundle\n")?;
        }
        lasting.start(&program, None, &["--with-parent"])
    });
    let mut running = Pair {
        aws: aws.transpose()?,
        enclave: program.start_listening_enclave(&state, None, &["--with-parent"])?,
        sidecar: program.start_sidecar(&config, None, &["--with-parent"])?,
        enclave_socket: state.enclave_socket(),
    };
    let client = Client::new(Target::Unix(socket.clone()), None);
    if let Some(lasting) = &lasting {
        wait_for_state(&client, lasting, &mut running).await?;
    }
    wait_until_ready(&client, &mut [&mut running.enclave, &mut running.sidecar]).await?;
    // A policy may well give this user several identities, or none; both are fine.
    let identity = client.call("/identity", None).await;
    let sockets: Vec<PathBuf> = Config::read(&config)
        .map_err(|error| Error::State(error.to_string()))?
        .sockets
        .into_iter()
        .map(|named| named.path)
        .collect();
    keep_evidence(std::iter::once(&socket).chain(&sockets), &state).await?;
    let fate = match lasting {
        None => "they end with this program (Ctrl-C)",
        Some(_) => "a mock of AWS, in files/aws, keeps them beyond Ctrl-C",
    };
    let says = match identity {
        Ok(identity) => next_steps(&socket, &state, &did_of(&identity), fate),
        Err(error) => whom_to_ask(&socket, &sockets, &state, &error.to_string(), fate),
    };
    std::io::stdout().write_all(says.as_bytes()).map_err(io)?;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        running.check()?;
    }
}

/// Orders the birth of a state as the operator, if none is kept; the sidecar must be there for it.
async fn wait_for_state(
    client: &Client,
    lasting: &DurableState,
    running: &mut Pair,
) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        running.check()?;
        let status = client.call("/state", None).await;
        let asked = status.is_ok_and(|answer| {
            identity::json::parse(&answer).is_ok_and(|state| state["phase"] != "none")
        });
        if asked {
            break;
        }
        if Instant::now() > deadline {
            return Err(Error::Process(
                "the sidecar says nothing of its state".into(),
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if let Some(born) = lasting.birth_if_needed(client).await? {
        let id = born["state"].as_str().unwrap_or_default();
        say(&format!(
            "as the operator, ordered a birth: the state {id}\n"
        ))?;
    }
    Ok(())
}

/// The mock of AWS listens somewhere else after each start.
fn set_address(file: &Path, lasting: &DurableState) -> Result<(), Error> {
    let text = std::fs::read_to_string(file).map_err(io)?;
    if !text.lines().any(|line| line.starts_with("kms_address")) {
        return Err(Error::State(format!(
            "{}: it has no [aws] kms_address; this directory was not made with --durable",
            file.display()
        )));
    }
    let line = |line: &str| {
        if line.starts_with("kms_address") {
            format!("kms_address = \"{}\"\n", lasting.address())
        } else {
            format!("{line}\n")
        }
    };
    let text: String = text.lines().map(line).collect();
    std::fs::write(file, text).map_err(io)
}

fn say(text: &str) -> Result<(), Error> {
    std::io::stdout().write_all(text.as_bytes()).map_err(io)
}

/// Asks once for evidence, which the sidecar keeps beside the record: after the next start nothing
/// else could say what signed the record of this one. Some policies give this user no identity.
async fn keep_evidence<'a>(
    sockets: impl Iterator<Item = &'a PathBuf>,
    state: &State,
) -> Result<(), Error> {
    let (_, _, bundle) = state.verifier_files()?;
    let mut nonce = [0; 32];
    crate::nsm::os_random(&mut nonce);
    let nonce = data_encoding::HEXLOWER.encode(&nonce);
    for socket in sockets {
        let client = Client::new(Target::Unix(socket.clone()), None);
        for identity in &bundle.identities {
            let body = serde_json::json!({"nonce": nonce, "identity": identity.name});
            if client.call("/attestation", Some(&body)).await.is_ok() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The sidecar's configuration and socket: the file that lies in the directory, as whoever edited
/// it left it; one is written only if there is none.
fn configuration(
    state: &State,
    socket: Option<&Path>,
    lasting: Option<&DurableState>,
) -> Result<(PathBuf, PathBuf), Error> {
    let file = state.sidecar_config();
    let asked = socket.map(std::path::absolute).transpose().map_err(io)?;
    let wrong = |why: String| Err(Error::State(format!("{}: {why}", file.display())));
    if !file.exists() {
        let socket = asked
            .map_or_else(default_socket, Ok)
            .map_err(|error| Error::State(error.to_string()))?;
        let more = "log_format = \"text\"\nlog_level = \"warn\"\n";
        let more = more.to_owned() + &lasting.map(DurableState::sidecar_lines).unwrap_or_default();
        return Ok((state.write_sidecar_config(&socket, &more)?, socket));
    }
    if let Some(lasting) = lasting {
        set_address(&file, lasting)?;
    }
    let kept = match Config::read(&file) {
        Ok(kept) => kept,
        Err(error) => return wrong(error.to_string()),
    };
    let own = Endpoint::Unix(state.enclave_socket());
    if kept.enclave != own {
        return wrong(format!(
            "enclave is {}, and the one of this directory is {own}; change it there, or remove the file",
            kept.enclave
        ));
    }
    match asked {
        Some(asked) if asked != kept.socket => wrong(format!(
            "socket is {}; change it there, or leave --socket and ANCHORHOLD_SOCKET out",
            kept.socket.display()
        )),
        _ => Ok((file, kept.socket)),
    }
}

fn io(source: std::io::Error) -> Error {
    Error::Io {
        what: "up".into(),
        source,
    }
}

/// Both processes. Dropped, the sidecar is asked to drain, so that its socket goes, and the enclave
/// ends.
struct Pair {
    aws: Option<Child>,
    enclave: Child,
    sidecar: Child,
    enclave_socket: PathBuf,
}

impl Pair {
    fn check(&mut self) -> Result<(), Error> {
        let aws = self.aws.as_mut().map(|aws| ("mock AWS", aws));
        let others = [
            ("mock enclave", &mut self.enclave),
            ("sidecar", &mut self.sidecar),
        ];
        for (name, child) in others.into_iter().chain(aws) {
            if let Some(status) = child.ended() {
                return Err(Error::Process(format!("the {name} ended: {status}")));
            }
        }
        Ok(())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = self.sidecar.stop();
        let _ = self.enclave.stop();
        if let Some(aws) = &mut self.aws {
            let _ = aws.stop();
        }
        let _ = std::fs::remove_file(&self.enclave_socket);
    }
}

fn did_of(identity: &[u8]) -> String {
    let identity: Value = serde_json::from_slice(identity).unwrap_or_default();
    identity["did"].as_str().unwrap_or_default().to_owned()
}

/// Waits until a signature could be made, or a process has ended, or half a minute has gone.
pub(crate) async fn wait_until_ready(
    client: &Client,
    children: &mut [&mut Child],
) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let error = match client.call("/ready", None).await {
            Ok(_) if children.iter_mut().all(|child| child.ended().is_none()) => return Ok(()),
            Ok(_) => "somebody else answered".to_owned(),
            Err(error) => error.to_string(),
        };
        if let Some(status) = children.iter_mut().find_map(|child| child.ended()) {
            return Err(Error::Process(format!(
                "a process ended before it was ready ({status})"
            )));
        }
        if Instant::now() > deadline {
            return Err(Error::Process(format!("not ready after 30 s: {error}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How the programs beside this one are started: as this one was built, so that nothing is compiled
/// twice; or by name, where it was installed.
fn command(name: &str) -> String {
    let built = std::env::current_exe()
        .is_ok_and(|program| program.iter().any(|folder| folder == "target"));
    if !built {
        return name.to_owned();
    }
    let release = if cfg!(debug_assertions) {
        ""
    } else {
        " --release"
    };
    format!("cargo run{release} --bin {name} --")
}

/// Where this user may use no identity, or several, through the sidecar's own socket.
fn whom_to_ask(socket: &Path, sockets: &[PathBuf], state: &State, why: &str, fate: &str) -> String {
    let anchorhold = command("anchorhold");
    let mut text = format!(
        "Anchorhold is up, in MOCK mode: no hardware protects these keys, and {fate}.\n  \
         socket     unix://{}\n",
        socket.display()
    );
    for named in sockets {
        text.push_str(&format!("  socket     unix://{}\n", named.display()));
    }
    text.push_str(&format!(
        "  files      {}\n\nNo identity is the only one here that you may use through the first socket ({why}). What you are to each, and \
         may use:\n\n",
        state.folder().display()
    ));
    for one in std::iter::once(socket).chain(sockets.iter().map(PathBuf::as_path)) {
        text.push_str(&format!(
            "  {anchorhold} status --endpoint unix://{}\n",
            one.display()
        ));
    }
    text
}

fn next_steps(socket: &Path, state: &State, did: &str, fate: &str) -> String {
    let (socket, folder) = (socket.display(), state.folder().display());
    let (anchorhold, verify) = (command("anchorhold"), command("anchorhold-verify"));
    format!(
        r#"Anchorhold is up, in MOCK mode: no hardware protects these keys, and {fate}.
  identity   {did}
  socket     unix://{socket}
  files      {folder}

Paste this into another terminal: sign, fetch evidence for a challenge of your own, verify offline.

  curl -s --unix-socket {socket} http://localhost/sign -H 'content-type: application/json' \
    -d '{{"payload":{{"action":"transfer","amount":100,"recipient":"account_123"}},"intent":"authorization"}}' | tee answer.json
  python3 -c 'import json; a = json.load(open("answer.json")); print(a.get("vouch_token") or exit(a.get("detail", a)))' > token.txt

  NONCE=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
  curl -s --unix-socket {socket} http://localhost/attestation -H 'content-type: application/json' \
    -d "{{\"nonce\":\"$NONCE\"}}" -o evidence.cbor

  {verify} token token.txt --evidence evidence.cbor --nonce $NONCE \
    --measurements {folder}/measurements.json --bundle {folder}/policy.toml --allow-mock --root {folder}/mock-root.pem

Who you are to it, and what is left of your limits:

  {anchorhold} status --endpoint unix://{socket}

Whatever was decided stands in a signed record, refusals too:

  {anchorhold} audit verify {folder}/record/*.jsonl --evidence {folder}/record
"#
    )
}
