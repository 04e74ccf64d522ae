//! Opening a connection to the enclave, whatever the transport.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, bind, connect, socket};
use protocol::Endpoint;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

/// A byte stream to the enclave.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects once.
pub async fn open(endpoint: &Endpoint) -> io::Result<Box<dyn Stream>> {
    match endpoint {
        Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        Endpoint::HybridVsock { path, port } => Ok(Box::new(
            hybrid(UnixStream::connect(path).await?, *port).await?,
        )),
        Endpoint::Vsock { cid, port } => {
            let (cid, port) = (*cid, *port);
            let stream = tokio::task::spawn_blocking(move || privileged_vsock(cid, port))
                .await
                .map_err(io::Error::other)??;
            Ok(Box::new(tokio_vsock::VsockStream::new(stream)?))
        }
    }
}

/// Asks the hypervisor's socket for a port of the guest: `CONNECT <port>`, answered by `OK
/// <number>`.
async fn hybrid(mut stream: UnixStream, port: u32) -> io::Result<UnixStream> {
    const MAX_ANSWER: usize = 32;
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') && answer.len() < MAX_ANSWER {
        answer.push(stream.read_u8().await?);
    }
    if answer.starts_with(b"OK ") {
        Ok(stream)
    } else {
        Err(io::Error::other("the hypervisor did not connect the port"))
    }
}

/// The enclave lets in only source ports below 1024, which an unprivileged process of the parent
/// cannot bind.
fn privileged_vsock(cid: u32, port: u32) -> io::Result<vsock::VsockStream> {
    let fd = socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let free = (512..1024).rev().find(|source| {
        bind(
            fd.as_raw_fd(),
            &VsockAddr::new(vsock::VMADDR_CID_ANY, *source),
        )
        .is_ok()
    });
    if free.is_none() {
        return Err(io::Error::other(
            "no vsock port below 1024 can be bound; the sidecar needs CAP_NET_BIND_SERVICE",
        ));
    }
    connect(fd.as_raw_fd(), &VsockAddr::new(cid, port))?;
    Ok(vsock::VsockStream::from(fd))
}
