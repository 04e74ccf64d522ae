//! A parent that lies: it speaks to the enclave, and to the process of a service, by itself.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use broker::Omni;
use harness::services::With;
use harness::window::Window;
use identity::caller::ObservedCaller;
use identity::{Digest, Signer, sha256};
use parent_proxy::KeyFile;
use protocol::{
    Answer, CallFrame, CallFrames, CallKind, CountedBody, LineKind, OpenCredential, Request,
    Requester, ServiceRequest, Ticket,
};

use super::setting::Setting;
use super::upstream::{Upstream, answer};

struct Parent {
    setting: Setting,
    window: RefCell<Window>,
    envelope: Vec<u8>,
    line: PathBuf,
    /// Of each request that it asks for.
    headers: Vec<(String, minicbor::bytes::ByteVec)>,
}

/// What came over a line for calls before it ended, or nothing more came.
type Came = Vec<(CallKind, Vec<u8>)>;

impl Parent {
    fn start() -> Self {
        Self::with(&With::default())
    }

    fn with(with: &With<'_>) -> Self {
        let upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"paid"));
        let setting = Setting::with(upstream, with);
        setting.put_well("crew", "sk-live-0123456789");
        let state = &setting.running.state;
        let key = KeyFile::read(&state.operator_key()).unwrap();
        let actor = Omni::of_operator(key.public_key()).child("crew");
        let kept = state.folder().join("credentials");
        let envelope = std::fs::read(kept.join(broker::object_path(&actor, "api"))).unwrap();
        let proxy_key = KeyFile::read(&state.proxy_key()).unwrap();
        let stream = UnixStream::connect(state.enclave_socket()).unwrap();
        let window = Window::connect_on(stream, &proxy_key).unwrap().unwrap();
        let line = format!("{}.service-0", state.enclave_socket().display()).into();
        Self {
            setting,
            window: RefCell::new(window),
            envelope,
            line,
            headers: Vec::new(),
        }
    }

    /// A ticket for a body of this length and digest.
    fn open(&mut self, length: Option<u64>, body: Digest<32>) -> Ticket {
        self.open_counted(length, Some(body), None).unwrap()
    }

    /// A ticket for a body that asks this of a model; or the code of why there is none.
    fn open_counted(
        &mut self,
        length: Option<u64>,
        body: Option<Digest<32>>,
        counted: Option<CountedBody>,
    ) -> Result<Ticket, String> {
        let open = OpenCredential {
            requester: Requester {
                caller: ObservedCaller::named("crew"),
                identity: Some("crew".into()),
            },
            envelope: self.envelope.clone(),
            request: ServiceRequest {
                service: "api".into(),
                method: "POST".into(),
                target: "/chat".into(),
                headers: self.headers.clone(),
                length,
                body,
                text: None,
                counted,
                websocket: false,
            },
        };
        match self
            .window
            .borrow_mut()
            .ask(Request::OpenCredential(open))
            .unwrap()
        {
            Ok(Answer::Opened(ticket)) => Ok(ticket),
            Err(refusal) => Err(refusal.code),
            other => panic!("{other:?}"),
        }
    }

    /// Sends these frames, lends a line when it is asked for one, and reads for as long as something
    /// comes.
    fn call(&self, ticket: Ticket, frames: &[(CallKind, &[u8])]) -> Came {
        let mut line = UnixStream::connect(&self.line).unwrap();
        line.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut out = LineKind::Calls.opening(ticket).to_vec();
        for (kind, bytes) in frames {
            CallFrame::write(*kind, bytes, &mut out);
        }
        line.write_all(&out).unwrap();
        let (mut came, mut read) = (Came::new(), CallFrames::default());
        loop {
            while let Some((kind, bytes)) = read.next_frame().unwrap() {
                if kind == CallKind::LineWanted {
                    self.lend(ticket).unwrap();
                }
                came.push((kind, bytes.to_vec()));
            }
            let mut chunk = [0; 4096];
            match line.read(&mut chunk) {
                Ok(0) | Err(_) => return came,
                Ok(length) => read.room().extend_from_slice(&chunk[..length]),
            }
        }
    }

    fn lend(&self, ticket: Ticket) -> io::Result<()> {
        let outside = TcpStream::connect(self.setting.upstream.address)?;
        let mut inside = UnixStream::connect(&self.line)?;
        inside.write_all(&LineKind::Upstream.opening(ticket))?;
        let (mut from, mut to) = (outside.try_clone()?, inside.try_clone()?);
        std::thread::spawn(move || io::copy(&mut from, &mut to));
        let (mut from, mut to) = (inside, outside);
        std::thread::spawn(move || io::copy(&mut from, &mut to));
        Ok(())
    }
}

