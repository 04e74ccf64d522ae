//! `anchorhold-dev up`: a mock enclave and a sidecar, until Ctrl-C.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parent_proxy::{Client, ClientError, Target};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::state::private_folder;
use crate::{Child, Error, Program, State};

/// What `up` is started with.
#[derive(Debug, Clone)]
pub struct Up {
    /// The state directory; a temporary one if not given.
    pub state: Option<PathBuf>,
    /// The sidecar's socket.
    pub socket: PathBuf,
}

/// Runs both processes until one ends or a signal comes.
pub async fn up(options: &Up) -> Result<(), Error> {
    let io = |source| Error::Io { what: "up".into(), source };
    let temporary = private_folder().map_err(io)?;
    let state = State::open(options.state.as_deref().unwrap_or(temporary.path()))?;
    let program = Program::this()?;
    let mut enclave = program.start_listening_enclave(&state, None, &["--with-parent"])?;
    let config = state.write_sidecar_config(&options.socket, "log_format = \"text\"\nlog_level = \"warn\"\n")?;
    let mut sidecar = program.start_sidecar(&config, None, &["--with-parent"])?;
    let client = Client::new(Target::Unix(options.socket.clone()), None);
    wait_until_ready(&client, &mut [&mut enclave, &mut sidecar]).await?;
    let identity = client.call("/identity", None).await.map_err(|error| Error::State(error.to_string()))?;
    let did = did_of(&identity);
    std::io::stdout().write_all(next_steps(&options.socket, &state, &did).as_bytes()).map_err(io)?;

    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate()).map_err(io)?, signal(SignalKind::interrupt()).map_err(io)?);
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = tick.tick() => {
                for child in [&mut enclave, &mut sidecar] {
                    if let Some(status) = child.ended() {
                        return Err(Error::State(format!("a process ended: {status}")));
                    }
                }
            }
        }
    }
    sidecar.stop()?;
    enclave.stop()?;
    // The enclave was told to go; its socket goes with it.
    let _ = std::fs::remove_file(state.enclave_socket());
    Ok(())
}

fn did_of(identity: &[u8]) -> String {
    let identity: Value = serde_json::from_slice(identity).unwrap_or_default();
    identity["did"].as_str().unwrap_or_default().to_owned()
}

/// Waits until a signature could be made, or a process has ended, or half a minute has gone.
pub(crate) async fn wait_until_ready(client: &Client, children: &mut [&mut Child]) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let error = match client.call("/ready", None).await {
            Ok(_) => return Ok(()),
            Err(ClientError::Unreachable { why, .. }) => why,
            Err(error) => error.to_string(),
        };
        if let Some(status) = children.iter_mut().find_map(|child| child.ended()) {
            return Err(Error::State(format!("a process ended before it was ready ({status})")));
        }
        if Instant::now() > deadline {
            return Err(Error::State(format!("not ready after 30 s: {error}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn next_steps(socket: &Path, state: &State, did: &str) -> String {
    let (socket, folder) = (socket.display(), state.folder().display());
    format!(
        r#"Anchorhold is up, in MOCK mode: no hardware protects these keys, and they end with this program (Ctrl-C).
  identity   {did}
  socket     unix://{socket}
  files      {folder}

Paste this into another terminal: sign, fetch evidence for a challenge of your own, verify offline.

  curl -s --unix-socket {socket} http://localhost/sign -H 'content-type: application/json' \
    -d '{{"payload":{{"action":"transfer","amount":100,"recipient":"account_123"}},"intent":"authorization"}}' | tee answer.json
  python3 -c 'import json; print(json.load(open("answer.json"))["vouch_token"])' > token.txt

  NONCE=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
  curl -s --unix-socket {socket} http://localhost/attestation -H 'content-type: application/json' \
    -d "{{\"nonce\":\"$NONCE\"}}" -o evidence.cbor

  cargo run --release --bin anchorhold-verify -- token token.txt --evidence evidence.cbor --nonce $NONCE \
    --measurements {folder}/measurements.json --policy {folder}/policy.toml --allow-mock --root {folder}/mock-root.pem
"#
    )
}
