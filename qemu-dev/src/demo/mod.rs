//! The whole story once: a key is born in an enclave process, an agent gets a signature over HTTP,
//! a stranger verifies it offline, and every forgery of it is refused for the reason that it should
//! be.

mod attacks;
mod credentials;
mod forge;
mod gateway;
mod lasting;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use attestation::{Expectations, Measurements, MockRoot, Subject, Verifier};
use data_encoding::HEXLOWER;
use futures_util::StreamExt;
use identity::UnixSeconds;
use parent_proxy::{Client, Target};
use policy::PolicyDigest;
use serde::Serialize;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use crate::nsm::os_random;
use crate::state::private_folder;
use crate::up::wait_until_ready;
use crate::{Child, Error, Program, State};

/// What came of it, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The steps of the story.
    pub steps: Vec<Step>,
    /// The forgeries.
    pub attacks: Vec<Attack>,
}

/// One step.
#[derive(Debug, Serialize)]
pub struct Step {
    /// What was done.
    pub name: &'static str,
    /// Whether it went as it should.
    pub ok: bool,
}

/// One forgery.
#[derive(Debug, Serialize)]
pub struct Attack {
    /// What was altered.
    pub name: &'static str,
    /// The code with which it must be refused.
    pub expected_code: &'static str,
    /// What the verifier said: a code, or `accepted`.
    pub actual_code: String,
}

impl Report {
    fn all_held(&self) -> bool {
        self.steps.iter().all(|step| step.ok)
            && self
                .attacks
                .iter()
                .all(|attack| attack.expected_code == attack.actual_code)
    }
}

/// Everything a verifier has in hand after the story.
struct Accepted {
    token: String,
    /// A token of the other identity, which the same enclave holds.
    other_token: String,
    evidence: Vec<u8>,
    /// Evidence for the same key and another nonce.
    other_evidence: Vec<u8>,
    nonce: Vec<u8>,
    at: UnixSeconds,
    root: MockRoot,
    measurements: Vec<Measurements>,
    policies: Vec<PolicyDigest>,
}

impl Accepted {
    /// What a verifier expects who expects everything.
    fn expectations(&self) -> Expectations {
        Expectations {
            nonce: Some(self.nonce.clone()),
            measurements: self.measurements.clone(),
            policies: self.policies.clone(),
            ..Expectations::default()
        }
    }

    /// That verifier.
    fn verifier(&self) -> Verifier {
        let (expectations, allow_mock) = (self.expectations(), Some(self.root.clone()));
        Verifier {
            expectations,
            allow_mock,
            ..Verifier::at(self.at)
        }
    }

    fn verify(&self, narrator: &mut Narrator) {
        let verdict = self.verifier().judge(self.subject());
        let explanation = match &verdict {
            Ok(verdict) => format!(
                "The code of anchorhold-verify says: {}. Chain to the mock's root, signature, nonce, PCR0-2, policy (PCR16),\n\
                 binding, possession of the key and the token itself are all good. Without the mock's root it is nothing.",
                verdict.verdict
            ),
            Err(refusal) => format!("{}: {refusal}", refusal.code()),
        };
        let ok =
            verdict.is_ok_and(|verdict| verdict.verdict == "mock" && verdict.unchecked.is_empty());
        narrator.step(
            "A stranger verified token and evidence, offline",
            ok,
            &explanation,
        );
    }

    /// What it is shown.
    fn subject(&self) -> Subject<'_> {
        Subject::Token {
            token: &self.token,
            evidence: &self.evidence,
        }
    }
}

/// Runs the story. Exit code 0 only if everything held.
pub async fn run(as_json: bool) -> ExitCode {
    narrate(as_json, tell).await
}

/// Runs the story of the gateway. Exit code 0 only if everything held.
pub async fn run_gateway(as_json: bool) -> ExitCode {
    narrate(as_json, gateway::tell).await
}

/// Runs the story of a credential that nobody sees. Exit code 0 only if everything held.
pub async fn run_credentials(as_json: bool) -> ExitCode {
    narrate(as_json, credentials::tell).await
}

