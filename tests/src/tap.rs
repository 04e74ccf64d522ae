//! What stands between sidecar and enclave, and ends one of them at a step that a test names.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use identity::cbor;
use protocol::{EGRESS_PORT, FrameBuffer, Part, Request, RequestFrame, ResponseFrame, WINDOW_PORT};
use rustix::process::{Pid, Signal, kill_process};

/// What of a step is the last that anybody learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The question was asked, and does not arrive.
    Asked,
    /// It was answered, and the answer does not arrive.
    Answered,
}

/// A step of those that are asked after one was armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Of this number, from 0.
    Number(usize),
    /// The first of this name.
    Named(&'static str),
}

/// Connects to a port of the enclave: [`WINDOW_PORT`] or [`EGRESS_PORT`].
type Connect = dyn Fn(u32) -> io::Result<UnixStream> + Send + Sync;

/// Two sockets for the sidecar, and behind them the enclave.
pub struct Tap {
    shared: Arc<Shared>,
    window: PathBuf,
}

struct Shared {
    connect: Box<Connect>,
    plan: Mutex<Plan>,
    /// The process that is to end; 0 while it is not known.
    victim: AtomicU32,
}

/// Which step ends whom. Only steps of the state and rotations count.
#[derive(Default)]
struct Plan {
    /// Those that were asked since this was made.
    steps: Vec<String>,
    end: Option<(Step, Moment)>,
    hit: Option<String>,
}

impl Tap {
    /// Listens in this folder.
    ///
    /// # Panics
    /// If it cannot.
    pub fn start(
        folder: &Path,
        connect: impl Fn(u32) -> io::Result<UnixStream> + Send + Sync + 'static,
    ) -> Self {
        let window = folder.join("tap.sock");
        let shared = Arc::new(Shared {
            connect: Box::new(connect),
            plan: Mutex::default(),
            victim: AtomicU32::new(0),
        });
        let egress = folder.join("tap.sock.egress");
        for (path, port) in [(&window, WINDOW_PORT), (&egress, EGRESS_PORT)] {
            let listener = UnixListener::bind(path).expect("a socket");
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    shared.join(&stream, port);
                }
            });
        }
        Self { shared, window }
    }

    /// Where the sidecar finds the enclave's window.
    pub fn window(&self) -> &Path {
        &self.window
    }

    /// Counts steps from now on: at this moment of this step the victim is killed, once it is named.
    pub fn end_at(&self, step: Step, moment: Moment) {
        self.shared.victim.store(0, Ordering::SeqCst);
        *self.shared.plan() = Plan {
            end: Some((step, moment)),
            ..Plan::default()
        };
    }

    /// Names the victim: the process of this id.
    pub fn set_victim(&self, pid: u32) {
        self.shared.victim.store(pid, Ordering::SeqCst);
    }

    /// The step at which a process was ended: its name.
    pub fn ended_at(&self) -> Option<String> {
        self.shared.plan().hit.clone()
    }

    /// Everything passes from now on.
    pub fn let_pass(&self) {
        *self.shared.plan() = Plan::default();
    }
}

impl Shared {
    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a connection, in threads that end with it.
    fn join(self: &Arc<Self>, sidecar: &UnixStream, port: u32) {
        // While there is no enclave the sidecar's connection ends at once.
        let Ok(enclave) = (self.connect)(port) else {
            return;
        };
        let _ = enclave.set_read_timeout(None);
        let counted = port == WINDOW_PORT;
        let asked: Arc<Mutex<BTreeMap<u64, usize>>> = Arc::default();
        for moment in [Moment::Asked, Moment::Answered] {
            let (Ok(near), Ok(far)) = (sidecar.try_clone(), enclave.try_clone()) else {
                return;
            };
            let (from, to) = match moment {
                Moment::Asked => (near, far),
                Moment::Answered => (far, near),
            };
            let (shared, asked) = (Arc::clone(self), Arc::clone(&asked));
            std::thread::spawn(move || {
                let mut watch = |frame: &[u8]| counted && shared.ends(frame, moment, &asked);
                let _ = carry(&from, &to, counted, &mut watch);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }

    /// Whether this frame is the end of somebody, who is dead then.
    fn ends(&self, frame: &[u8], moment: Moment, asked: &Mutex<BTreeMap<u64, usize>>) -> bool {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut plan = self.plan();
        let step = match moment {
            Moment::Asked => {
                let Ok(frame) = cbor::from_slice::<RequestFrame>(frame) else {
                    return false;
                };
                let Some(name) = name(&frame.request) else {
                    return false;
                };
                plan.steps.push(name);
                asked.insert(frame.id, plan.steps.len() - 1);
                plan.steps.len() - 1
            }
            Moment::Answered => {
                let Ok(frame) = cbor::from_slice::<ResponseFrame>(frame) else {
                    return false;
                };
                let Some(step) = asked.remove(&frame.id) else {
                    return false;
                };
                step
            }
        };
        let is_it = |end| match end {
            Step::Number(number) => number == step,
            Step::Named(name) => plan.steps[step] == name,
        };
        let Some((end, when)) = plan.end else {
            return false;
        };
        if plan.hit.is_some() || when != moment || !is_it(end) {
            return false;
        }
        while self.victim.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        kill(self.victim.load(Ordering::SeqCst));
        plan.hit = Some(plan.steps[step].clone());
        true
    }
}

/// Carries bytes, whole frames if they are `framed`, until an end or one that is `watched` for.
fn carry(
    mut from: &UnixStream,
    mut to: &UnixStream,
    framed: bool,
    watch: &mut impl FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let (mut chunk, mut frames) = (vec![0; 64 * 1024], FrameBuffer::default());
    loop {
        let read = from.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        if !framed {
            to.write_all(&chunk[..read])?;
            continue;
        }
        frames.push(&chunk[..read]);
        while let Some(frame) = frames.next_frame().map_err(io::Error::other)? {
            if watch(frame) {
                return Ok(());
            }
            let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
            to.write_all(&[&length.to_be_bytes(), frame].concat())?;
        }
    }
}

/// A step of the state, or none: to ask how it is changes nothing.
fn name(request: &Request) -> Option<String> {
    let part = |what: &str, part: Part| format!("{what} {part:?}");
    Some(match request {
        Request::BirthDocument { .. } => "BirthDocument".into(),
        Request::Birth { .. } => "Birth".into(),
        Request::OpenState => "OpenState".into(),
        Request::AskKms(_) => "AskKms".into(),
        Request::PutPiece(piece) => part("PutPiece", piece.part),
        Request::GetPiece { part: of, .. } => part("GetPiece", *of),
        Request::Stored => "Stored".into(),
        Request::Rotate(_) => "Rotate".into(),
        _ => return None,
    })
}

/// Kills, and waits until nothing of it runs any more; whoever started it reaps it.
fn kill(pid: u32) {
    let id = Pid::from_raw(pid.cast_signed()).expect("a pid");
    kill_process(id, Signal::KILL).expect("it runs");
    let runs = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = status
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        !matches!(state, None | Some('Z' | 'X'))
    };
    while runs() {
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
}