fn said(came: &Came) -> String {
    let failed = came.iter().find(|(kind, _)| *kind == CallKind::Failed);
    failed.map_or("nothing".into(), |(_, bytes)| {
        String::from_utf8_lossy(bytes).into_owned()
    })
}

#[test]
fn a_parent_cannot_have_another_body_sent_than_the_one_that_was_signed_or_approved() {
    use CallKind::{Data, End};
    let mut parent = Parent::start();
    let (wanted, other) = (sha256(b"pay 5"), &b"pay 900"[..]);
    let length = Some(other.len() as u64);
    for (length, frames, says) in [
        // A frame behind it, and no end.
        (length, vec![(Data, other), (Data, &b""[..])], "nothing"),
        (length, vec![(Data, other)], "nothing"),
        (
            None,
            vec![(Data, other), (Data, b""), (Data, b"")],
            "nothing",
        ),
        // Of which nobody knows the length.
        (
            None,
            vec![(Data, other), (Data, b""), (End, b"")],
            "body_mismatch",
        ),
        (length, vec![(Data, other), (End, b"")], "body_mismatch"),
        // None at all.
        (Some(0), vec![(End, b"")], "body_mismatch"),
        (Some(0), vec![], "body_mismatch"),
        (None, vec![(End, b"")], "body_mismatch"),
        // Longer or shorter than was said.
        (Some(5), vec![(Data, other), (End, b"")], "aborted"),
        (Some(9), vec![(Data, other), (End, b"")], "aborted"),
    ] {
        let ticket = parent.open(length, wanted);
        let came = parent.call(ticket, &frames);
        assert!(said(&came).contains(says), "{length:?}: {}", said(&came));
        assert!(!came.iter().any(|(kind, _)| *kind == CallKind::Head));
        assert_eq!(parent.setting.upstream.seen().len(), 0, "{length:?}");
    }
    for length in [Some(5), None] {
        let ticket = parent.open(length, wanted);
        let came = parent.call(ticket, &[(Data, b"pay"), (Data, b" 5"), (End, b"")]);
        assert!(came.iter().any(|(kind, _)| *kind == CallKind::Head));
    }
    // The length was known of the first.
    assert_eq!(parent.setting.upstream.seen()[0].body, b"pay 5");
}

#[test]
fn a_parent_cannot_have_a_credential_put_into_another_body_than_the_one_that_was_approved() {
    use CallKind::{Data, End};
    let mut parent = Parent::with(&With {
        inject: "{ field = \"token\" }",
        rules: "{ name = \"chat\", methods = [\"POST\"], paths = [\"/chat\"], identities = [\"crew\"] }",
        ..With::default()
    });
    let form = b"application/x-www-form-urlencoded".to_vec();
    parent.headers = vec![("content-type".into(), form.into())];
    let (wanted, other) = (&b"pay=5&token="[..], &b"pay=9&token="[..]);
    let length = Some(wanted.len() as u64);
    for (length, frames, says) in [
        (length, vec![(Data, other), (End, b"")], "body_mismatch"),
        (
            length,
            vec![(Data, wanted), (Data, b"x"), (End, b"")],
            "aborted",
        ),
        (length, vec![(Data, &wanted[1..]), (End, b"")], "aborted"),
        (length, vec![(Data, wanted)], "nothing"),
    ] {
        let ticket = parent.open(length, sha256(wanted));
        let came = parent.call(ticket, &frames);
        assert!(said(&came).contains(says), "{length:?}: {}", said(&came));
        assert_eq!(parent.setting.upstream.seen().len(), 0, "{length:?}");
    }
    // Of which nobody knows the length: it may be too long.
    let unknown = parent.open_counted(None, Some(sha256(wanted)), None);
    assert_eq!(unknown.err().as_deref(), Some("placeholder_misplaced"));
    let ticket = parent.open(length, sha256(wanted));
    parent.call(
        ticket,
        &[(Data, &wanted[..7]), (Data, &wanted[7..]), (End, b"")],
    );
    let placed = [wanted, b"sk-live-0123456789"].concat();
    assert_eq!(parent.setting.upstream.seen()[0].body, placed);
}

