//! The story of a credential that nobody sees: a toy API over TLS, an agent with a placeholder, and an
//! enclave in between.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use identity::Digest;
use parent_proxy::operator::PutCredential;
use parent_proxy::receipt::{self, Expected};
use parent_proxy::{Client, KeyFile, Target};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Attack, Narrator, fresh_nonce, io, text};
use crate::nsm::os_random;
use crate::state::{now, private_folder};
use crate::tls::{Authority, Certificate, Names};
use crate::up::wait_until_ready;
use crate::{Child, Error, Program, State};

const HOST: &str = "toy.example";
const NAMES: Names = Names {
    root: "CN=Anchorhold TOY root,OU=a toy,O=Anchorhold,C=US",
    server: "CN=Anchorhold TOY API,OU=a toy,O=Anchorhold,C=US",
};

/// Everything that runs.
struct Stage {
    folder: tempfile::TempDir,
    state: State,
    enclave: Child,
    sidecar: Child,
    client: Client,
    /// Where agents ask for services.
    services: SocketAddr,
    placeholder: String,
    /// What only the toy API shall see.
    secret: String,
    toy: Toy,
}

/// A toy API, and all bytes on the line to it.
struct Toy {
    address: SocketAddr,
    root: String,
    seen: Arc<Mutex<Vec<u8>>>,
    good: Arc<Mutex<usize>>,
}

/// An answer of the sidecar's.
struct Answer {
    status: u16,
    code: String,
    call: String,
    body: String,
}

pub(super) async fn tell(narrator: &mut Narrator) -> Result<(), Error> {
    narrator.say("A credential that nobody sees, in MOCK mode: no hardware stands behind any of this, and the evidence says so.");
    let mut stage = Stage::set().await?;
    narrator.step(
        "A toy API over TLS, a sidecar and an enclave are up",
        true,
        &format!(
            "The API is {HOST}, and wants a bearer. Agents ask http://{}/toy. For that one service the enclave has a\n\
             process of its own, in which TLS to the API ends.",
            stage.services
        ),
    );
    stage.put(narrator).await?;
    let call = stage.use_it(narrator).await?;
    stage.search(narrator)?;
    stage.receipt(narrator, &call).await?;
    stage.attacks(narrator, &call).await?;
    stage.revoke(narrator).await?;
    let ended = [stage.sidecar.stop()?, stage.enclave.stop()?];
    let path = stage.folder.path().to_owned();
    stage.folder.close().map_err(io)?;
    narrator.step(
        "All processes are gone, and nothing is left behind",
        ended[0].success() && !path.exists(),
        "The key that opened the credential ended with the enclave: without a state, the desk puts it again after a boot.",
    );
    Ok(())
}

impl Stage {
    async fn set() -> Result<Self, Error> {
        let folder = private_folder().map_err(io)?;
        let state = State::open(folder.path())?;
        let (secret, placeholder) = (random("sk-toy-"), random("placeholder-"));
        let toy = Toy::start(&secret).await?;
        let policy = policy(&state, &toy)?;
        state.set_policy(&policy)?;
        let token = folder.path().join("agent.token");
        write_private(&token, &placeholder)?;
        let annex = state.folder().join("annex.cose");
        annexed(&state, &annex, "version = 1")?;
        let (program, log) = (Program::this()?, folder.path().join("log"));
        let more = ["--with-parent"];
        let mut enclave = program.start_listening_enclave(&state, Some(&log), &more)?;
        let socket = folder.path().join("run").join("sidecar.sock");
        let lines = format!(
            "annex = \"annex.cose\"\n[proxy]\nsocket = \"proxy/agentkeys-proxy.sock\"\ncredentials = \"credentials\"\n\
             listen = \"127.0.0.1:0\"\naddresses = {{ toy = \"{}\" }}\n[[proxy.callers]]\nname = \"agent\"\ntoken_file = \"agent.token\"\n",
            toy.address
        );
        let config = state.write_sidecar_config(&socket, &lines)?;
        let mut sidecar = program.start_sidecar(&config, Some(&log), &more)?;
        let client = Client::new(Target::Unix(socket), None);
        wait_until_ready(&client, &mut [&mut enclave, &mut sidecar]).await?;
        let services = get(&client, "/services").await?;
        let services = text(&services, "address")?;
        let odd = |_| Error::State(format!("an odd address: {services}"));
        Ok(Self {
            services: services.parse().map_err(odd)?,
            folder,
            state,
            enclave,
            sidecar,
            client,
            placeholder,
            secret,
            toy,
        })
    }

