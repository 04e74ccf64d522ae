//! Where the protocols of agents put the pieces of a text that they stream.
//!
//! OpenAI (chat completions, completions, responses), Anthropic (messages), A2A (artifacts, messages,
//! status), Gemini and Ollama. Messages of MCP come whole.

use std::ops::Range;

use jiter::{Jiter, JiterResult, Peek};

/// A piece of a text: a string token of an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delta {
    /// Which text it continues.
    pub(crate) key: String,
    /// Which token it is, with its quotation marks.
    pub(crate) token: Range<usize>,
    pub(crate) text: String,
    /// The text is JSON: the arguments of a tool call.
    pub(crate) is_json: bool,
}

/// What an event says of texts that come in pieces.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Deltas {
    pub(crate) pieces: Vec<Delta>,
    /// The texts whose keys contain all of these are at their end.
    pub(crate) ended: Option<Vec<String>>,
}

/// Members that tell several texts of one stream apart.
const MARKS: [&str; 6] = [
    "index",
    "item_id",
    "output_index",
    "content_index",
    "artifactId",
    "artifact_id",
];

/// The places, and whether what comes there is JSON. `*` is an element of an array.
const PLACES: [(&str, bool); 20] = [
    ("choices.*.delta.content", false),
    ("choices.*.delta.reasoning_content", false),
    ("choices.*.delta.reasoning", false),
    ("choices.*.delta.refusal", false),
    ("choices.*.delta.tool_calls.*.function.arguments", true),
    ("choices.*.delta.function_call.arguments", true),
    ("choices.*.text", false),
    ("delta", false),
    ("delta.text", false),
    ("delta.thinking", false),
    ("delta.partial_json", true),
    ("result.artifact.parts.*.text", false),
    ("result.parts.*.text", false),
    ("result.status.message.parts.*.text", false),
    ("result.artifactUpdate.artifact.parts.*.text", false),
    ("result.message.parts.*.text", false),
    ("result.statusUpdate.status.message.parts.*.text", false),
    ("candidates.*.content.parts.*.text", false),
    ("message.content", false),
    ("response", false),
];

/// The last piece of a text comes with a member of this name that is true.
const LAST: [&str; 4] = ["lastChunk", "last_chunk", "final", "done"];

/// Looks at one event; nothing is found in what is not JSON.
pub(crate) fn deltas(data: &[u8]) -> Deltas {
    let mut walk = Walk {
        jiter: Jiter::new(data),
        path: String::new(),
        marks: Vec::new(),
        is_last: false,
        has_arguments: false,
        out: Vec::new(),
    };
    let first = walk.jiter.peek();
    if first.and_then(|peek| walk.value(peek)).is_err() {
        return Deltas::default();
    }
    for delta in walk.out.iter_mut().filter(|_| walk.has_arguments) {
        delta.is_json = true;
    }
    Deltas {
        pieces: walk.out,
        ended: walk.is_last.then_some(walk.marks),
    }
}

struct Walk<'a> {
    jiter: Jiter<'a>,
    /// Names and stars, with dots between.
    path: String,
    /// Those of the whole event.
    marks: Vec<String>,
    is_last: bool,
    /// The event's type says that its piece is one of the arguments of a call.
    has_arguments: bool,
    out: Vec<Delta>,
}

impl Walk<'_> {
    fn value(&mut self, peek: Peek) -> JiterResult<()> {
        match peek {
            Peek::Object => self.object(),
            Peek::Array => self.array(),
            Peek::String => self.string(),
            other => self.jiter.known_skip(other),
        }
    }

    fn string(&mut self) -> JiterResult<()> {
        let begins = self.jiter.current_index();
        let text = self.jiter.known_str()?.to_owned();
        let token = begins..self.jiter.current_index();
        let place = PLACES.iter().find(|(place, _)| *place == self.path);
        if let Some((_, is_json)) = place {
            self.out.push(Delta {
                key: self.path.clone(),
                token,
                text,
                is_json: *is_json,
            });
        }
        Ok(())
    }

    fn array(&mut self) -> JiterResult<()> {
        let mut next = self.jiter.known_array()?;
        let (before, mut position) = (self.path.len(), 0);
        self.enter("*");
        while let Some(peek) = next {
            let (from, marks) = (self.out.len(), self.marks.len());
            self.value(peek)?;
            // An index of its own says more than the place in this event.
            let index = format!("{}.index=", self.path);
            if !self.marks[marks..]
                .iter()
                .any(|mark| mark.starts_with(&index))
            {
                self.mark(from, &format!("{}#{position}", self.path));
            }
            position += 1;
            next = self.jiter.array_step()?;
        }
        self.path.truncate(before);
        Ok(())
    }

    fn object(&mut self) -> JiterResult<()> {
        let from = self.out.len();
        let mut marks = Vec::new();
        let before = self.path.len();
        let mut name = self.jiter.known_object()?.map(str::to_owned);
        while let Some(member) = name {
            let peek = self.jiter.peek()?;
            let begins = self.jiter.current_index();
            self.enter(&member);
            self.value(peek)?;
            let token = self.jiter.slice_to_current(begins);
            if MARKS.contains(&member.as_str()) && !matches!(peek, Peek::Object | Peek::Array) {
                let value = String::from_utf8_lossy(token);
                marks.push(format!("{}={value}", self.path));
            }
            self.has_arguments |= before == 0
                && member == "type"
                && memchr::memmem::find(token, b"arguments").is_some();
            self.is_last |= is_last(&member, peek, token, before == 0);
            self.path.truncate(before);
            name = self.jiter.next_key()?.map(str::to_owned);
        }
        for mark in marks {
            self.mark(from, &mark);
            self.marks.push(mark);
        }
        Ok(())
    }

    fn enter(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }

    /// The pieces from here on belong to a text of this mark.
    fn mark(&mut self, from: usize, mark: &str) {
        for delta in &mut self.out[from..] {
            delta.key.push('\n');
            delta.key.push_str(mark);
        }
    }
}