#[test]
fn a_parent_that_says_less_than_is_asked_has_nothing_sent() {
    use CallKind::{Data, End};
    let rules = "{ name = \"chat\", methods = [\"POST\"], paths = [\"/chat\"], identities = [\"crew\"], \
        priced = { form = \"openai-chat\", max_tokens = 100 }, limits = [{ per = \"day\", max = 100000, amount = \"tokens\" }] }";
    let mut parent = Parent::with(&With {
        rules,
        ..With::default()
    });
    let body = br#"{"model": "toy", "messages": [], "max_tokens": 50}"#;
    let (length, said_of) = (
        Some(body.len() as u64),
        |model: &str, input: usize, output: u64| {
            Some(CountedBody {
                model: model.into(),
                input: input as u64,
                output,
            })
        },
    );
    let input = body.len() + 1024;
    for (counted, code) in [
        (None, "body_not_priced"),
        (said_of("toy", input, 101), "body_not_priced"),
        (said_of("toy", usize::MAX, 1), "body_not_priced"),
        (said_of("toy", input - 1, 50), "body_not_priced"),
        (said_of("toy", input + 1, 50), "body_not_priced"),
        (said_of("toy", 0, 0), "body_not_priced"),
    ] {
        assert_eq!(parent.open_counted(length, None, counted), Err(code.into()));
    }
    assert_eq!(
        parent.open_counted(None, None, said_of("toy", input, 50)),
        Err("body_not_priced".into())
    );
    for counted in [
        said_of("toy", input, 49),
        said_of("toy", input, 0),
        said_of("cheap", input, 50),
    ] {
        let ticket = parent.open_counted(length, None, counted).unwrap();
        let came = parent.call(
            ticket,
            &[(Data, &body[..20]), (Data, &body[20..]), (End, b"")],
        );
        assert!(said(&came).contains("body_mismatch"), "{}", said(&came));
        assert_eq!(parent.setting.upstream.seen().len(), 0);
    }
    // Nor something else of the same length, which is no such body at all.
    let ticket = parent
        .open_counted(length, None, said_of("toy", input, 50))
        .unwrap();
    let other = vec![b' '; body.len()];
    assert!(said(&parent.call(ticket, &[(Data, &other), (End, b"")])).contains("body_mismatch"));
    let ticket = parent
        .open_counted(length, None, said_of("toy", input, 50))
        .unwrap();
    parent.call(
        ticket,
        &[(Data, &body[..20]), (Data, &body[20..]), (End, b"")],
    );
    assert_eq!(parent.setting.upstream.seen()[0].body, body);
}

#[test]
fn what_one_enclave_sealed_or_let_be_made_is_nothing_to_another() {
    let (mut first, mut second) = (Parent::start(), Parent::start());
    let body = sha256(b"");
    // A ticket of the one, shown to the other.
    let ticket = first.open(Some(0), body);
    let came = second.call(ticket, &[(CallKind::End, b"")]);
    assert!(!came.iter().any(|(kind, _)| *kind == CallKind::Head));
    assert!(second.setting.upstream.seen().is_empty());
    // It is the first one's still.
    let came = first.call(ticket, &[(CallKind::End, b"")]);
    assert!(came.iter().any(|(kind, _)| *kind == CallKind::Head));
    // A credential of the one, brought to the other.
    second.envelope.clone_from(&first.envelope);
    let refused = second.open_counted(Some(0), Some(body), None);
    assert_eq!(refused, Err("envelope_unopened".into()));
}