    /// The operator's desk.
    async fn put(&self, narrator: &mut Narrator) -> Result<(), Error> {
        let (root, measurements, bundle) = self.state.verifier_files()?;
        let key = KeyFile::read(&self.state.operator_key());
        let put = PutCredential {
            key: &key.map_err(|error| Error::State(error.to_string()))?,
            bundle: &bundle,
            image: &measurements,
            mock_root: Some(root),
            now: i64::try_from(now()).unwrap_or(i64::MAX),
            identity: "agent",
            service: "toy",
            version: now(),
            secret: self.secret.as_bytes(),
        };
        let kept = put.send(&self.client).await;
        let kept = kept.map_err(|error| Error::State(error.to_string()))?;
        let file = self.folder.path().join(format!(
            "credentials/bots/{}/credentials/toy.enc",
            text(&kept, "actor")?
        ));
        let bytes = fs::read(&file).map_err(io)?;
        narrator.step(
            "The operator's desk looked at the enclave, and sealed a credential to it",
            !holds(&bytes, &self.secret),
            &format!(
                "A document of the secure module named the key; HPKE sealed to it, the operator signed. What is kept has {} bytes,\n\
                 and only this enclave opens it.",
                bytes.len()
            ),
        );
        Ok(())
    }

    async fn use_it(&self, narrator: &mut Narrator) -> Result<String, Error> {
        let answer = self
            .ask(
                "POST",
                "/toy/v1/chat",
                &self.placeholder,
                "{\"say\": \"hello\"}",
            )
            .await?;
        let good = *self.toy.good.lock().unwrap_or_else(PoisonError::into_inner);
        narrator.step(
            "An agent with a placeholder got its answer",
            answer.status == 200 && answer.body.contains("hello") && good == 1,
            &format!(
                "POST /toy/v1/chat with a placeholder became a request with the credential, over TLS that ends in the enclave:\n{}",
                answer.body
            ),
        );
        Ok(answer.call)
    }

    /// Whoever owns the host looks.
    fn search(&self, narrator: &mut Narrator) -> Result<(), Error> {
        let wanted = [self.placeholder.as_str(), self.secret.as_str()];
        let (looked_at, [sees, in_memory]) = search_memory(self.sidecar.pid(), wanted)?;
        let line = self
            .toy
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let found = in_memory || holds(&line, &self.secret);
        narrator.step(
            "The host was searched for the credential, in vain",
            // A search finds what is there: the placeholder is the sidecar's to know.
            sees && !found && !line.is_empty(),
            &format!(
                "{} MiB of the sidecar's memory, in which the placeholder was found, and {} bytes of the line to the API.",
                looked_at >> 20,
                line.len()
            ),
        );
        Ok(())
    }

