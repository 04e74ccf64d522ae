//! The parent's part in a state that outlives the enclave's boot: it keeps the sealed state, brings
//! it to the next boot, signs and lends what asking KMS takes. It can read none of it.

mod credentials;
mod folder;
mod kms;

use std::path::PathBuf;

use protocol::{
    Answer, Endpoint, PIECE, Part, Phase, Piece, Refusal, Request, SignKms, StateStatus,
};
use tracing::{info, warn};

use self::folder::StateFolder;
use crate::Error;

/// How a state is kept.
#[derive(Debug, Clone)]
pub struct StateConfig {
    /// The directory of the sealed state; its own, of mode 0700.
    pub folder: PathBuf,
    /// The operator's certificate, once there is one.
    pub certificate: Option<PathBuf>,
    /// Where KMS is dialled: `host:port`. The host of the key's region if left out. It needs no
    /// trust: TLS ends in the enclave, which wants the name of the region's host.
    pub kms_address: Option<String>,
    /// A shared credentials file of AWS; the environment, else the instance's role, if left out.
    pub credentials: Option<PathBuf>,
}

/// Why a state was not opened, born or stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The enclave refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The enclave is not there, or answered something else.
    #[error("the enclave does not answer; try again")]
    Unavailable,
    /// A file of the state cannot be read or written.
    #[error("the sealed state cannot be kept: {0}")]
    NotStored(String),
    /// A state is kept here already.
    #[error(
        "a sealed state is kept here already; a new one would be another identity. Move its folder away if that is what you want"
    )]
    Exists,
    /// KMS cannot be asked from this host.
    #[error("KMS cannot be asked: {0}")]
    NoLine(String),
}

impl StateError {
    /// The stable snake_case name.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.code,
            Self::Unavailable => "enclave_unavailable",
            Self::NotStored(_) => "state_not_stored",
            Self::Exists => "state_exists",
            Self::NoLine(_) => "kms_not_reachable",
        }
    }
}

/// What is said of a certificate that is named and is not the newest.
const OUTDATED: [&str; 2] = ["state_certificate_outdated", "state_certificate_invalid"];

/// Whoever asks the enclave.
pub(crate) trait Ask {
    /// Asks, and waits.
    fn ask(&mut self, request: Request) -> impl Future<Output = Result<Answer, StateError>> + Send;
}

/// Keeps the state of one enclave.
pub(crate) struct Keeper {
    config: StateConfig,
    folder: StateFolder,
    egress: Endpoint,
}

impl Keeper {
    /// Opens the state's folder.
    pub(crate) fn open(config: StateConfig, enclave: &Endpoint) -> Result<Self, Error> {
        Ok(Self {
            folder: StateFolder::open(&config.folder)?,
            config,
            egress: enclave.egress(),
        })
    }

    /// Whether there is something to bring to an enclave.
    pub(crate) fn has_state(&self) -> bool {
        self.folder.has_state()
    }

    /// Goes on with what is under way until there is nothing more to do: gives how it is then. A
    /// seal that waits is stored; a state that is kept is opened.
    pub(crate) async fn go_on(&self, enclave: &mut impl Ask) -> Result<StateStatus, StateError> {
        let status = state(enclave.ask(Request::State).await?)?;
        let status = if status.pending.is_some() {
            self.store(enclave).await?;
            state(enclave.ask(Request::State).await?)?
        } else {
            status
        };
        match status.phase {
            Phase::Awaited | Phase::Asking if self.has_state() => self.reopen(enclave).await,
            _ => Ok(status),
        }
    }

    /// Whether what is kept would open: brings it to the enclave that has it open as another boot
    /// would have it, asks KMS and compares.
    pub(crate) async fn drill(&self, enclave: &mut impl Ask) -> Result<StateStatus, StateError> {
        self.reopen(enclave).await
    }

    /// Brings what is kept, under the newest word of the operator.
    async fn reopen(&self, enclave: &mut impl Ask) -> Result<StateStatus, StateError> {
        let kept = self.read(Part::Authority)?;
        let word = self.named_word()?.unwrap_or_else(|| kept.clone());
        let opened = self.open_by(enclave, &word).await;
        match opened {
            // A later certificate was taken, and is kept; the one that is named is an old one, perhaps
            // of an operator before.
            Err(StateError::Refused(refusal))
                if word != kept && OUTDATED.contains(&refusal.code.as_str()) =>
            {
                warn!(%refusal, "the certificate that is named is not the newest; taking the one that is kept");
                // Why the new one is not taken is what its operator needs to hear.
                let opened = self.open_by(enclave, &kept).await;
                opened.map_err(|_| StateError::Refused(refusal))
            }
            other => other,
        }
    }

    async fn open_by(
        &self,
        enclave: &mut impl Ask,
        word: &[u8],
    ) -> Result<StateStatus, StateError> {
        for part in [Part::Sealed, Part::Genesis, Part::Document] {
            self.put(enclave, part, &self.read(part)?).await?;
        }
        self.put(enclave, Part::Authority, word).await?;
        match enclave.ask(Request::OpenState).await? {
            Answer::SignKms(question) => self.ask_kms(enclave, &question).await,
            _ => Err(StateError::Unavailable),
        }
    }

    /// The certificate that the configuration names, if it is there yet.
    fn named_word(&self) -> Result<Option<Vec<u8>>, StateError> {
        let Some(file) = &self.config.certificate else {
            return Ok(None);
        };
        match std::fs::read(file) {
            Ok(certificate) if certificate.is_empty() => Err(StateError::NotStored(format!(
                "{} is empty",
                file.display()
            ))),
            Ok(certificate) => Ok(Some(certificate)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::NotStored(format!(
                "{}: {error}",
                file.display()
            ))),
        }
    }