#[test]
fn the_process_of_a_service_that_lies_harms_the_calls_of_its_own_service_alone() {
    let liar = harness::program("examples/lying-service");
    // It stands first in the bundle.
    let other = "[[services]]\nname = \"other\"\nupstream = \"https://other.example\"\ninject = { header = \"x-api-key\" }\n\
        rules = [{ name = \"read\", methods = [\"GET\"], paths = [\"/*\"], identities = [\"crew\"] }]\n";
    let mut parent = Parent::with(&With {
        bundle: other,
        addresses: "other = \"127.0.0.1:9\", ",
        enclave: &["--liar", liar.to_str().unwrap()],
        ..With::default()
    });
    let enclave = parent.setting.running.state.enclave_socket();
    parent.line = format!("{}.service-1", enclave.display()).into();
    let another = "another-credential-5d41402abc4b";
    assert!(
        parent
            .setting
            .put_for("other", "crew", another, &[])
            .status
            .success()
    );
    let mut count = 0;
    let mut closed = |parent: &Parent, more: usize| {
        count += more;
        let mut all = parent.setting.events("credential.close", count);
        let last = all.split_off(count - more);
        last.into_iter()
            .map(|line| line["credential"].clone())
            .collect::<Vec<_>>()
    };
    let lie = |parent: &Parent, path: &str| {
        let got = parent.setting.ask(&format!("GET /other/{path}"), "", b"");
        got.header("x-anchorhold-error").unwrap_or_default()
    };
    // Nobody listens there: whoever owns the process could answer what it likes.
    assert_eq!(lie(&parent, "twice"), "enclave_unavailable");
    assert_eq!(closed(&parent, 1)[0]["status"], 200);
    // A call of another service, of which whoever owns the host told it.
    let ticket = parent.open(Some(0), sha256(b""));
    let told = format!("{}.service-0.ticket", enclave.display());
    std::fs::write(told, ticket.0).unwrap();
    lie(&parent, "others");
    assert_eq!(closed(&parent, 1)[0]["status"], 204);
    let came = parent.call(ticket, &[(CallKind::End, b"")]);
    assert!(came.iter().any(|(kind, _)| *kind == CallKind::Head));
    harness::wait_for(|| {
        let close = parent
            .window
            .borrow_mut()
            .ask(Request::CloseCredential { ticket });
        close.unwrap().is_ok()
    });
    assert_eq!(parent.setting.ask("GET /api/models", "", b"").status, 200);
    for own in closed(&parent, 2) {
        assert_eq!(
            (&own["status"], &own["service"]),
            (&200.into(), &"api".into())
        );
    }
    // Ends of which nobody asks any more the enclave writes down by itself, and other calls bring them along.
    let until = |parent: &Parent, wanted: usize, is: &dyn Fn(&serde_json::Value) -> bool| {
        harness::wait_for(|| {
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(parent.setting.ask("GET /api/models", "", b"").status, 200);
            let all = parent.setting.events_so_far("credential.close");
            all.iter().filter(|line| is(&line["credential"])).count() == wanted
        });
    };
    // Much about calls that are none: others go on meanwhile.
    lie(&parent, "floods");
    until(&parent, 1, &|close| {
        close["service"] == "other" && close["status"] == 206
    });
    // Nonsense: the end of it, and of what was under way there; the rest goes on.
    lie(&parent, "silent");
    assert_eq!(lie(&parent, "nonsense"), "enclave_unavailable");
    harness::wait_for(|| lie(&parent, "twice") == "service_gone");
    until(&parent, 2, &|close| close["ending"] == "service_gone");
    let body = serde_json::json!({"payload": {}, "intent": "a"});
    let signed = harness::post(&parent.setting.running.socket, "/sign", &body).unwrap();
    assert_eq!(signed.status, 200);
    // It had the credentials of its own service, and no other's.
    let heard = std::fs::read(format!("{}.service-0.heard", enclave.display())).unwrap();
    let has = |needle: &str| {
        heard
            .windows(needle.len())
            .any(|some| some == needle.as_bytes())
    };
    assert!(has(another) && !has("sk-live-0123456789"));
}
