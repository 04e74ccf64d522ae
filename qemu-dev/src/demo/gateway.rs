//! The story of the gateway: it stands in front of a toy agent, and an enclave seals what it writes
//! down.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use attestation::{Expectations, Subject, Verifier};
use flight::{Check, Report, Seal, first_of};
use identity::request::Approval;
use identity::token::unverified_claims;
use identity::{ApprovalId, BootId, Digest, Signer, UnixSeconds};
use parent_proxy::{Client, KeyFile, Target};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Attack, Narrator, io, text};
use crate::nsm::os_random;
use crate::state::{now, private_folder};
use crate::up::wait_until_ready;
use crate::{Child, Error, Program, State};

const MANIFEST: &str = r#"{"identity": {"agent_id": "booking", "owner": "Acme"}, "trust_level": "trusted", "protocol_version": "1.0",
 "reversibility": {"level": "partial"}, "privacy": {"retention_policy": "temporary"}}"#;
/// A card number blocks; a bank account warns.
const SETTINGS: &str = "policy:\n  block_rules:\n    - {name: cards, condition: has_credit_card, action: block}\n    - {name: accounts, condition: has_iban, action: warn}\n";
const ACCOUNT: &str = r#"{"task": "refund", "to": "DE89 3704 0044 0532 0130 00"}"#;
const OTHER_ACCOUNT: &str = r#"{"task": "refund", "to": "GB82 WEST 1234 5698 7654 32"}"#;

/// Everything that runs.
struct Stage {
    folder: tempfile::TempDir,
    state: State,
    enclave: Child,
    sidecar: Child,
    gateway: Child,
    client: Client,
    /// Of the gateway: for requests, and for its operator.
    address: SocketAddr,
    operator: SocketAddr,
}

/// An answer of the gateway's.
struct Answer {
    status: u16,
    trace_id: String,
    body: Value,
}

pub(super) async fn tell(narrator: &mut Narrator) -> Result<(), Error> {
    narrator.say("A gateway in front of an agent, in MOCK mode: no hardware stands behind any of this, and the evidence says so.");
    let mut stage = Stage::set().await?;
    narrator.step(
        "A toy agent, a gateway, a sidecar and an enclave process are up",
        true,
        &format!(
            "Requests go to {}, the operator asks {}.\nThe gateway asks the enclave's sidecar to sign, as any agent does; its policy lets it seal and have approved.",
            stage.address, stage.operator
        ),
    );
    let clean = stage.clean_and_blocked(narrator).await?;
    let overridden = stage.overridden(narrator).await?;
    stage.trace(narrator, &clean, &overridden).await?;
    stage.seals(narrator).await?;
    let gateway = stage.gateway.stop()?;
    let ended = [stage.sidecar.stop()?, stage.enclave.stop()?];
    let path = stage.folder.path().to_owned();
    stage.folder.close().map_err(io)?;
    narrator.step(
        "All processes are gone, and nothing is left behind",
        gateway.success() && ended[0].success() && !path.exists(),
        "The keys ended with the enclave: they are ephemeral.",
    );
    Ok(())
}

