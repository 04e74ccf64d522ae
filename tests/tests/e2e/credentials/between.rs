//! A parent that lies between the ingress process and the rest: it carries everything, and reads, changes and
//! answers nothing.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::Omni;
use harness::services::SECRET;
use harness::window::Window;
use identity::caller::ObservedCaller;
use identity::{Signer, cbor};
use parent_proxy::KeyFile;
use protocol::{
    Answer, CallFrame, CallFrames, CallKind, InsideRequest, LineKind, OpenSealed, OpenedSealed,
    Refused, Request, Requester, Ticket, Told,
};

use super::ingress::{Proxied, tls, with};
use super::upstream::{Upstream, answer};

/// What an agent asks, and what nobody else shall read.
const PRIVATE: &str = "what-nobody-else-reads-5b1d";
const ANSWERED: &str = "what-the-service-says-77aa";

struct Parent {
    proxied: Proxied,
    window: Window,
    envelope: Vec<u8>,
    /// Everything that it carried, but for the service's own TLS.
    carried: Arc<Mutex<Vec<u8>>>,
}

/// The line of the ingress process over which it asks.
struct Asking {
    line: UnixStream,
    frames: CallFrames,
    carried: Arc<Mutex<Vec<u8>>>,
}

impl Asking {
    fn next(&mut self) -> io::Result<(CallKind, Vec<u8>)> {
        loop {
            if let Some((kind, bytes)) = self.frames.next_frame().unwrap() {
                return Ok((kind, bytes.to_vec()));
            }
            let mut chunk = [0; 4096];
            match self.line.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    self.carried
                        .lock()
                        .unwrap()
                        .extend_from_slice(&chunk[..read]);
                    self.frames.room().extend_from_slice(&chunk[..read]);
                }
            }
        }
    }

    fn say(&mut self, kind: CallKind, bytes: &[u8]) {
        let mut out = Vec::new();
        CallFrame::write(kind, bytes, &mut out);
        // Whoever refuses what came before may be gone.
        let _ = self.line.write_all(&out);
    }

    fn asked(&mut self) -> InsideRequest {
        let (kind, bytes) = self.next().unwrap();
        assert_eq!(kind, CallKind::Ask);
        cbor::from_slice(&bytes).unwrap()
    }
}

/// An agent's request, under way; gives what the agent reads in the end.
type Agent = std::thread::JoinHandle<String>;

impl Parent {
    fn start() -> Self {
        let upstream = Upstream::start(|_, tls| answer(tls, 200, "", ANSWERED.as_bytes()));
        let proxied = Proxied::with(upstream, &with());
        let state = &proxied.setting.running.state;
        let key = KeyFile::read(&state.operator_key()).unwrap();
        let actor = Omni::of_operator(key.public_key()).child("crew");
        let kept = state.folder().join("credentials");
        let envelope = std::fs::read(kept.join(broker::object_path(&actor, "api"))).unwrap();
        let proxy_key = KeyFile::read(&state.proxy_key()).unwrap();
        let stream = UnixStream::connect(state.enclave_socket()).unwrap();
        let window = Window::connect_on(stream, &proxy_key).unwrap().unwrap();
        Self {
            proxied,
            window,
            envelope,
            carried: Arc::default(),
        }
    }

    fn socket(&self, process: &str) -> PathBuf {
        let window = self.proxied.setting.running.state.enclave_socket();
        format!("{}.{process}", window.display()).into()
    }

    /// An agent that asks through this parent.
    fn agent(&self) -> (Asking, Agent) {
        let head = "POST /v1/chat HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n";
        let length = PRIVATE.len();
        let rest = format!("content-length: {length}\r\nx-private: {PRIVATE}\r\n\r\n{PRIVATE}");
        self.agent_that_says(format!("{head}{rest}"))
    }

