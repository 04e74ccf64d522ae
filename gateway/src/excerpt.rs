//! What of a payload is written down.

/// Of a payload so many bytes are written.
pub const MAX_PAYLOAD: usize = 4096;

/// A payload as it is written: at most [`MAX_PAYLOAD`] bytes, whole characters.
pub fn excerpt(scrubbed: &[u8]) -> String {
    // No more is looked at: a character that is cut here is cut off below.
    let text = String::from_utf8_lossy(&scrubbed[..scrubbed.len().min(MAX_PAYLOAD + 4)]);
    let mut end = text.len().min(MAX_PAYLOAD);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_ends_between_characters() {
        let text = format!("{}é{}", "a".repeat(MAX_PAYLOAD - 1), "b".repeat(9));
        assert_eq!(excerpt(text.as_bytes()), "a".repeat(MAX_PAYLOAD - 1));
        assert_eq!(excerpt(b"short"), "short");
    }
}