impl Stage {
    async fn set() -> Result<Self, Error> {
        let folder = private_folder().map_err(io)?;
        let state = State::open(folder.path())?;
        let alice = folder.path().join("alice.key");
        let key = KeyFile::create(&alice).map_err(|error| Error::State(error.to_string()))?;
        state.set_policy(&state.gateway_policy(&key.public_key().to_multikey())?)?;
        let (program, log) = (Program::this()?, folder.path().join("log"));
        let more = ["--with-parent"];
        let mut enclave = program.start_listening_enclave(&state, Some(&log), &more)?;
        let socket = folder.path().join("run").join("sidecar.sock");
        let config = state.write_sidecar_config(&socket, "")?;
        let mut sidecar = program.start_sidecar(&config, Some(&log), &more)?;
        let client = Client::new(Target::Unix(socket.clone()), None);
        wait_until_ready(&client, &mut [&mut enclave, &mut sidecar]).await?;
        let agent = agent().await?;
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).map_err(io)?;
            Ok::<_, Error>(path.display().to_string())
        };
        let (manifest, settings) = (
            file("manifest.json", MANIFEST)?,
            file("iatp.yaml", SETTINGS)?,
        );
        let (url, sidecar_url) = (
            format!("http://{agent}"),
            format!("unix://{}", socket.display()),
        );
        let flight = folder.path().join("flight").display().to_string();
        let arguments = [
            ("--backend-url", url.as_str()),
            ("--manifest", &manifest),
            ("--config", &settings),
            ("--log-dir", &flight),
            ("--enclave-sidecar", &sidecar_url),
            ("--port", "0"),
            ("--metrics-port", "0"),
        ];
        let arguments: Vec<&str> = arguments
            .iter()
            .flat_map(|(name, value)| [*name, *value])
            .collect();
        let log = folder.path().join("gateway.log");
        let mut gateway = program.start_gateway(&log, &arguments)?;
        let (address, operator) = listening(&mut gateway, &log).await?;
        Ok(Self {
            folder,
            state,
            enclave,
            sidecar,
            gateway,
            client,
            address,
            operator,
        })
    }

    async fn clean_and_blocked(&self, narrator: &mut Narrator) -> Result<Answer, Error> {
        let clean = self.post(r#"{"task": "book", "seats": 2}"#, "").await?;
        narrator.step(
            "A clean request reached the agent",
            clean.status == 200 && clean.body["done"] == "book",
            &format!(
                "It answered {}. The trace is {}.",
                clean.body, clean.trace_id
            ),
        );
        let card = r#"{"task": "pay", "card": "\u0034532-0151-1283-0366"}"#;
        let blocked = self.post(card, "").await?;
        narrator.step(
            "A card number was blocked, however it is spelled",
            blocked.status == 403 && blocked.body["blocked"] == true,
            &format!(
                "{card}\nbecame 403: {}. Nothing overrides that.",
                blocked.body["error"]
            ),
        );
        Ok(clean)
    }

    /// A warning, its approval, and the same request once more.
    async fn overridden(&self, narrator: &mut Narrator) -> Result<Answer, Error> {
        let warned = self.post(ACCOUNT, "").await?;
        let asked = self.post(ACCOUNT, "X-User-Override: request\r\n").await?;
        let waiting = &asked.body["approval"];
        let shown = &waiting["request"]["payload"];
        let id = text(waiting, "id")?;
        narrator.step(
            "A bank account was warned of, and somebody is asked",
            warned.status == 449 && asked.status == 449 && shown["facts"] == json!(["iban"]),
            &format!(
                "449: {}\nWhat waits for alice, by its id {id}: {shown}",
                warned.body["warning"]
            ),
        );
        let early = self
            .post(ACCOUNT, &format!("X-User-Override: {id}\r\n"))
            .await?;
        self.approve(waiting).await?;
        let given = format!("X-User-Override: {id}\r\n");
        let other = self.post(OTHER_ACCOUNT, &given).await?;
        let passed = self.post(ACCOUNT, &given).await?;
        let again = self.post(ACCOUNT, &given).await?;
        narrator.step(
            "Alice approved just that request, and it passed once",
            [early.status, other.status, passed.status, again.status] == [449, 449, 200, 449],
            "Before she did: 449. With her approval and another account: 449. The same again: 449.",
        );
        Ok(passed)
    }

    /// As `anchorhold approve` does it.
    async fn approve(&self, waiting: &Value) -> Result<(), Error> {
        let odd = |error: &dyn std::fmt::Display| Error::State(error.to_string());
        let key =
            KeyFile::read(&self.folder.path().join("alice.key")).map_err(|error| odd(&error))?;
        let canonical =
            identity::json::canonical(&waiting["request"]).map_err(|error| odd(&error))?;
        let approval = Approval {
            approval: ApprovalId::from_hex(&text(waiting, "id")?).map_err(|error| odd(&error))?,
            boot_id: BootId::from_hex(&text(waiting, "boot_id")?).map_err(|error| odd(&error))?,
            exp: seconds().0 + 60,
            request: identity::sha256(&canonical),
        };
        let jws = approval.sign(&key).map_err(|error| odd(&error))?;
        let path = format!("/approvals/{}", text(waiting, "id")?);
        let answer = self
            .client
            .call(&path, Some(&json!({"approval": jws})))
            .await;
        answer.map(|_| ()).map_err(|error| odd(&error))
    }

    async fn trace(
        &self,
        narrator: &mut Narrator,
        clean: &Answer,
        overridden: &Answer,
    ) -> Result<(), Error> {
        let lines = self.lines_of(&clean.trace_id, "response").await?;
        let approved = self.lines_of(&overridden.trace_id, "response").await?;
        let token = approved.iter().find_map(|line| line["token"].as_str());
        let says = token.and_then(|token| unverified_claims(token).ok());
        let by = says
            .as_ref()
            .and_then(|says| says.vouch.delegation_chain.first());
        let by = by.map_or("nobody", |link| link.iss.as_str());
        let scrubbed = approved
            .iter()
            .all(|line| !line.to_string().contains("3704"));
        narrator.step(
            "What passed was written down, scrubbed, and is read back",
            lines.len() == 2 && by == "approver:alice" && scrubbed,
            &format!(
                "{}\nThe override stands there with the enclave's token over it: {by} gave it.",
                lines.first().unwrap_or(&Value::Null)
            ),
        );
        Ok(())
    }

    /// What the operator reads of a trace, once there is such a line in it.
    async fn lines_of(&self, trace_id: &str, last: &str) -> Result<Vec<Value>, Error> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let answer = ask(self.operator, "GET", &format!("/trace/{trace_id}"), "", "").await?;
            let lines = answer.body["logs"].as_array().cloned().unwrap_or_default();
            if lines.iter().any(|line| line["type"] == last) || Instant::now() > deadline {
                return Ok(lines);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The log against its seals, and each seal against the evidence; then what was changed.
    async fn seals(&self, narrator: &mut Narrator) -> Result<(), Error> {
        let mut nonce = [0; 32];
        os_random(&mut nonce);
        let body = json!({"nonce": Digest(nonce).to_string(), "identity": "gateway"});
        let evidence = self.client.call("/attestation", Some(&body)).await;
        let evidence = evidence.map_err(|error| Error::State(error.to_string()))?;
        let folder = self.folder.path().join("flight");
        let deadline = Instant::now() + Duration::from_secs(20);
        let (seals, report) = loop {
            let seals = self.judged(&folder, &evidence, &nonce)?;
            let report = check(seals.clone(), &lines(&folder)?);
            let is_whole = report
                .as_ref()
                .is_ok_and(|report| report.unsealed == 0 && report.sealed > 0);
            if is_whole || Instant::now() > deadline {
                break (seals, report);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let (said, ok) = match &report {
            Ok(report) => {
                let said = format!("{} lines in {} ranges", report.sealed, report.ranges);
                (said, report.unsealed == 0)
            }
            Err(error) => (error.to_string(), false),
        };
        narrator.step(
            "A stranger verified the log, offline",
            ok && !seals.is_empty(),
            &format!(
                "{said}: every token over them is of a key that only that enclave image holds (here: the mock's), each range follows\n\
                 the one before, and the lines are those that were sealed. `anchorhold audit verify --flight` does it."
            ),
        );
        narrator.say("\nNow the forgeries. Each alters one thing in that log:");
        for (name, change) in CHANGES {
            let mut lines = lines(&folder)?;
            change(&mut lines);
            let said = check(seals.clone(), &lines);
            let actual_code = if said.is_ok() { "accepted" } else { "refused" };
            narrator.attack(Attack {
                name,
                expected_code: "refused",
                actual_code: actual_code.into(),
            });
        }
        Ok(())
    }

    /// The seals of a folder, each of which a verifier accepts.
    fn judged(&self, folder: &Path, evidence: &[u8], nonce: &[u8]) -> Result<Vec<Seal>, Error> {
        let odd = |error: &dyn std::fmt::Display| Error::State(format!("a seal: {error}"));
        let (root, measurements, bundle) = self.state.verifier_files()?;
        let expectations = Expectations {
            nonce: Some(nonce.to_vec()),
            measurements: vec![measurements],
            policies: vec![bundle.digest()],
            ..Expectations::default()
        };
        let mut seals = Vec::new();
        for (_, file) in segments(folder)? {
            let text = fs::read_to_string(file.with_extension("seals")).unwrap_or_default();
            // The last one may be on its way.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            for token in whole.lines() {
                let verifier = Verifier {
                    expectations: expectations.clone(),
                    allow_mock: Some(root.clone()),
                    ..Verifier::at(seconds())
                };
                let verdict = verifier.judge(Subject::Token { token, evidence });
                verdict.map_err(|error| odd(&error))?;
                let claims = unverified_claims(token).map_err(|error| odd(&error))?;
                seals.push(Seal::of_claims(&claims).map_err(|error| odd(&error))?);
            }
        }
        Ok(seals)
    }

    async fn post(&self, body: &str, headers: &str) -> Result<Answer, Error> {
        ask(self.address, "POST", "/proxy/v1/task", headers, body).await
    }
}

type Change = fn(&mut Vec<Vec<u8>>);

const CHANGES: [(&str, Change); 4] = [
    ("another word in a line", |lines| {
        let line = String::from_utf8_lossy(&lines[0]).replace("book", "look");
        lines[0] = line.into_bytes();
    }),
    ("a line left out", |lines| drop(lines.remove(1))),
    ("two lines in another order", |lines| lines.swap(0, 1)),
    ("the last line cut off at the end", |lines| {
        drop(lines.pop())
    }),
];

fn check(seals: Vec<Seal>, lines: &[Vec<u8>]) -> Result<Report, flight::Error> {
    let mut check = Check::new(seals)?;
    for (index, line) in (0..).zip(lines) {
        check.line(index, line)?;
    }
    check.finish()
}

fn segments(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        found.extend(name.and_then(first_of).map(|first| (first, path)));
    }
    found.sort();
    Ok(found)
}

fn lines(folder: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let mut lines = Vec::new();
    for (_, file) in segments(folder)? {
        let text = fs::read(file).map_err(io)?;
        let whole = text.strip_suffix(b"\n").unwrap_or(&text);
        lines.extend(whole.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
    }
    Ok(lines)
}

/// An agent that does what it is told, as far as it says.
async fn agent() -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_agent(stream));
        }
    });
    Ok(address)
}