    fn agent_that_says(&self, request: String) -> (Asking, Agent) {
        let number = Ticket([9; 16]);
        let open = |kind: LineKind| {
            let mut line = UnixStream::connect(self.socket("ingress")).unwrap();
            line.set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            line.write_all(&kind.opening(number)).unwrap();
            line
        };
        let (agent, line) = (open(LineKind::Agent), open(LineKind::Calls));
        let authority = self.proxied.authority.clone();
        let carried = Arc::clone(&self.carried);
        let agent = Carried(agent, Arc::clone(&carried));
        let asks = std::thread::spawn(move || {
            let mut tunnel = tls(agent, "api.example", &authority, &[]).unwrap();
            tunnel.write_all(request.as_bytes()).unwrap();
            let mut came = Vec::new();
            let _ = tunnel.read_to_end(&mut came);
            String::from_utf8_lossy(&came).into_owned()
        });
        let asking = Asking {
            line,
            frames: CallFrames::default(),
            carried,
        };
        (asking, asks)
    }

    fn open(&mut self, sealed: &[u8]) -> Result<OpenedSealed, String> {
        let open = OpenSealed {
            requester: Requester {
                caller: ObservedCaller::named("crew"),
                identity: Some("crew".into()),
            },
            envelope: self.envelope.clone(),
            sealed: sealed.to_vec(),
        };
        match self.window.ask(Request::OpenSealed(open)).unwrap() {
            Ok(Answer::OpenedSealed(opened)) => Ok(opened),
            Err(refusal) => Err(refusal.code),
            other => panic!("{other:?}"),
        }
    }

    /// A line to the process of the service, for the call of a ticket.
    fn line(&self, ticket: Ticket) -> Asking {
        let mut line = UnixStream::connect(self.socket("service-0")).unwrap();
        line.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        line.write_all(&LineKind::Calls.opening(ticket)).unwrap();
        Asking {
            line,
            frames: CallFrames::default(),
            carried: Arc::clone(&self.carried),
        }
    }

    fn lend(&self, ticket: Ticket) {
        let outside = TcpStream::connect(self.proxied.setting.upstream.address).unwrap();
        let mut inside = UnixStream::connect(self.socket("service-0")).unwrap();
        inside
            .write_all(&LineKind::Upstream.opening(ticket))
            .unwrap();
        let (mut from, mut to) = (outside.try_clone().unwrap(), inside.try_clone().unwrap());
        std::thread::spawn(move || io::copy(&mut from, &mut to));
        let (mut from, mut to) = (inside, outside);
        std::thread::spawn(move || io::copy(&mut from, &mut to));
    }

    /// Carries a call as it should be, but that `change` has each frame of the way there, and of the way
    /// back. Gives what the agent reads.
    fn carry(
        &mut self,
        change: impl Fn(bool, usize, (CallKind, Vec<u8>)) -> Vec<(CallKind, Vec<u8>)>,
    ) -> String {
        let (mut asking, agent) = self.agent();
        let asked = asking.asked();
        let opened = self.open(&asked.sealed).unwrap();
        asking.say(CallKind::Told, &cbor::to_vec(&Told::Opened(opened.sealed)));
        let mut line = self.line(opened.ticket);
        let mut count = 0;
        while let Ok(frame) = asking.next() {
            let is_last = frame.0 == CallKind::End;
            for (kind, bytes) in change(true, count, frame) {
                line.say(kind, &bytes);
            }
            count += 1;
            if is_last {
                break;
            }
        }
        let mut count = 0;
        while let Ok(frame) = line.next() {
            if frame.0 == CallKind::LineWanted {
                self.lend(opened.ticket);
                continue;
            }
            for (kind, bytes) in change(false, count, frame) {
                asking.say(kind, &bytes);
            }
            count += 1;
        }
        drop(asking);
        agent.join().unwrap()
    }

    fn sent(&self) -> usize {
        self.proxied.setting.upstream.seen().len()
    }
}

/// A stream of which all is noted.
struct Carried(UnixStream, Arc<Mutex<Vec<u8>>>);

impl Read for Carried {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(out)?;
        self.1.lock().unwrap().extend_from_slice(&out[..read]);
        Ok(read)
    }
}