    async fn receipt(&self, narrator: &mut Narrator, call: &str) -> Result<(), Error> {
        let (evidence, lines) = (self.evidence().await?, self.lines_of(call, 2).await?);
        let receipt = self.verified(&lines, call, &evidence);
        let (ok, said) = match &receipt {
            Ok(receipt) => {
                let close = receipt.close.as_ref().map(|close| &close.decision);
                let ended = close.and_then(|close| close.credential.clone());
                let status = ended.as_ref().and_then(|ended| ended.status);
                let said = format!(
                    "{} asked {}; status {}, key of the service {}.\n\
                     Both lines are signed by the enclave of this image under this bundle. `anchorhold receipt verify` does it.",
                    receipt
                        .open
                        .decision
                        .agent_id
                        .as_deref()
                        .unwrap_or_default(),
                    receipt
                        .open
                        .decision
                        .resource
                        .as_deref()
                        .unwrap_or_default(),
                    status.unwrap_or_default(),
                    ended
                        .and_then(|ended| ended.spki)
                        .map_or_else(String::new, |key| key.to_string()),
                );
                (status == Some(200), said)
            }
            Err(error) => (false, error.clone()),
        };
        narrator.step("A stranger verified the receipt, offline", ok, &said);
        Ok(())
    }

    async fn attacks(&self, narrator: &mut Narrator, call: &str) -> Result<(), Error> {
        narrator.say("\nNow the attacks:");
        let mine = self.placeholder.as_str();
        for (name, method, path, token, expected) in [
            ("no token", "GET", "/toy/v1/models", "", "token_invalid"),
            (
                "another's token",
                "GET",
                "/toy/v1/models",
                "a-placeholder-of-nobody-at-all-here",
                "token_invalid",
            ),
            (
                "a path that no rule allows",
                "GET",
                "/toy/v1/admin",
                mine,
                "service_request_not_allowed",
            ),
            (
                "a way around that rule",
                "GET",
                "/toy/v1/files/%2e%2e/admin",
                mine,
                "path_not_canonical",
            ),
            (
                "a method that no rule allows",
                "DELETE",
                "/toy/v1/files/x",
                mine,
                "service_request_not_allowed",
            ),
            (
                "another service",
                "GET",
                "/other/v1/models",
                mine,
                "unknown_service",
            ),
            (
                "an API that shows the credential",
                "GET",
                "/toy/v1/files/reflect",
                mine,
                "credential_reflected",
            ),
            (
                "an API that sends the credential elsewhere",
                "GET",
                "/toy/v1/files/redirect",
                mine,
                "credential_reflected",
            ),
        ] {
            let answer = self.ask(method, path, token, "").await?;
            narrator.attack(Attack {
                name,
                expected_code: expected,
                actual_code: answer.code,
            });
        }
        let (evidence, lines) = (self.evidence().await?, self.lines_of(call, 2).await?);
        let forged: Vec<Vec<u8>> = lines
            .iter()
            .map(|line| {
                String::from_utf8_lossy(line)
                    .replace("\"status\":200", "\"status\":500")
                    .into_bytes()
            })
            .collect();
        let said = self.verified(&forged, call, &evidence);
        narrator.attack(Attack {
            name: "a receipt with another status",
            expected_code: "refused",
            actual_code: if said.is_ok() { "accepted" } else { "refused" }.into(),
        });
        Ok(())
    }