async fn serve_agent(stream: TcpStream) {
    use http_body_util::{BodyExt, Full};
    use hyper::body::Bytes;
    let service =
        hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| async {
            let body = request.into_body().collect().await?.to_bytes();
            let task: Value = serde_json::from_slice(&body).unwrap_or_default();
            let done = json!({"done": task["task"]}).to_string();
            let mut response = hyper::Response::new(Full::<Bytes>::from(done));
            let kind = hyper::header::HeaderValue::from_static("application/json");
            response
                .headers_mut()
                .insert(hyper::header::CONTENT_TYPE, kind);
            Ok::<_, hyper::Error>(response)
        });
    let stream = hyper_util::rt::TokioIo::new(stream);
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(stream, service)
        .await;
}

/// Where a gateway listens, as its log says: for requests, and for its operator.
async fn listening(gateway: &mut Child, log: &Path) -> Result<(SocketAddr, SocketAddr), Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = fs::read_to_string(log).unwrap_or_default();
        let told = text
            .lines()
            .next()
            .and_then(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(told) = told {
            let of = |name: &str| {
                told["fields"][name]
                    .as_str()
                    .and_then(|text| text.parse().ok())
            };
            if let (Some(address), Some(operator)) = (of("address"), of("operator")) {
                return Ok((address, operator));
            }
        }
        if gateway.ended().is_some() || Instant::now() > deadline {
            return Err(Error::Process(format!(
                "the gateway does not listen: {text}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One request on a connection of its own.
async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Result<Answer, Error> {
    let mut stream = TcpStream::connect(address).await.map_err(io)?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.map_err(io)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(io)?;
    let odd = || Error::State(format!("an odd answer: {answer}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(odd)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let trace_id = head
        .lines()
        .find_map(|line| line.strip_prefix("x-agent-trace-id: "));
    Ok(Answer {
        status: status.ok_or_else(odd)?,
        trace_id: trace_id.unwrap_or_default().to_owned(),
        body: serde_json::from_str(body).unwrap_or_default(),
    })
}

fn seconds() -> UnixSeconds {
    UnixSeconds(i64::try_from(now()).unwrap_or(i64::MAX))
}
