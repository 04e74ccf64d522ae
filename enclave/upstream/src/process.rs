//! The process of a service: calls come over the pipe, lines to its listener.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use identity::cbor;
use minicbor::{Decode, Encode};
use protocol::{FrameBuffer, LineKind, write_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::Error;
use crate::call;
use crate::lines::{Lines, MAX_LINES};
use crate::shared::Shared;
use crate::wire::{Answer, Ask, Ended};

const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// The two pipes to the process with the keys.
#[derive(Debug)]
pub struct Pipes {
    /// What it says.
    pub input: Messages,
    /// What it is told.
    pub output: pipe::Sender,
}

/// Messages of the process with the keys: frames of deterministic CBOR.
#[derive(Debug)]
pub struct Messages {
    pipe: pipe::Receiver,
    buffer: FrameBuffer,
}

impl Pipes {
    /// Of these files, which are pipes. It is made before the process confines itself.
    pub fn new(runtime: &Runtime, input: File, output: File) -> io::Result<Self> {
        let _within = runtime.enter();
        Ok(Self {
            input: Messages {
                pipe: pipe::Receiver::from_file(input)?,
                buffer: FrameBuffer::default(),
            },
            output: pipe::Sender::from_file(output)?,
        })
    }
}

/// Serves until the pipe ends. `confined` is written first: one byte that says that this process has
/// confined itself.
pub fn serve(runtime: &Runtime, pipes: Pipes, lines: Lines, confined: u8) -> Result<(), Error> {
    runtime.block_on(run(pipes, lines, confined))
}

async fn run(mut pipes: Pipes, lines: Lines, confined: u8) -> Result<(), Error> {
    pipes.output.write_all(&[confined]).await?;
    let mut asks = pipes.input;
    let setup = match asks.next().await? {
        Some(Ask::Begin(setup)) => setup,
        Some(_) => return Err(Error::NotBegun),
        // Nobody needs it.
        None => return Ok(()),
    };
    let (ended, endings) = mpsc::channel(MAX_LINES);
    let shared = Arc::new(Shared::new(&setup, ended)?);
    tokio::spawn(accept(Arc::clone(&shared), lines));
    tokio::spawn(sweep(Arc::clone(&shared)));
    let telling = tokio::spawn(tell(pipes.output, endings));
    tokio::select! {
        told = telling => told.map_err(|error| Error::Pipe(io::Error::other(error)))?,
        taken = take_calls(&shared, &mut asks) => taken,
    }
}

async fn take_calls(shared: &Shared, asks: &mut Messages) -> Result<(), Error> {
    while let Some(ask) = asks.next().await? {
        match ask {
            Ask::Call(call) => shared.offer(*call).await,
            Ask::Revoke(revoked) => shared.revoke(revoked),
            Ask::Begin(_) => return Err(Error::NotBegun),
        }
    }
    Ok(())
}

impl Messages {
    /// The next one; none at the end.
    pub async fn next<T: for<'b> Decode<'b, ()> + Encode<()>>(
        &mut self,
    ) -> Result<Option<T>, Error> {
        let mut chunk = vec![0; 16 * 1024];
        loop {
            if let Some(frame) = self.buffer.next_frame()? {
                let ask = cbor::from_slice(frame).map_err(protocol::Error::from)?;
                return Ok(Some(ask));
            }
            match self.pipe.read(&mut chunk).await? {
                0 if self.buffer.is_partial() => return Err(Error::FrameCut),
                0 => return Ok(None),
                read => self.buffer.push(&chunk[..read]),
            }
        }
    }
}

/// Tells how calls ended.
async fn tell(mut pipe: pipe::Sender, mut endings: mpsc::Receiver<Ended>) -> Result<(), Error> {
    let mut frames = Vec::new();
    write_frame(&Answer::Ready, &mut frames)?;
    pipe.write_all(&frames).await?;
    while let Some(ended) = endings.recv().await {
        frames.clear();
        write_frame(&Answer::Ended(ended), &mut frames)?;
        pipe.write_all(&frames).await?;
    }
    Ok(())
}

async fn accept(shared: Arc<Shared>, lines: Lines) {
    let served = lines.serve(move |line, (kind, ticket), place| {
        let shared = Arc::clone(&shared);
        async move {
            match kind {
                LineKind::Calls => {
                    call::serve(&shared, line, ticket).await;
                    drop(place);
                }
                // It counts as the line of its call, which has a place.
                LineKind::Upstream => shared.lend(ticket, line),
                // Agents' own lines go to the ingress process.
                LineKind::Agent => {}
            }
        }
    });
    served.await;
}

async fn sweep(shared: Arc<Shared>) {
    loop {
        sleep(SWEEP_EVERY).await;
        shared.sweep().await;
    }
}
