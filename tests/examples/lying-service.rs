//! The process of a service that somebody owns, for a test: it keeps all that it hears, and lies about calls as their paths
//! ask for. A development enclave starts it in place of its first service's (`--liar`).

use std::fs::OpenOptions;
use std::io::{self, Read, Write};

use protocol::{FrameBuffer, Ticket, write_frame};
use upstream::{Answer, Ask, Ended, Ending};

/// That nothing can be got out of it any more: a lie as well.
const CONFINED: u8 = 0x01;
/// So many calls that it was never told of.
const FLOOD: u32 = 20_000;

fn main() -> io::Result<()> {
    let listen = std::env::args().next_back().unwrap_or_default();
    let mut out = io::stdout().lock();
    out.write_all(&[CONFINED])?;
    out.flush()?;
    let mut heard = OpenOptions::new()
        .create(true)
        .append(true)
        .open(format!("{listen}.heard"))?;
    let (mut from, mut frames, mut chunk) = (io::stdin().lock(), FrameBuffer::default(), [0; 4096]);
    loop {
        while let Some(frame) = frames.next_frame().map_err(io::Error::other)? {
            let ask = minicbor::decode(frame).map_err(io::Error::other)?;
            for answer in lies(&ask, &listen)? {
                out.write_all(&answer)?;
            }
            out.flush()?;
        }
        match from.read(&mut chunk)? {
            0 => return Ok(()),
            length => {
                heard.write_all(&chunk[..length])?;
                frames.push(&chunk[..length]);
            }
        }
    }
}

fn lies(ask: &Ask, listen: &str) -> io::Result<Vec<Vec<u8>>> {
    let call = match ask {
        Ask::Begin(_) => return Ok(vec![framed(&Answer::Ready)?]),
        Ask::Revoke(_) => return Ok(Vec::new()),
        Ask::Call(call) => call,
    };
    let path = String::from_utf8_lossy(call.target.as_ref()).into_owned();
    let own = |status| ended(call.ticket, status);
    Ok(match path.rsplit('/').next().unwrap_or_default() {
        "twice" => vec![own(200)?, own(500)?],
        // The call of another service, of which it was told by whoever owns the host.
        "others" => {
            let mut ticket = [0; 16];
            ticket.copy_from_slice(&std::fs::read(format!("{listen}.ticket"))?);
            vec![ended(Ticket(ticket), 500)?, own(204)?]
        }
        "floods" => {
            let flood = (0..FLOOD).map(|number| {
                let mut ticket = [7; 16];
                ticket[..4].copy_from_slice(&number.to_be_bytes());
                ended(Ticket(ticket), 500)
            });
            flood.chain([own(206)]).collect::<io::Result<_>>()?
        }
        "nonsense" => vec![vec![0xff; 64]],
        _ => Vec::new(),
    })
}

fn ended(ticket: Ticket, status: u16) -> io::Result<Vec<u8>> {
    framed(&Answer::Ended(Ended {
        ticket,
        ending: Ending::Complete,
        status: Some(status),
        sent: 9,
        sent_digest: [9; 32],
        received: 9,
        received_digest: [9; 32],
        spki: None,
        tokens: None,
        minted: false,
    }))
}

fn framed(answer: &Answer) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    write_frame(answer, &mut out).map_err(io::Error::other)?;
    Ok(out)
}
