//! The operating system's randomness.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::Error;

/// A source of random bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `out`, or says that it cannot.
    fn fill(&self, out: &mut [u8]) -> Result<(), Error>;
}

/// The operating system's randomness, getrandom(2). Never a file: in an image there is none, and
/// none can be opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
        let mut rest = out;
        while !rest.is_empty() {
            match getrandom(&mut *rest, GetRandomFlags::empty()) {
                Ok(filled) => rest = &mut rest[filled..],
                Err(Errno::INTR) => {}
                Err(_) => return Err(Error::NoRandomness),
            }
        }
        Ok(())
    }
}
