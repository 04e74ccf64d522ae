use crate::Error;

/// A source of random bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `out`, or says that it cannot.
    fn fill(&self, out: &mut [u8]) -> Result<(), Error>;
}

/// The operating system's randomness, getrandom(2).
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
        getrandom::fill(out).map_err(|_| Error::NoRandomness)
    }
}
