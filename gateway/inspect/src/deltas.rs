//! Where the protocols of agents put the pieces of a text that they stream.
//!
//! OpenAI (chat completions, completions, responses), Anthropic (messages), A2A (artifacts, messages,
//! status), Gemini and Ollama. Messages of MCP come whole.

use std::hash::{Hash, Hasher};
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

/// The places, to which text what comes there belongs, and whether it is JSON. `*` is an element of an
/// array; several parts of one event are one text, as readers join them.
const PLACES: [(&str, &str, bool); 31] = [
    ("choices.*.delta.content", "content", false),
    ("choices.*.delta.content.*.text", "content", false),
    ("choices.*.delta.reasoning_content", "reasoning", false),
    ("choices.*.delta.reasoning", "reasoning", false),
    ("choices.*.delta.refusal", "refusal", false),
    (
        "choices.*.delta.tool_calls.*.function.arguments",
        "arguments",
        true,
    ),
    ("choices.*.delta.tool_calls.*.custom.input", "input", false),
    ("choices.*.delta.function_call.arguments", "arguments", true),
    ("choices.*.logprobs.content.*.token", "tokens", false),
    ("choices.*.text", "content", false),
    ("delta", "delta", false),
    ("delta.text", "text", false),
    ("content_block.text", "text", false),
    ("delta.thinking", "thinking", false),
    ("content_block.thinking", "thinking", false),
    ("delta.partial_json", "json", true),
    ("result.artifact.parts.*.text", "artifact", false),
    ("result.parts.*.text", "message", false),
    ("result.status.message.parts.*.text", "status", false),
    (
        "result.artifactUpdate.artifact.parts.*.text",
        "artifact",
        false,
    ),
    ("result.message.parts.*.text", "message", false),
    (
        "result.statusUpdate.status.message.parts.*.text",
        "status",
        false,
    ),
    ("artifactUpdate.artifact.parts.*.text", "artifact", false),
    ("message.parts.*.text", "message", false),
    ("statusUpdate.status.message.parts.*.text", "status", false),
    ("candidates.*.content.parts.*.text", "content", false),
    ("message.content", "message", false),
    ("message.thinking", "thinking", false),
    ("thinking", "thinking", false),
    ("response", "response", false),
    ("content", "response", false),
];

/// Pieces of one event, and objects around them, at most. No protocol has so many.
const MAX_PARTS: usize = 256;
/// A longer value tells texts apart by its digest.
const MAX_MARK: usize = 64;

/// The last piece of a text comes with a member of this name that is true.
const LAST: [&str; 4] = ["lastChunk", "last_chunk", "final", "done"];

/// Looks at one event; nothing is found in what is not JSON. None if it has more parts than an event of
/// any protocol.
pub(crate) fn deltas(data: &[u8]) -> Option<Deltas> {
    let mut walk = Walk {
        jiter: Jiter::new(data),
        path: String::new(),
        marks: Vec::new(),
        is_last: false,
        has_arguments: false,
        out: Vec::new(),
        parts: 0,
    };
    let first = walk.jiter.peek();
    let walked = first.and_then(|peek| walk.value(peek));
    if walk.parts > MAX_PARTS {
        return None;
    }
    if walked.is_err() {
        return Some(Deltas::default());
    }
    for delta in walk.out.iter_mut().filter(|_| walk.has_arguments) {
        delta.is_json = true;
    }
    Some(Deltas {
        pieces: walk.out,
        ended: walk.is_last.then_some(walk.marks),
    })
}

struct Walk<'a> {
    jiter: Jiter<'a>,
    /// Names and stars, with dots between: the begin of one of the places.
    path: String,
    /// Those of the whole event.
    marks: Vec<String>,
    is_last: bool,
    /// The event's type says that its piece is one of the arguments of a call.
    has_arguments: bool,
    out: Vec<Delta>,
    /// Objects and pieces that were seen.
    parts: usize,
}

