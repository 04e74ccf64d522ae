//! What an enclave is asked while its state is not open yet: nothing but what opens it.

use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use protocol::{Answer, Kind, Phase, Refusal, Request, StateStatus, Status};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::keeper::{Ask, Keeper, StateError};
use crate::session::{ConnectError, Session};

/// For one question.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// For what an operator asks, KMS included.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// What was refused is tried again after so long, then after twice as long, and so on.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// How a state is, and the enclave that has it.
#[derive(Debug, Clone)]
pub struct StateView {
    /// The enclave.
    pub enclave: Status,
    /// The state.
    pub state: StateStatus,
    /// Why it is not open, as far as this host knows.
    pub hindrance: Option<StateError>,
}

/// What an operator asks.
pub(crate) enum Command {
    /// A document to look at before ordering a birth.
    BirthDocument(Vec<u8>),
    /// To give birth.
    Birth(Vec<u8>),
    /// To try again now.
    Retry,
}

type Reply = oneshot::Sender<Result<Answer, StateError>>;

/// The state of an enclave, seen from its parent.
pub(crate) struct Awaiting {
    pub(crate) keeper: tokio::sync::Mutex<Keeper>,
    commands: mpsc::Sender<(Command, Reply)>,
    taken: tokio::sync::Mutex<mpsc::Receiver<(Command, Reply)>>,
    /// None once it is open.
    view: RwLock<Option<StateView>>,
    told: Mutex<String>,
}

impl Awaiting {
    pub(crate) fn new(keeper: Keeper) -> Self {
        let (commands, taken) = mpsc::channel(8);
        Self {
            keeper: tokio::sync::Mutex::new(keeper),
            commands,
            taken: tokio::sync::Mutex::new(taken),
            view: RwLock::new(None),
            told: Mutex::default(),
        }
    }

    /// How it was when that was seen last; none once it is open, or while the enclave is not there.
    pub(crate) fn view(&self) -> Option<StateView> {
        self.view
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What everybody is told who asks for a signature meanwhile.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        let view = self.view()?;
        let why = match view.hindrance {
            Some(error) => error.to_string(),
            None => {
                "it waits for the operator's order to give birth to it (anchorhold state genesis)"
                    .into()
            }
        };
        Some(Refusal {
            kind: Kind::Unavailable,
            code: "state_awaited".into(),
            message: format!("the state is not open yet: {why}"),
            retry_after: Some(1),
        })
    }

    /// Asks while it is not open.
    pub(crate) async fn command(&self, command: Command) -> Result<Answer, StateError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.try_send((command, reply));
        sent.map_err(|_| StateError::Unavailable)?;
        match timeout(COMMAND_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer,
            _ => Err(StateError::Unavailable),
        }
    }

    /// Opens the state over this connection, however long that takes; does what the operator asks
    /// meanwhile. The seal of a rotation may still wait to be stored: the key of before is used until
    /// then.
    pub(crate) async fn open(
        &self,
        session: &mut Session<'_>,
    ) -> Result<StateStatus, ConnectError> {
        let mut commands = self.taken.lock().await;
        let mut delay = RETRY_FIRST;
        loop {
            let went = self.keeper.lock().await.go_on(session).await;
            let stored = self.keeper.lock().await.has_state();
            if let Some(open) = self.saw(session, went).await? {
                return Ok(open);
            }
            tokio::select! {
                Some((command, reply)) = commands.recv() => {
                    let answer = self.obey(session, command).await;
                    let state = match session.ask(Request::State).await? {
                        Answer::State(status) => Ok(status),
                        _ => return Err(ConnectError::Nonsense),
                    };
                    let open = self.saw(session, state).await?;
                    // Nobody may be waiting any more.
                    let _ = reply.send(answer);
                    if let Some(open) = open {
                        return Ok(open);
                    }
                    delay = RETRY_FIRST;
                }
                () = tokio::time::sleep(delay) => {
                    delay = if stored { (delay * 2).min(RETRY_LAST) } else { RETRY_FIRST };
                }
            }
        }
    }

    /// Notes how it is; gives that once it is open.
    async fn saw(
        &self,
        session: &mut Session<'_>,
        went: Result<StateStatus, StateError>,
    ) -> Result<Option<StateStatus>, ConnectError> {
        let (state, hindrance) = match went {
            Ok(status) => (status, None),
            Err(StateError::Unavailable) => return Err(ConnectError::Nonsense),
            Err(error) => match session.ask(Request::State).await? {
                Answer::State(status) => (status, Some(error)),
                _ => return Err(ConnectError::Nonsense),
            },
        };
        if state.phase == Phase::Open {
            self.set(None);
            self.tell(String::new());
            info!("the state is open");
            return Ok(Some(state));
        }
        let enclave = session.status(Request::Status).await?;
        self.tell(hindrance.as_ref().map_or_else(
            || "no state is kept here; it waits for the operator's order".into(),
            ToString::to_string,
        ));
        self.set(Some(StateView {
            enclave,
            state,
            hindrance,
        }));
        Ok(None)
    }

    async fn obey(
        &self,
        session: &mut Session<'_>,
        command: Command,
    ) -> Result<Answer, StateError> {
        let keeper = self.keeper.lock().await;
        match command {
            Command::BirthDocument(nonce) => {
                Ask::ask(session, Request::BirthDocument { nonce }).await
            }
            Command::Birth(order) => keeper.birth(session, order).await.map(Answer::State),
            Command::Retry => keeper.go_on(session).await.map(Answer::State),
        }
    }

    /// The enclave is not there any more.
    pub(crate) fn lost(&self) {
        self.set(None);
    }

    fn set(&self, view: Option<StateView>) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// Once for each reason.
    fn tell(&self, why: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != why {
            if !why.is_empty() {
                warn!(why, "the state is not open");
            }
            *told = why;
        }
    }
}

impl Ask for Session<'_> {
    async fn ask(&mut self, request: Request) -> Result<Answer, StateError> {
        match timeout(ASK_TIMEOUT, Session::ask(self, request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ConnectError::Refused(refusal))) => Err(refusal.into()),
            _ => Err(StateError::Unavailable),
        }
    }
}