async fn narrate(
    as_json: bool,
    tell: impl AsyncFnOnce(&mut Narrator) -> Result<(), Error>,
) -> ExitCode {
    let mut narrator = Narrator {
        quiet: as_json,
        report: Report::default(),
    };
    let outcome = match Signals::new([SIGINT, SIGTERM]) {
        // Who is interrupted cleans up by being dropped.
        Ok(mut told) => tokio::select! {
            outcome = tell(&mut narrator) => outcome,
            _ = told.next() => Err(Error::State("interrupted".into())),
        },
        Err(source) => Err(Error::Io {
            what: "signals".into(),
            source,
        }),
    };
    let mut out = std::io::stdout();
    if as_json {
        let _ = writeln!(
            out,
            "{}",
            serde_json::to_value(&narrator.report).unwrap_or_default()
        );
    }
    if let Err(error) = outcome {
        let _ = writeln!(
            std::io::stderr(),
            "anchorhold-dev: the story broke off: {error}"
        );
        return ExitCode::from(70);
    }
    let held = narrator.report.all_held();
    narrator.say(if held {
        "\nEverything held."
    } else {
        "\nSOMETHING DID NOT HOLD: see FAILED above."
    });
    ExitCode::from(u8::from(!held))
}

struct Narrator {
    quiet: bool,
    report: Report,
}

impl Narrator {
    fn say(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    fn step(&mut self, name: &'static str, ok: bool, explanation: &str) {
        self.report.steps.push(Step { name, ok });
        let number = self.report.steps.len();
        self.say(&format!(
            "\n{number}. {}{name}\n   {}",
            if ok { "" } else { "FAILED: " },
            explanation.replace('\n', "\n   ")
        ));
    }

    fn attack(&mut self, attack: Attack) {
        let held = attack.expected_code == attack.actual_code;
        let mark = if held { "refused" } else { "FAILED " };
        self.say(&format!(
            "   {mark}  {:<44} {}",
            attack.name, attack.actual_code
        ));
        self.report.attacks.push(attack);
    }
}

async fn tell(narrator: &mut Narrator) -> Result<(), Error> {
    narrator.say("Anchorhold, the whole story, in MOCK mode: no hardware stands behind any of this, and the evidence says so.");
    let folder = private_folder().map_err(io)?;
    let state = State::open(folder.path())?;
    state.set_policy(
        &state
            .development_policy(&[("agent", "did:key", "EdDSA"), ("other", "did:key", "EdDSA")])?,
    )?;
    let mut stage = Stage::set(&state, folder.path()).map_err(|error| {
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        Error::Process(format!("{error}\n{log}"))
    })?;

    let accepted = stage.play(narrator, &state).await?;
    narrator.say("\nNow the forgeries. Each alters one thing in what was just accepted:");
    for attack in attacks::all(&accepted, &state)? {
        narrator.attack(attack);
    }
    let (sidecar, enclave) = (stage.sidecar.stop()?, stage.enclave.stop()?);
    let gone = !stage.socket.exists();
    let path = folder.path().to_owned();
    folder.close().map_err(io)?;
    let clean = sidecar.success() && gone && !path.exists() && !enclave.success();
    narrator.step(
        "Both processes are gone, and nothing is left behind",
        clean,
        "The keys ended with the enclave: they are ephemeral.",
    );
    lasting::tell(narrator).await
}

struct Stage {
    enclave: Child,
    sidecar: Child,
    client: Client,
    socket: std::path::PathBuf,
}

impl Stage {
    fn set(state: &State, folder: &Path) -> Result<Self, Error> {
        let program = Program::this()?;
        let log = folder.join("log");
        let enclave = program.start_listening_enclave(state, Some(&log), &["--with-parent"])?;
        // The directory of the socket must be the sidecar's own; it makes it.
        let socket = folder.join("run").join("sidecar.sock");
        let config = state.write_sidecar_config(&socket, "")?;
        let sidecar = program.start_sidecar(&config, Some(&log), &["--with-parent"])?;
        let client = Client::new(Target::Unix(socket.clone()), None);
        Ok(Self {
            enclave,
            sidecar,
            client,
            socket,
        })
    }