impl Write for Carried {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.lock().unwrap().extend_from_slice(bytes);
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn flipped(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[0] ^= 1;
    bytes
}

#[test]
fn a_parent_carries_what_it_can_neither_read_nor_change() {
    let mut parent = Parent::start();
    let told = parent.carry(|_, _, frame| vec![frame]);
    assert!(
        told.starts_with("HTTP/1.1 200") && told.ends_with(ANSWERED),
        "{told}"
    );
    let seen = parent.proxied.setting.upstream.seen();
    assert_eq!((seen.len(), &seen[0].body[..]), (1, PRIVATE.as_bytes()));
    let carried = parent.carried.lock().unwrap().clone();
    assert!(carried.len() > 1000);
    for private in [PRIVATE, ANSWERED, SECRET, "/v1/chat"] {
        let found = carried
            .windows(private.len())
            .any(|part| part == private.as_bytes());
        assert!(!found, "{private} was seen");
    }
    // A bit of a body, or a frame that is missing, comes twice or is another kind: nothing of it is sent.
    type Change = fn(bool, usize, (CallKind, Vec<u8>)) -> Vec<(CallKind, Vec<u8>)>;
    let there: [Change; 5] = [
        |there, count, (kind, bytes)| match (there, count) {
            (true, 0) => vec![(kind, flipped(bytes))],
            _ => vec![(kind, bytes)],
        },
        |there, count, frame| match (there, count) {
            (true, 0) => vec![],
            _ => vec![frame],
        },
        |there, count, frame| match (there, count) {
            (true, 0) => vec![frame.clone(), frame],
            _ => vec![frame],
        },
        |there, count, (kind, bytes)| match (there, count) {
            (true, 0) => vec![(CallKind::End, bytes)],
            _ => vec![(kind, bytes)],
        },
        |there, _, (kind, bytes)| match (there, kind) {
            (true, CallKind::Data) => vec![(kind, b"something else".to_vec())],
            (true, _) => vec![(kind, vec![])],
            _ => vec![(kind, bytes)],
        },
    ];
    let mut before = 1;
    for (number, change) in there.into_iter().enumerate() {
        let told = parent.carry(change);
        assert!(!told.contains("HTTP/1.1 200"), "{number}: {told}");
        // Of a body that was there whole, and came twice, once: it is the agent's own.
        let seen = parent.proxied.setting.upstream.seen();
        let most = before + usize::from(number == 2);
        assert!((before..=most).contains(&seen.len()), "{number}: {seen:?}");
        assert!(
            seen.iter().all(|one| one.body == PRIVATE.as_bytes()),
            "{number}: {seen:?}"
        );
        before = seen.len();
    }
    // Of an answer nothing is believed that was not sealed for it.
    let back: [Change; 4] = [
        |there, count, (kind, bytes)| match (there, count) {
            (false, 0) => vec![(kind, flipped(bytes))],
            _ => vec![(kind, bytes)],
        },
        |there, count, (kind, bytes)| match (there, count) {
            (false, 1) => vec![(kind, flipped(bytes))],
            _ => vec![(kind, bytes)],
        },
        |there, count, frame| match (there, count) {
            (false, 1) => vec![],
            _ => vec![frame],
        },
        |there, count, frame| match (there, count) {
            (false, 1) => vec![frame.clone(), frame],
            _ => vec![frame],
        },
    ];
    for (number, change) in back.into_iter().enumerate() {
        let told = parent.carry(change);
        // Cut off, and not whole: there is no last chunk.
        let whole = told.ends_with("0\r\n\r\n")
            || (told.contains("content-length") && told.ends_with(ANSWERED));
        assert!(number == 3 || !whole, "{number}: {told}");
        assert!(
            !told.contains(&format!("{ANSWERED}{ANSWERED}")),
            "{number}: {told}"
        );
    }
}

#[test]
fn whoever_has_the_ticket_of_a_sealed_call_has_nothing_sent_with_it() {
    let mut parent = Parent::start();
    let (mut asking, agent) = parent.agent();
    let asked = asking.asked();
    // One that was changed is none.
    assert_eq!(
        parent.open(&flipped(asked.sealed.clone())).unwrap_err(),
        "ingress_unopened"
    );
    let opened = parent.open(&asked.sealed).unwrap();
    let mut line = parent.line(opened.ticket);
    line.say(CallKind::Data, b"the parent's own body, 27b.");
    line.say(CallKind::End, b"");
    let (kind, bytes) = line.next().unwrap();
    assert_eq!(kind, CallKind::Failed);
    assert!(String::from_utf8_lossy(&bytes).contains("aborted"));
    // A request without a body would leave at once.
    let get = "GET /v1/models HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n";
    for frames in [vec![], vec![CallKind::End]] {
        let (mut asking, agent) = parent.agent_that_says(get.to_owned());
        let asked = asking.asked();
        let opened = parent.open(&asked.sealed).unwrap();
        let mut line = parent.line(opened.ticket);
        frames.iter().for_each(|kind| line.say(*kind, b""));
        while let Ok((kind, _)) = line.next() {
            if kind == CallKind::LineWanted {
                parent.lend(opened.ticket);
            }
        }
        drop(asking);
        assert!(!agent.join().unwrap().contains("200 OK"));
        assert_eq!(parent.sent(), 0, "{frames:?}");
    }
    // The key for one request is not the key for another.
    let again = parent.open(&asked.sealed).unwrap();
    let (mut second, other) = parent.agent();
    second.asked();
    second.say(CallKind::Told, &cbor::to_vec(&Told::Opened(again.sealed)));
    drop(second);
    let told = other.join().unwrap();
    assert!(
        told.contains("502") && told.contains("parent_nonsense"),
        "{told}"
    );
    drop(asking);
    assert!(!agent.join().unwrap().contains("200 OK"));
    assert_eq!(parent.sent(), 0);
}

#[test]
fn a_parent_refuses_in_words_of_its_own_and_answers_in_nobodys_stead() {
    let parent = Parent::start();
    let (json, code) = (
        ("content-type", "application/json"),
        ("x-anchorhold-error", "so"),
    );
    let html = ("content-type", "text/html");
    let refused = "HTTP/1.1 403";
    let nonsense = "HTTP/1.1 502";
    for (status, headers, wanted) in [
        (403, vec![json, code], refused),
        (200, vec![json, code], nonsense),
        (302, vec![json, code], nonsense),
        (403, vec![json], nonsense),
        (403, vec![code], nonsense),
        (403, vec![html, code], nonsense),
        (403, vec![json, html, code], nonsense),
        (1000, vec![json, code], ""),
        // Nor does it say how long a refusal is, what comes behind it, or what a browser would keep.
        (403, vec![json, code, ("content-length", "3")], refused),
        (403, vec![json, code, ("content-length", "30000")], refused),
        (
            403,
            vec![json, code, ("transfer-encoding", "chunked")],
            refused,
        ),
        (
            403,
            vec![
                json,
                code,
                ("set-cookie", "a=b"),
                ("location", "https://x"),
                ("connection", "keep-alive"),
            ],
            refused,
        ),
    ] {
        let (mut asking, agent) = parent.agent();
        asking.asked();
        let named = headers.iter();
        let named =
            named.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec().into()));
        let says = Refused {
            status,
            headers: named.collect(),
            body: b"as if the service had said so".to_vec(),
        };
        asking.say(CallKind::Told, &cbor::to_vec(&Told::Refused(says)));
        let told = agent.join().unwrap();
        assert!(told.starts_with(wanted), "{status} {headers:?}: {told}");
        assert!(!wanted.is_empty() || told.is_empty(), "{told}");
        if wanted == refused {
            assert!(
                told.contains("content-length: 29\r\n") && told.contains("connection: close\r\n"),
                "{headers:?}: {told}"
            );
            assert!(
                told.ends_with("\r\n\r\nas if the service had said so"),
                "{told}"
            );
            for other in ["set-cookie", "location", "transfer-encoding", "keep-alive"] {
                assert!(!told.contains(other), "{other}: {told}");
            }
        } else {
            assert!(!told.contains("as if"), "{status} {headers:?}: {told}");
        }
    }
    // What it says in place of frames is no answer either.
    let (mut asking, agent) = parent.agent();
    asking.asked();
    asking.say(CallKind::Head, b"nonsense");
    assert_eq!(agent.join().unwrap(), "");
}