    async fn revoke(&self, narrator: &mut Narrator) -> Result<(), Error> {
        let annex = self.state.folder().join("annex.cose");
        annexed(
            &self.state,
            &annex,
            "version = 2\nrevoked = [\"credential:agent/toy\"]",
        )?;
        self.sidecar.signal(rustix::process::Signal::HUP);
        let deadline = Instant::now() + Duration::from_secs(10);
        let answer = loop {
            let answer = self
                .ask("POST", "/toy/v1/chat", &self.placeholder, "{}")
                .await?;
            // One that comes in between is told to come again.
            let not_yet = answer.status == 200 || answer.code == "annex_replaced_meanwhile";
            if !not_yet || Instant::now() > deadline {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        narrator.step(
            "The operator revoked the credential, and it is not used any more",
            answer.status == 403 && answer.code == "credential_revoked",
            "An annex that the operator signed says so; the enclave refuses, whatever the host brings.",
        );
        Ok(())
    }

    async fn evidence(&self) -> Result<Vec<u8>, Error> {
        let nonce = data_encoding::HEXLOWER.encode(&fresh_nonce());
        let body = json!({"nonce": nonce, "identity": "agent"});
        let evidence = self.client.call("/attestation", Some(&body)).await;
        evidence.map_err(|error| Error::State(error.to_string()))
    }

    /// The lines of a call in the record, once there are as many.
    async fn lines_of(&self, call: &str, count: usize) -> Result<Vec<Vec<u8>>, Error> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let file = self.state.record().join("record-000001.jsonl");
            let text = fs::read(file).map_err(io)?;
            let of_call = text
                .split(|byte| *byte == b'\n')
                .filter(|line| holds(line, call));
            let lines: Vec<Vec<u8>> = of_call.map(<[u8]>::to_vec).collect();
            if lines.len() >= count || Instant::now() > deadline {
                return Ok(lines);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn verified(
        &self,
        lines: &[Vec<u8>],
        call: &str,
        evidence: &[u8],
    ) -> Result<receipt::Receipt, String> {
        let (root, measurements, bundle) = self
            .state
            .verifier_files()
            .map_err(|error| error.to_string())?;
        let expected = Expected {
            measurements: vec![measurements],
            policies: vec![bundle.digest()],
            mock_root: Some(root),
        };
        let call = Digest::from_hex(call).map_err(|error| error.to_string())?;
        let lines = lines.iter().map(Vec::as_slice);
        receipt::verify(lines, call, evidence, &expected).map_err(|error| error.to_string())
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: &str,
    ) -> Result<Answer, Error> {
        let mut stream = TcpStream::connect(self.services).await.map_err(io)?;
        let bearer = if token.is_empty() {
            String::new()
        } else {
            format!("Authorization: Bearer {token}\r\n")
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{bearer}\r\n{body}",
            self.services,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.map_err(io)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(io)?;
        let odd = || Error::State(format!("an odd answer: {answer}"));
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(odd)?;
        let header = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().to_owned()
        };
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Ok(Answer {
            status: status.ok_or_else(odd)?,
            code: header("x-anchorhold-error: "),
            call: header("x-anchorhold-call: "),
            body: body.to_owned(),
        })
    }
}

/// One agent, which may ask the toy API for some things.
fn policy(state: &State, toy: &Toy) -> Result<String, Error> {
    let text = state.development_policy(&[("agent", "did:key", "EdDSA")])?;
    let text = text.replacen("callers = { ", "callers = { names = [\"agent\"], ", 1);
    Ok(format!(
        "{text}\n[[services]]\nname = \"toy\"\nupstream = \"https://{HOST}\"\nroots = ['''{}''']\n\
         inject = {{ header = \"authorization\", format = \"Bearer {{}}\" }}\n\
         rules = [{{ name = \"chat\", methods = [\"POST\"], paths = [\"/v1/chat\"], identities = [\"agent\"] }},\n\
           {{ name = \"read\", methods = [\"GET\"], paths = [\"/v1/models\", \"/v1/files/*\"], identities = [\"agent\"] }}]\n",
        toy.root
    ))
}

fn annexed(state: &State, file: &Path, text: &str) -> Result<(), Error> {
    let odd = |error: &dyn std::fmt::Display| Error::State(error.to_string());
    let key = KeyFile::read(&state.operator_key()).map_err(|error| odd(&error))?;
    let annex = policy::Annex::from_toml(text).map_err(|error| odd(&error))?;
    let signed = annex.sign(&key).map_err(|error| odd(&error))?;
    fs::write(file, signed).map_err(io)
}

fn write_private(file: &Path, text: &str) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(file, text).map_err(io)?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).map_err(io)
}

fn random(prefix: &str) -> String {
    let mut bytes = [0; 24];
    os_random(&mut bytes);
    format!("{prefix}{}", data_encoding::HEXLOWER.encode(&bytes))
}

async fn get(client: &Client, path: &str) -> Result<Value, Error> {
    let bytes = client.call(path, None).await;
    super::parse(&bytes.map_err(|error| Error::State(error.to_string()))?)
}

fn holds(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

/// Which of these stand in what a process could write to, and how much that is, in bytes.
fn search_memory<const N: usize>(pid: u32, wanted: [&str; N]) -> Result<(usize, [bool; N]), Error> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(io)?;
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).map_err(io)?;
    let (mut looked_at, mut found) = (0, [false; N]);
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'));
        let place = |hex| u64::from_str_radix(hex, 16).ok();
        let Some((from, to)) = range.and_then(|(from, to)| Some((place(from)?, place(to)?))) else {
            continue;
        };
        let mut bytes = Vec::new();
        // Some ranges are the kernel's alone.
        let _ = memory.seek(SeekFrom::Start(from)).and_then(|_| {
            let range = Read::by_ref(&mut memory).take(to.saturating_sub(from));
            { range }.read_to_end(&mut bytes)
        });
        looked_at += bytes.len();
        for (text, found) in wanted.iter().zip(&mut found) {
            *found |= holds(&bytes, text);
        }
    }
    Ok((looked_at, found))
}