    async fn play(&mut self, narrator: &mut Narrator, state: &State) -> Result<Accepted, Error> {
        self.meet(narrator).await?;
        let did = self.meet_identity(narrator).await?;
        let payload = json!({"action": "transfer", "amount": 100, "recipient": "account_123"});
        let token = self.sign_for_agent(narrator, &did, &payload).await?;
        let other_token = text(&self.sign("other", &payload).await?, "vouch_token")?;
        let (nonce, other_nonce) = (fresh_nonce(), fresh_nonce());
        let evidence = self.attest(&nonce).await?;
        let other_evidence = self.attest(&other_nonce).await?;
        narrator.step(
            "A verifier's fresh challenge was answered with evidence",
            !evidence.is_empty() && evidence != other_evidence,
            &format!(
                "Nonce {}...: {} bytes of evidence: the attestation document, the key\nthat it binds, the policy, and the key's \
                 own signature over nonce and document.",
                &HEXLOWER.encode(&nonce)[..16],
                evidence.len()
            ),
        );
        let at = UnixSeconds(i64::try_from(crate::state::now()).unwrap_or(i64::MAX));
        let (root, measurements, bundle) = state.verifier_files()?;
        let (measurements, policies) = (vec![measurements], vec![bundle.digest()]);
        let accepted = Accepted {
            token,
            other_token,
            evidence,
            other_evidence,
            nonce,
            at,
            root,
            measurements,
            policies,
        };
        accepted.verify(narrator);
        Ok(accepted)
    }

    async fn meet(&mut self, narrator: &mut Narrator) -> Result<(), Error> {
        wait_until_ready(&self.client, &mut [&mut self.enclave, &mut self.sidecar]).await?;
        let (enclave, sidecar) = (self.enclave.pid(), self.sidecar.pid());
        narrator.step(
            "An enclave process and a sidecar process are up",
            enclave != sidecar && enclave != std::process::id(),
            &format!(
                "Process {enclave} plays the enclave; its secure module is a mock. Process {sidecar} is the sidecar: it proved \
                 its key\nto the enclave and handed it the policy. The enclave committed to that policy in PCR16 and locked it."
            ),
        );
        Ok(())
    }

    async fn meet_identity(&self, narrator: &mut Narrator) -> Result<String, Error> {
        let identity = self.get("/identity?identity=agent").await?;
        let did = identity["did"].as_str().unwrap_or_default().to_owned();
        let enclave = self.enclave.pid();
        narrator.step(
            "An identity was born inside",
            did.starts_with("did:key:z6Mk") && identity["custody"] == "ephemeral" && identity["tee"] == "mock",
            &format!("{did}\nIts private key never left process {enclave}, and ends with it: custody is \"ephemeral\"."),
        );
        Ok(did)
    }

    async fn sign_for_agent(
        &self,
        narrator: &mut Narrator,
        did: &str,
        payload: &Value,
    ) -> Result<String, Error> {
        let signed = self.sign("agent", payload).await?;
        let token = text(&signed, "vouch_token")?;
        let begin: String = token.chars().take(60).collect();
        narrator.step(
            "An agent's intent was signed over HTTP",
            signed["did"] == did && token.split('.').count() == 3,
            &format!(
                "POST /sign on {}\n{payload}\nbecame {begin}...",
                self.socket.display()
            ),
        );
        Ok(token)
    }

    async fn sign(&self, identity: &str, payload: &Value) -> Result<Value, Error> {
        let body = json!({"payload": payload, "intent": "authorization", "identity": identity});
        self.post("/sign", &body)
            .await
            .and_then(|bytes| parse(&bytes))
    }

    async fn attest(&self, nonce: &[u8]) -> Result<Vec<u8>, Error> {
        self.post(
            "/attestation",
            &json!({"nonce": HEXLOWER.encode(nonce), "identity": "agent"}),
        )
        .await
    }

    async fn get(&self, path: &str) -> Result<Value, Error> {
        self.client
            .call(path, None)
            .await
            .map_err(|error| Error::State(error.to_string()))
            .and_then(|bytes| parse(&bytes))
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Vec<u8>, Error> {
        self.client
            .call(path, Some(body))
            .await
            .map_err(|error| Error::State(error.to_string()))
    }
}

fn parse(bytes: &[u8]) -> Result<Value, Error> {
    identity::json::parse(bytes).map_err(|error| Error::State(error.to_string()))
}

fn text(answer: &Value, name: &str) -> Result<String, Error> {
    answer[name]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::State(format!("the answer lacks {name}")))
}

fn fresh_nonce() -> Vec<u8> {
    let mut nonce = vec![0; 32];
    os_random(&mut nonce);
    nonce
}

fn io(source: std::io::Error) -> Error {
    Error::Io {
        what: "the demonstration's folder".into(),
        source,
    }
}