/// Whether a member says that a text is at its end.
fn is_last(name: &str, peek: Peek, token: &[u8], is_top: bool) -> bool {
    match (name, peek) {
        ("finish_reason" | "finishReason", Peek::String) => true,
        ("type", Peek::String) if is_top => {
            let kind = token.strip_suffix(b"\"").unwrap_or(token);
            kind.ends_with(b"_stop") || kind.ends_with(b".done") || kind.ends_with(b".completed")
        }
        (name, Peek::True) => LAST.contains(&name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(data: &str) -> Vec<(String, String, bool)> {
        let found = deltas(data.as_bytes()).pieces.into_iter();
        found
            .map(|delta| {
                assert_eq!(
                    serde_json::from_str::<String>(&data[delta.token]).unwrap(),
                    delta.text
                );
                (delta.key, delta.text, delta.is_json)
            })
            .collect()
    }

    #[test]
    fn pieces_are_found_where_each_protocol_puts_them() {
        for (data, text) in [
            (
                r#"{"choices":[{"index":0,"delta":{"content":"a\u0062"}}]}"#,
                "ab",
            ),
            (r#"{"choices":[{"text":"ab","index":0}]}"#, "ab"),
            (
                r#"{"type":"response.output_text.delta","item_id":"m","delta":"ab"}"#,
                "ab",
            ),
            (
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"ab"}}"#,
                "ab",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"artifact":{"artifactId":"x","parts":[{"kind":"text","text":"ab"}]}}}"#,
                "ab",
            ),
            (r#"{"message":{"role":"assistant","content":"ab"}}"#, "ab"),
        ] {
            let found = of(data);
            assert_eq!(found.len(), 1, "{data}");
            assert_eq!((found[0].1.as_str(), found[0].2), (text, false), "{data}");
        }
        let arguments = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{"}}]}}]}"#;
        assert!(of(arguments)[0].2);
        let arguments =
            r#"{"type":"response.function_call_arguments.delta","item_id":"f","delta":"{"}"#;
        assert!(of(arguments)[0].2);
        for none in [r#"{"text":"ab"}"#, "[1]", "\"ab\"", "{", "1e999"] {
            assert!(of(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn texts_of_one_stream_are_told_apart() {
        let key = |data: &str| of(data)[0].0.clone();
        let chat =
            |index: u8| format!(r#"{{"choices":[{{"delta":{{"content":"a"}},"index":{index}}}]}}"#);
        assert_eq!(key(&chat(0)), key(&chat(0)));
        assert_ne!(key(&chat(0)), key(&chat(1)));
        // Whatever else stands there.
        let first = r#"{"id":"c","created":1,"choices":[{"index":0,"delta":{"role":"assistant","content":"a"}}]}"#;
        assert_eq!(key(first), key(&chat(0)));
        let parts =
            of(r#"{"result":{"artifact":{"artifactId":"x","parts":[{"text":"a"},{"text":"b"}]}}}"#);
        assert_ne!(parts[0].0, parts[1].0);
    }

    #[test]
    fn an_end_ends_the_texts_that_it_names() {
        let ended = |data: &str, of: &str| {
            let key = deltas(of.as_bytes()).pieces[0].key.clone();
            let ended = deltas(data.as_bytes()).ended;
            ended.is_some_and(|marks| {
                marks
                    .iter()
                    .all(|mark| key.split('\n').any(|it| it == mark))
            })
        };
        let block = |index: u8| {
            format!(r#"{{"type":"content_block_delta","index":{index},"delta":{{"text":"a"}}}}"#)
        };
        let stop = r#"{"type":"content_block_stop","index":0}"#;
        assert!(ended(stop, &block(0)) && !ended(stop, &block(1)));
        assert!(ended(r#"{"type":"message_stop"}"#, &block(1)));
        let chat = r#"{"choices":[{"index":1,"delta":{"content":"a"}}]}"#;
        let finished = |index: u8| {
            format!(r#"{{"choices":[{{"index":{index},"delta":{{}},"finish_reason":"stop"}}]}}"#)
        };
        assert!(ended(&finished(1), chat) && !ended(&finished(0), chat));
        assert!(!ended(
            r#"{"choices":[{"index":1,"delta":{},"finish_reason":null}]}"#,
            chat
        ));
    }
}
