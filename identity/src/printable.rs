//! Text of others, for a terminal.

/// The text, with everything written as a JSON escape that a terminal would not show as it is:
/// control characters other than the end of a line, and characters that are invisible or turn the
/// direction of what stands around them (Unicode, TR36 and TR9).
///
/// JSON as serde_json writes it stays JSON of the same value: it has these characters within
/// strings only, where they may be escaped (RFC 8259, section 7).
pub fn printable(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || !deceives(c) {
            escaped.push(c);
        } else {
            c.encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| escaped.push_str(&format!("\\u{unit:04x}")));
        }
    }
    escaped
}

/// Whether there is no such character in a text.
pub fn hides_nothing(text: &str) -> bool {
    !text.chars().any(deceives)
}

/// Whether a terminal does something else than show it.
fn deceives(c: char) -> bool {
    matches!(c,
        // C0, DEL and C1: among them the escape sequences that move the cursor.
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
        // Invisible, of no width, or for the shaping of what stands beside.
        | '\u{ad}' | '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}' | '\u{3164}'
        | '\u{ffa0}' | '\u{fe00}'..='\u{fe0f}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0100}'..='\u{e01ef}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        // Ends of lines and paragraphs; direction.
        | '\u{61c}' | '\u{2028}'..='\u{202e}'
        // Deprecated direction and shaping; tags, which spell out hidden text.
        | '\u{206a}'..='\u{206f}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_for_a_terminal_is_the_same_json_and_holds_nothing_that_a_terminal_does_not_show() {
        let all: String = (0..=0x10_ffff).filter_map(char::from_u32).collect();
        let value = serde_json::json!({&all: [&all, {"a\u{9b}2J": "\u{202e}"}]});
        for text in [
            serde_json::to_string(&value).unwrap(),
            serde_json::to_string_pretty(&value).unwrap(),
        ] {
            let escaped = printable(&text);
            assert!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap() == value);
            let hidden = |c: char| {
                let listed = [
                    0x200b..=0x200f,
                    0x2028..=0x2029,
                    0x202a..=0x202e,
                    0x2060..=0x2069,
                    0xe0000..=0xe007f,
                ];
                c.is_control()
                    || [0x61c, 0xfeff].contains(&u32::from(c))
                    || listed.iter().any(|range| range.contains(&u32::from(c)))
            };
            assert_eq!(escaped.chars().find(|c| *c != '\n' && hidden(*c)), None);
        }
    }

    #[test]
    fn text_that_hides_nothing_is_shown_as_it_is() {
        for text in [
            "",
            "{\"a\": 1}\n",
            "Größe 10 €, 寿司, 🍣, עברית, العربية",
            "a\\u001bb",
        ] {
            assert_eq!(printable(text), text);
        }
        assert_eq!(
            printable("\u{1b}[2K\r\u{9b}2J\u{7f}\t\n"),
            "\\u001b[2K\\u000d\\u009b2J\\u007f\\u0009\n"
        );
        assert_eq!(
            printable("a\u{202e}b\u{e0041}c\u{2028}"),
            "a\\u202eb\\udb40\\udc41c\\u2028"
        );
    }
}
