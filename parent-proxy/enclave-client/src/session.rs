//! The conversation with which a connection begins: one question at a time, each answer waited for.

use identity::cbor;
use protocol::{
    Answer, ChannelProof, Endpoint, FrameBuffer, Hello, Outcome, Refusal, Request, RequestFrame,
    ResponseFrame, Status, Welcome, write_frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::KeyFile;
use crate::connect::{self, Stream};
use crate::record::Recorder;

pub(crate) type Reader = ReadHalf<Box<dyn Stream>>;
pub(crate) type Writer = WriteHalf<Box<dyn Stream>>;

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Protocol(#[from] protocol::Error),
    #[error("{0}")]
    Identity(#[from] identity::Error),
    #[error("the enclave refused: {0}")]
    Refused(#[from] Refusal),
    #[error("the enclave has another policy bundle; it must be restarted to take this one")]
    OtherPolicy,
    #[error("the enclave closed the connection or answered something else than what was asked")]
    Nonsense,
    #[error("it took too long")]
    Timeout,
    #[error("the state is not open yet")]
    StateAwaited,
}

/// A connection on which the proxy's key is proven.
pub(crate) struct Session<'a> {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) buffer: FrameBuffer,
    next: u64,
    recorder: &'a Recorder,
}

impl<'a> Session<'a> {
    /// Connects, and proves the key.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        key: &KeyFile,
        recorder: &'a Recorder,
    ) -> Result<Self, ConnectError> {
        let (mut reader, mut writer) = tokio::io::split(connect::open(endpoint).await?);
        let mut buffer = FrameBuffer::default();
        let hello = Hello::decode(&read_frame(&mut reader, &mut buffer).await?)?;
        send(&mut writer, &ChannelProof::new(&hello, key)?).await?;
        match cbor::from_slice(&read_frame(&mut reader, &mut buffer).await?)? {
            Welcome::Welcome => Ok(Self {
                reader,
                writer,
                buffer,
                next: 0,
                recorder,
            }),
            Welcome::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Asks, and waits; what was decided is recorded.
    pub(crate) async fn ask(&mut self, request: Request) -> Result<Answer, ConnectError> {
        let id = self.next;
        self.next += 1;
        send(&mut self.writer, &RequestFrame { id, request }).await?;
        let response: ResponseFrame =
            cbor::from_slice(&read_frame(&mut self.reader, &mut self.buffer).await?)?;
        if let Some(line) = response.event {
            self.recorder.take([(line, None)]);
        }
        match response.outcome {
            Outcome::Done(answer) if response.id == id => Ok(answer),
            Outcome::Refused(refusal) => Err(ConnectError::Refused(refusal)),
            Outcome::Done(_) => Err(ConnectError::Nonsense),
        }
    }

    /// Asks what is answered with a status.
    pub(crate) async fn status(&mut self, request: Request) -> Result<Status, ConnectError> {
        match self.ask(request).await? {
            Answer::Status(status) => Ok(status),
            _ => Err(ConnectError::Nonsense),
        }
    }
}

async fn read_frame(
    reader: &mut Reader,
    buffer: &mut FrameBuffer,
) -> Result<Vec<u8>, ConnectError> {
    let mut chunk = vec![0; 4096];
    loop {
        if let Some(frame) = buffer.next_frame()? {
            return Ok(frame.to_vec());
        }
        match reader.read(&mut chunk).await? {
            0 => return Err(ConnectError::Nonsense),
            read => buffer.push(&chunk[..read]),
        }
    }
}

async fn send<T: minicbor::Encode<()>>(
    writer: &mut Writer,
    message: &T,
) -> Result<(), ConnectError> {
    let mut out = Vec::new();
    write_frame(message, &mut out)?;
    Ok(writer.write_all(&out).await?)
}
