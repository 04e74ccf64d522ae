//! The last chapter: an enclave is killed, and its keys are there again.

use std::path::Path;
use std::time::{Duration, Instant};

use parent_proxy::{Client, Target};

use super::{Narrator, io, parse};
use crate::state::private_folder;
use crate::up::wait_until_ready;
use crate::{Child, DurableState, Error, Program, State};

/// Born under a mock of KMS, killed, and opened again.
pub(super) async fn tell(narrator: &mut Narrator) -> Result<(), Error> {
    let folder = private_folder().map_err(io)?;
    let state = State::open(folder.path())?;
    let lasting = DurableState::prepare(&state)?;
    let program = Program::this()?;
    let log = folder.path().join("log");
    let more = ["--with-parent"];
    let mut aws = lasting.start(&program, Some(&log), &more)?;
    let mut enclave = program.start_listening_enclave(&state, Some(&log), &more)?;
    let socket = folder.path().join("run").join("sidecar.sock");
    let config = state.write_sidecar_config(&socket, &lasting.sidecar_lines())?;
    let mut sidecar = program.start_sidecar(&config, Some(&log), &more)?;
    let client = Client::new(Target::Unix(socket.clone()), None);
    wait_for_state(&client, &socket).await?;
    lasting.birth_if_needed(&client).await?;
    let before = identity(&client, [&mut enclave, &mut sidecar]).await?;
    enclave.kill()?;
    let mut enclave = program.start_listening_enclave(&state, Some(&log), &more)?;
    let after = identity(&client, [&mut enclave, &mut sidecar]).await?;
    let did = before["did"].as_str().unwrap_or_default();
    let same = ["did", "kid", "state"]
        .iter()
        .all(|name| before[*name] == after[*name]);
    let ok = same && before["boot_id"] != after["boot_id"] && after["custody"] == "kms";
    sidecar.stop()?;
    enclave.stop()?;
    aws.stop()?;
    narrator.step(
        "Keys that are kept outlived an enclave that was killed",
        ok,
        &format!(
            "{did}\nAn operator ordered the birth of its state; a mock of AWS KMS wraps what it is sealed under, for this program and policy\n\
             alone; after kill -9 another boot opened it. Custody is \"kms\", rollback is \"accepted\": docs/durability.md."
        ),
    );
    folder.close().map_err(io)
}

async fn identity(
    client: &Client,
    mut children: [&mut Child; 2],
) -> Result<serde_json::Value, Error> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        wait_until_ready(client, &mut children).await?;
        // The sidecar may not have noticed yet that the boot before is gone.
        match client.call("/identity", None).await {
            Ok(answer) => return parse(&answer),
            Err(error) if Instant::now() > deadline => return Err(Error::State(error.to_string())),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn wait_for_state(client: &Client, socket: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !socket.exists() || client.call("/state", None).await.is_err() {
        if Instant::now() > deadline {
            return Err(Error::Process(
                "the sidecar says nothing of its state".into(),
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