impl Walk<'_> {
    fn value(&mut self, peek: Peek) -> JiterResult<()> {
        match peek {
            _ if self.parts > MAX_PARTS => self.jiter.known_skip(peek),
            Peek::Object => self.object(),
            Peek::Array => self.array(),
            Peek::String => self.string(),
            other => self.jiter.known_skip(other),
        }
    }

    fn string(&mut self) -> JiterResult<()> {
        let Some((_, key, is_json)) = PLACES.iter().find(|(place, ..)| *place == self.path) else {
            return self.jiter.known_skip(Peek::String);
        };
        let begins = self.jiter.current_index();
        let text = self.jiter.known_str()?.to_owned();
        self.parts += 1;
        self.out.push(Delta {
            key: (*key).to_owned(),
            token: begins..self.jiter.current_index(),
            text,
            is_json: *is_json,
        });
        Ok(())
    }

    fn array(&mut self) -> JiterResult<()> {
        let before = self.path.len();
        let leads = self.enter("*");
        let mut next = self.jiter.known_array()?;
        while let Some(peek) = next {
            if leads {
                self.value(peek)?;
            } else {
                self.jiter.known_skip(peek)?;
            }
            next = self.jiter.array_step()?;
        }
        self.path.truncate(before);
        Ok(())
    }

    fn object(&mut self) -> JiterResult<()> {
        self.parts += 1;
        let from = self.out.len();
        let mut marks: [Option<String>; MARKS.len()] = Default::default();
        let before = self.path.len();
        let mut name = self.jiter.known_object()?.map(str::to_owned);
        while let Some(member) = name {
            let peek = self.jiter.peek()?;
            let begins = self.jiter.current_index();
            if self.enter(&member) {
                self.value(peek)?;
            } else {
                self.jiter.known_skip(peek)?;
            }
            self.path.truncate(before);
            let token = self.jiter.slice_to_current(begins);
            if let Some(at) = MARKS.iter().position(|mark| *mark == member)
                && !matches!(peek, Peek::Object | Peek::Array)
            {
                // Of two of one name the last one counts.
                marks[at] = Some(format!("{}.{member}={}", self.path, value_of(token)));
            }
            self.has_arguments |= before == 0
                && member == "type"
                && memchr::memmem::find(token, b"arguments").is_some();
            self.is_last |= is_last(&member, peek, token, before == 0);
            name = self.jiter.next_key()?.map(str::to_owned);
        }
        for mark in marks.into_iter().flatten() {
            for delta in &mut self.out[from..] {
                delta.key.push('\n');
                delta.key.push_str(&mark);
            }
            self.marks.push(mark);
        }
        Ok(())
    }

    /// Goes one level down; whether a piece may stand there.
    fn enter(&mut self, name: &str) -> bool {
        if name.len() > MAX_MARK {
            return false;
        }
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
        let is_begin = |place: &str| {
            place
                .strip_prefix(self.path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        PLACES.iter().any(|(place, ..)| is_begin(place))
    }
}

/// A value that tells texts apart, or its digest.
fn value_of(token: &[u8]) -> String {
    if token.len() <= MAX_MARK {
        return String::from_utf8_lossy(token).into_owned();
    }
    let mut hasher = std::hash::DefaultHasher::new();
    token.hash(&mut hasher);
    format!("{:x}-{}", hasher.finish(), token.len())
}

/// Whether a member says that a text is at its end.
fn is_last(name: &str, peek: Peek, token: &[u8], is_top: bool) -> bool {
    match (name, peek) {
        // Some say something of it with every piece.
        ("finish_reason", Peek::String) => token.len() > 2,
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
        let found = deltas(data.as_bytes()).unwrap().pieces.into_iter();
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
        let artifact = |id: &str| {
            let parts = r#"[{"text":"a"},{"text":"b"}]"#;
            of(&format!(
                r#"{{"result":{{"artifact":{{"artifactId":"{id}","parts":{parts}}}}}}}"#
            ))
        };
        let parts = artifact("x");
        assert_eq!(parts[0].0, parts[1].0);
        assert_ne!(parts[0].0, artifact("y")[0].0);
        // What tells them apart may be long, and takes little; what is no text of theirs, nothing.
        let long = "A".repeat(100_000);
        assert_ne!(artifact(&long)[0].0, artifact(&long[1..])[0].0);
        assert!(artifact(&long)[0].0.len() < 200);
    }

    #[test]
    fn an_event_has_so_many_parts_and_no_more() {
        let pieces = |count: usize| {
            let choices = vec![r#"{"text":"a"}"#; count].join(",");
            deltas(format!(r#"{{"choices":[{choices}],"index":1}}"#).as_bytes())
        };
        assert_eq!(pieces(100).unwrap().pieces.len(), 100);
        assert_eq!(pieces(1000), None);
        // Elsewhere there may be as many objects as there are.
        let others = vec![r#"{"index":1}"#; 10_000].join(",");
        let other = deltas(format!(r#"{{"others":[{others}]}}"#).as_bytes()).unwrap();
        assert_eq!(other.pieces, []);
    }

    #[test]
    fn an_end_ends_the_texts_that_it_names() {
        let ended = |data: &str, of: &str| {
            let key = deltas(of.as_bytes()).unwrap().pieces[0].key.clone();
            let ended = deltas(data.as_bytes()).unwrap().ended;
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
        for more in ["null", "\"\""] {
            let event =
                format!(r#"{{"choices":[{{"index":1,"delta":{{}},"finish_reason":{more}}}]}}"#);
            assert!(!ended(&event, chat));
        }
    }
}