impl Toy {
    async fn start(secret: &str) -> Result<Self, Error> {
        let authority = Authority::new(NAMES);
        let acceptor = authority.acceptor(&[HOST], Certificate::Good, now());
        let acceptor = acceptor.map_err(|error| Error::State(error.to_string()))?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(io)?;
        let toy = Self {
            address: listener.local_addr().map_err(io)?,
            root: authority.pem(),
            seen: Arc::default(),
            good: Arc::default(),
        };
        let (seen, good) = (Arc::clone(&toy.seen), Arc::clone(&toy.good));
        let bearer = format!("Bearer {secret}");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, bearer) = (acceptor.clone(), bearer.clone());
                let (seen, good) = (Arc::clone(&seen), Arc::clone(&good));
                let stream = Seen { stream, seen };
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let answer = |request: Request<Incoming>| {
                        let (bearer, good) = (bearer.clone(), Arc::clone(&good));
                        async move { serve(request, &bearer, &good).await }
                    };
                    let service = hyper::service::service_fn(answer);
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(io, service)
                        .await;
                });
            }
        });
        Ok(toy)
    }
}

/// Who shows the bearer is answered; some paths show it again.
async fn serve(
    request: Request<Incoming>,
    bearer: &str,
    good: &Mutex<usize>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    use http_body_util::BodyExt;
    let shown = request
        .headers()
        .get("authorization")
        .map(|value| value.as_bytes().to_vec());
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let mut response = Response::new(Full::default());
    if shown.as_deref() != Some(bearer.as_bytes()) {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        return Ok(response);
    }
    *good.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    match path.as_str() {
        "/v1/files/reflect" => {
            *response.body_mut() = Full::from(format!("you showed me {bearer}, and a lot more\n"))
        }
        "/v1/files/redirect" => {
            *response.status_mut() = StatusCode::FOUND;
            let place = format!(
                "https://elsewhere.example/?key={}",
                bearer.trim_start_matches("Bearer ")
            );
            if let Ok(place) = place.parse() {
                response.headers_mut().insert("location", place);
            }
        }
        _ => {
            let said: Value = serde_json::from_slice(&body).unwrap_or_default();
            *response.body_mut() = Full::from(json!({"you said": said["say"]}).to_string());
        }
    }
    Ok(response)
}

/// A stream of which every byte is remembered.
struct Seen {
    stream: TcpStream,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl tokio::io::AsyncRead for Seen {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let before = into.filled().len();
        let read = std::pin::Pin::new(&mut self.stream).poll_read(context, into);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend_from_slice(&into.filled()[before..]);
        read
    }
}

impl tokio::io::AsyncWrite for Seen {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let written = std::pin::Pin::new(&mut self.stream).poll_write(context, bytes);
        if let std::task::Poll::Ready(Ok(count)) = written {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend_from_slice(&bytes[..count]);
        }
        written
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
