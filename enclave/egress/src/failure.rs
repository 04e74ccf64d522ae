//! Failures, from whatever went wrong.

use std::fmt::Display;
use std::io;

use crate::wire::{Failure, FailureKind};

/// The longest message of a [`Failure`], in bytes.
pub(crate) const MAX_MESSAGE: usize = 256;

impl Failure {
    /// Makes `text` printable ASCII and cuts it.
    pub(crate) fn new(kind: FailureKind, text: impl Display) -> Self {
        let text = text.to_string();
        let printable = text.chars().map(|c| if is_printable(c) { c } else { '?' });
        Self {
            kind,
            message: printable.take(MAX_MESSAGE).collect(),
        }
    }

    /// The answer is none that is taken.
    pub(crate) fn malformed(text: impl Display) -> Self {
        Self::new(FailureKind::Malformed, text)
    }

    /// The time is over.
    pub(crate) fn too_slow() -> Self {
        Self::new(FailureKind::TooSlow, "the time is over")
    }

    /// What became of a read or a write: rustls hands its own errors on within those of I/O.
    pub(crate) fn of_line(error: &io::Error) -> Self {
        let inner = error.get_ref();
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::new(FailureKind::Tls, tls);
        }
        match error.kind() {
            io::ErrorKind::TimedOut => Self::too_slow(),
            _ => Self::new(FailureKind::Broken, format!("the line broke: {error}")),
        }
    }
}

/// Whether `c` is an ASCII character that prints, or a space.
pub(crate) fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_printable_ascii_of_256_bytes_at_most() {
        let failure = Failure::malformed("a\r\n\u{1b}[31m\u{e9}\0z".to_owned() + &"x".repeat(999));
        assert_eq!(failure.message.len(), 256);
        assert!(failure.message.starts_with("a???[31m??zx"));
    }
}