    /// Gives birth to a state by the operator's order, and stores it.
    pub(crate) async fn birth(
        &self,
        enclave: &mut impl Ask,
        order: Vec<u8>,
    ) -> Result<StateStatus, StateError> {
        if self.has_state() {
            return Err(StateError::Exists);
        }
        match enclave.ask(Request::Birth { order }).await? {
            Answer::SignKms(question) => self.ask_kms(enclave, &question).await,
            _ => Err(StateError::Unavailable),
        }
    }

    /// Signs a question, lends a line for it, and stores what comes of it.
    async fn ask_kms(
        &self,
        enclave: &mut impl Ask,
        question: &SignKms,
    ) -> Result<StateStatus, StateError> {
        let file = self.config.credentials.as_ref();
        let credentials = credentials::find(file.map(PathBuf::as_path))
            .await
            .map_err(|error| StateError::NoLine(error.to_string()))?;
        let signed = kms::sign_question(question, &credentials).map_err(|error| {
            let from = credentials::named(file);
            StateError::NoLine(format!("with the credentials of {from}: {error}"))
        })?;
        let address = match &self.config.kms_address {
            Some(address) => address.clone(),
            None => format!("{}:443", question.host),
        };
        kms::lend_line(&address, &self.egress)
            .await
            .map_err(StateError::NoLine)?;
        let status = state(enclave.ask(Request::AskKms(signed)).await?)?;
        if status.pending.is_none() {
            return Ok(status);
        }
        self.store(enclave).await?;
        state(enclave.ask(Request::State).await?)
    }

    /// Stores the seal that waits, reads it back, and shows the enclave what was read. What is
    /// needed to open it stands there before it does.
    pub(crate) async fn store(&self, enclave: &mut impl Ask) -> Result<Answer, StateError> {
        let born = get(enclave, Part::Genesis).await?;
        self.check_place(enclave, born.as_deref()).await?;
        let parts = [Part::Genesis, Part::Document, Part::Authority, Part::Sealed];
        for part in parts {
            let Some(bytes) = get(enclave, part).await? else {
                continue;
            };
            let read = self
                .folder
                .write(part, &bytes)
                .map_err(|error| StateError::NotStored(error.to_string()))?;
            self.put(enclave, part, &read).await?;
        }
        let answer = enclave.ask(Request::Stored).await?;
        info!("the state is sealed and stored");
        Ok(answer)
    }

    /// A seal goes where its state is kept, or where none is: another one is not written over.
    async fn check_place(
        &self,
        enclave: &mut impl Ask,
        born: Option<&[u8]>,
    ) -> Result<(), StateError> {
        if !self.has_state() {
            // A folder that was exchanged for an empty one would hold a seal that nothing opens.
            return match born {
                Some(_) => Ok(()),
                None => Err(StateError::NotStored(
                    "the folder has lost what was kept; put the copy back".into(),
                )),
            };
        }
        let kept = self.read(Part::Genesis)?;
        let is_ours = match born {
            Some(born) => kept == born,
            None => {
                let status = state(enclave.ask(Request::State).await?)?;
                let kept = identity::sha256(&kept).0;
                status
                    .facts
                    .is_some_and(|facts| *facts.state.as_bytes() == kept)
            }
        };
        if is_ours {
            Ok(())
        } else {
            Err(StateError::NotStored(
                "another state is kept in this folder; nothing is written over it".into(),
            ))
        }
    }

    fn read(&self, part: Part) -> Result<Vec<u8>, StateError> {
        self.folder
            .read(part)
            .map_err(|error| StateError::NotStored(error.to_string()))
    }

    async fn put(
        &self,
        enclave: &mut impl Ask,
        part: Part,
        bytes: &[u8],
    ) -> Result<(), StateError> {
        if bytes.is_empty() {
            return Err(StateError::NotStored(format!(
                "{} is missing, or empty",
                self.folder.path(part).display()
            )));
        }
        let total = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut offset = 0;
        for piece in bytes.chunks(PIECE) {
            let piece = Piece {
                part,
                offset,
                bytes: piece.to_vec(),
                total,
            };
            offset += u32::try_from(piece.bytes.len()).unwrap_or(u32::MAX);
            enclave.ask(Request::PutPiece(piece)).await?;
        }
        Ok(())
    }
}

/// A part of the seal that waits; none if it does not change.
async fn get(enclave: &mut impl Ask, part: Part) -> Result<Option<Vec<u8>>, StateError> {
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let offset = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let piece = match enclave.ask(Request::GetPiece { part, offset }).await {
            Ok(Answer::Piece(piece)) => piece,
            Err(StateError::Refused(refusal))
                if offset == 0 && refusal.code == "piece_invalid" && part != Part::Sealed =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
            Ok(_) => return Err(StateError::Unavailable),
        };
        if piece.part != part || piece.offset != offset || piece.bytes.is_empty() {
            return Err(StateError::Unavailable);
        }
        bytes.extend_from_slice(&piece.bytes);
        if bytes.len() > part.max() {
            return Err(StateError::Unavailable);
        }
        if bytes.len() >= piece.total as usize {
            return Ok(Some(bytes));
        }
    }
}

fn state(answer: Answer) -> Result<StateStatus, StateError> {
    match answer {
        Answer::State(status) => Ok(status),
        _ => Err(StateError::Unavailable),
    }
}

/// AWS's credentials of this host: of the file, if one is named; else of the environment, else the
/// instance's role.
pub async fn aws_credentials(
    file: Option<&std::path::Path>,
) -> Result<aws_credential_types::Credentials, String> {
    let found = credentials::find(file).await;
    found.map_err(|error| error.to_string())
}
