//! What a request to a model can cost at most, by a closed list of what it may say; and what it did cost, by
//! what the service says.
//!
//! A member that is not on the list is refused, wherever it stands: a tier, a tool of the service's own, an
//! image, or a conversation that it keeps, would cost what nobody has counted.

use std::cell::Cell;
use std::fmt;

use policy::{Form, Price, Priced};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::{Error, Header, Target};

/// The longest body that can be counted.
pub const MAX_PRICED: usize = 2 * 1024 * 1024;
/// What a service puts before a prompt: the frame of each message is shorter than its JSON, that of tools is
/// not.
const OVERHEAD: u64 = 1024;
/// Values in a body.
const MAX_VALUES: usize = 20_000;
const MILLION: u128 = 1_000_000;
const MAX_ANSWERS: u64 = 128;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which model.
    pub model: String,
    /// The most that it can take.
    pub most: Tokens,
}

/// Tokens of a prompt and of what is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Of the prompt.
    pub input: u64,
    /// Of the answer.
    pub output: u64,
}

impl Tokens {
    /// What they cost, in micro-dollars, rounded up.
    pub fn cost(self, price: &Price) -> u64 {
        let of = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let sum = of(self.input, price.input).saturating_add(of(self.output, price.output));
        u64::try_from(sum.div_ceil(MILLION)).unwrap_or(u64::MAX)
    }

    /// Of a prompt in a body of so many bytes, at most.
    pub fn prompt(length: u64) -> u64 {
        length.saturating_add(OVERHEAD)
    }

    /// How many they are.
    pub fn sum(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

impl Asked {
    /// Reads a body of this form, if it says nothing that is not on the list. It must say how long its answer
    /// may be. A prompt has at most one token for each byte of the body.
    pub fn read(form: Form, body: &[u8]) -> Result<Self, Error> {
        let length = body.len() as u64;
        let body = parse(body)?;
        let longest = longest(form, &body)?;
        let longest = longest.ok_or_else(|| wrong("it does not say how long its answer may be"))?;
        check(form, &body)?;
        let model = body.get("model").and_then(Value::as_str);
        let model = model.ok_or_else(|| wrong("it names no model"))?;
        let answers = match body.get("n") {
            None => 1,
            Some(n) => whole(n)
                .filter(|n| (1..=MAX_ANSWERS).contains(n))
                .ok_or_else(|| wrong("n is 1 to 128"))?,
        };
        let output = longest.checked_mul(answers);
        Ok(Self {
            model: model.to_owned(),
            most: Tokens {
                input: Tokens::prompt(length),
                output: output.ok_or_else(|| wrong("it wants too many tokens"))?,
            },
        })
    }
}

/// Headers that change nothing of what a request costs.
const KNOWN_HEADERS: [&str; 13] = [
    "accept",
    "accept-language",
    "anthropic-version",
    "content-type",
    "http-referer",
    "idempotency-key",
    "sec-fetch-mode",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-client-request-id",
    "x-request-id",
    "x-title",
];

/// Refuses a query, and headers by which a service may be asked for something that no price is known for, such as
/// `anthropic-beta`.
pub fn check_unpriced(target: &Target, headers: &[Header]) -> Result<(), Error> {
    if target.query().is_some_and(|query| !query.is_empty()) {
        return Err(wrong("its URL has a query, that no price is known for"));
    }
    let is_known = |header: &&Header| {
        KNOWN_HEADERS.contains(&header.name.as_str()) || header.name.starts_with("x-stainless-")
    };
    // In another charset a service would read another text.
    let is_json = |header: &Header| {
        let kind = header.value.to_ascii_lowercase();
        let plain: Vec<u8> = kind.into_iter().filter(|b| *b != b' ').collect();
        plain == b"application/json" || plain == b"application/json;charset=utf-8"
    };
    let mut kinds = headers
        .iter()
        .filter(|header| header.name == "content-type");
    if !kinds.all(is_json) {
        return Err(wrong("its type is not application/json"));
    }
    match headers.iter().find(|header| !is_known(header)) {
        None => Ok(()),
        Some(header) => Err(wrong(&format!(
            "it has a header that no price is known for: {}",
            header.name
        ))),
    }
}

/// What a request to a model asks, and the body with which it is sent: with the longest answer that the rule
/// lets it want, where it does not say how long one may be.
pub fn counted(priced: &Priced, body: &[u8]) -> Result<(Asked, Option<Vec<u8>>), Error> {
    let mended = with_longest(priced.form, body, priced.max_tokens)?;
    let asked = Asked::read(priced.form, mended.as_deref().unwrap_or(body))?;
    Ok((asked, mended))
}

/// A body that says how long its answer may be: this long, where it does not say so itself. None, if it does.
fn with_longest(form: Form, body: &[u8], tokens: u64) -> Result<Option<Vec<u8>>, Error> {
    let mut body = parse(body)?;
    if longest(form, &body)?.is_some() {
        return Ok(None);
    }
    let name = match form {
        Form::OpenaiChat => "max_completion_tokens",
        Form::OpenaiCompatible => "max_tokens",
        Form::OpenaiResponses => "max_output_tokens",
        Form::AnthropicMessages => "max_tokens",
    };
    body.insert(name.to_owned(), tokens.into());
    serde_json::to_vec(&body)
        .map(Some)
        .map_err(|error| wrong(&error.to_string()))
}

fn wrong(why: &str) -> Error {
    Error::BodyNotPriced(why.to_owned())
}

fn parse(body: &[u8]) -> Result<Map<String, Value>, Error> {
    if body.len() > MAX_PRICED {
        return Err(wrong("longer than 2 MiB"));
    }
    let left = Cell::new(MAX_VALUES);
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = Reader { left: &left }.deserialize(&mut reader);
    let read = read.and_then(|value| reader.end().map(|()| value));
    match read.map_err(|error| wrong(&error.to_string()))? {
        Value::Object(body) => Ok(body),
        _ => Err(wrong("no JSON object")),
    }
}

fn whole(value: &Value) -> Option<u64> {
    value.as_u64()
}

/// How long the answer may be, if the body says so.
fn longest(form: Form, body: &Map<String, Value>) -> Result<Option<u64>, Error> {
    let names: &[&str] = match form {
        Form::OpenaiChat => &["max_tokens", "max_completion_tokens"],
        Form::OpenaiResponses => &["max_output_tokens"],
        Form::OpenaiCompatible | Form::AnthropicMessages => &["max_tokens"],
    };
    let mut said = names.iter().filter_map(|name| body.get(*name));
    match (said.next(), said.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => whole(one)
            .filter(|tokens| *tokens > 0)
            .map(Some)
            .ok_or_else(|| wrong("how long its answer may be is no number of tokens")),
        (Some(_), Some(_)) => Err(wrong("it says twice how long its answer may be")),
    }
}

/// Only these members.
fn only(what: &str, object: &Map<String, Value>, known: &[&str]) -> Result<(), Error> {
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let shown: String = name.chars().take(64).collect();
            Err(wrong(&format!(
                "{what} has a member that no price is known for: {shown:?}"
            )))
        }
    }
}

fn object<'v>(what: &str, value: &'v Value) -> Result<&'v Map<String, Value>, Error> {
    value
        .as_object()
        .ok_or_else(|| wrong(&format!("{what} is no object")))
}

fn each<'v>(what: &str, value: Option<&'v Value>) -> Result<&'v [Value], Error> {
    match value {
        None => Ok(&[]),
        Some(value) => value
            .as_array()
            .map(Vec::as_slice)
            .ok_or_else(|| wrong(&format!("{what} is no array"))),
    }
}

/// A text, or parts of these types with these members; `None` is no content at all.
fn content(value: Option<&Value>, kinds: &[(&str, &[&str])]) -> Result<(), Error> {
    match value {
        None | Some(Value::String(_) | Value::Null) => Ok(()),
        Some(parts) => each("content", Some(parts))?
            .iter()
            .try_for_each(|part| kind("a part of a message", part, kinds)),
    }
}

/// One of these types, with these members.
fn kind(what: &str, value: &Value, kinds: &[(&str, &[&str])]) -> Result<(), Error> {
    let object = object(what, value)?;
    let named = object
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let known = kinds.iter().find(|(name, _)| *name == named);
    let (_, members) = known.ok_or_else(|| {
        let shown: String = named.chars().take(64).collect();
        wrong(&format!(
            "{what} has a type that no price is known for: {shown:?}"
        ))
    })?;
    only(what, object, members)
}

fn check(form: Form, body: &Map<String, Value>) -> Result<(), Error> {
    match form {
        Form::OpenaiChat => chat(body),
        // A service that does not know the other name would answer as long as it likes.
        Form::OpenaiCompatible if body.contains_key("max_completion_tokens") => Err(wrong(
            "max_completion_tokens, where the length of an answer is max_tokens",
        )),
        Form::OpenaiCompatible => chat(body),
        Form::OpenaiResponses => responses(body),
        Form::AnthropicMessages => messages(body),
    }
}

/// A member that is an object, if it is there, with these members.
fn part_of(body: &Map<String, Value>, name: &str, members: &[&str]) -> Result<(), Error> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(()),
        Some(part) => only(name, object(name, part)?, members),
    }
}

/// A member that is an object of words.
fn words(body: &Map<String, Value>, name: &str) -> Result<(), Error> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(()),
        Some(part) if object(name, part)?.values().all(Value::is_string) => Ok(()),
        Some(_) => Err(wrong(&format!(
            "{name} has a member that no price is known for"
        ))),
    }
}

/// Which tool: by a word, or one of these types.
fn tool_choice(body: &Map<String, Value>, kinds: &[&str]) -> Result<(), Error> {
    match body.get("tool_choice") {
        None | Some(Value::String(_) | Value::Null) => Ok(()),
        Some(choice) => {
            let named = choice
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if kinds.contains(&named) {
                return Ok(());
            }
            Err(wrong("it chooses a tool that no price is known for"))
        }
    }
}

/// OpenAI's `/v1/chat/completions`.
fn chat(body: &Map<String, Value>) -> Result<(), Error> {
    only(
        "the body",
        body,
        &[
            "model",
            "messages",
            "max_tokens",
            "max_completion_tokens",
            "n",
            "stream",
            "stream_options",
            "temperature",
            "top_p",
            "stop",
            "presence_penalty",
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "top_logprobs",
            "seed",
            "user",
            "response_format",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "reasoning_effort",
            "verbosity",
            "metadata",
            "safety_identifier",
        ],
    )?;
    tool_choice(body, &["function"])?;
    part_of(
        body,
        "stream_options",
        &["include_usage", "include_obfuscation"],
    )?;
    part_of(body, "response_format", &["type", "json_schema"])?;
    words(body, "metadata")?;
    for message in each("messages", body.get("messages"))? {
        let message = object("a message", message)?;
        only(
            "a message",
            message,
            &[
                "role",
                "content",
                "name",
                "tool_calls",
                "tool_call_id",
                "refusal",
            ],
        )?;
        content(
            message.get("content"),
            &[
                ("text", &["type", "text"]),
                ("refusal", &["type", "refusal"]),
            ],
        )?;
        for call in each("tool_calls", message.get("tool_calls"))? {
            kind(
                "a call",
                call,
                &[("function", &["id", "type", "function", "index"])],
            )?;
            part_of(object("a call", call)?, "function", &["name", "arguments"])?;
        }
    }
    for tool in each("tools", body.get("tools"))? {
        let members = &["name", "description", "parameters", "strict"];
        part_of(object("a tool", tool)?, "function", members)?;
    }
    let tools = each("tools", body.get("tools"))?.iter();
    tools
        .into_iter()
        .try_for_each(|tool| kind("a tool", tool, &[("function", &["type", "function"])]))
}

/// OpenAI's `/v1/responses`.
fn responses(body: &Map<String, Value>) -> Result<(), Error> {
    only(
        "the body",
        body,
        &[
            "model",
            "input",
            "instructions",
            "max_output_tokens",
            "stream",
            "temperature",
            "top_p",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "text",
            "reasoning",
            "user",
            "metadata",
            "store",
            "truncation",
            "safety_identifier",
            "top_logprobs",
        ],
    )?;
    tool_choice(body, &["function"])?;
    part_of(
        body,
        "reasoning",
        &["effort", "summary", "generate_summary"],
    )?;
    part_of(body, "text", &["format", "verbosity"])?;
    words(body, "metadata")?;
    if !matches!(
        body.get("instructions"),
        None | Some(Value::String(_) | Value::Null)
    ) {
        return Err(wrong("instructions are no text"));
    }
    let text: &[(&str, &[&str])] = &[
        ("input_text", &["type", "text"]),
        ("output_text", &["type", "text", "annotations", "logprobs"]),
        ("refusal", &["type", "refusal"]),
    ];
    match body.get("input") {
        None | Some(Value::String(_)) => {}
        input => {
            for item in each("input", input)? {
                let object = object("an item", item)?;
                let is_there = |name: &str| object.get(name).is_some_and(|value| !value.is_null());
                match object.get("type") {
                    None | Some(Value::String(_)) => {}
                    Some(_) => return Err(wrong("an item has a type that no price is known for")),
                }
                match object.get("type").and_then(Value::as_str) {
                    // Without them it would be a reference to what the service keeps.
                    None | Some("message") if !is_there("role") || !is_there("content") => {
                        return Err(wrong(
                            "an item that no price is known for: neither role nor content",
                        ));
                    }
                    None | Some("message") => {
                        only(
                            "a message",
                            object,
                            &["type", "role", "content", "id", "status"],
                        )?;
                        content(object.get("content"), text)?;
                    }
                    Some("function_call") if is_there("name") && is_there("arguments") => {
                        only(
                            "a call",
                            object,
                            &["type", "call_id", "id", "name", "arguments", "status"],
                        )?;
                    }
                    Some("function_call_output") if is_there("output") => {
                        only(
                            "a call's output",
                            object,
                            &["type", "call_id", "id", "output", "status"],
                        )?;
                        content(object.get("output"), text)?;
                    }
                    Some(_) => kind("an item", item, &[])?,
                }
            }
        }
    }
    let members: &[&str] = &["type", "name", "description", "parameters", "strict"];
    let tools = each("tools", body.get("tools"))?.iter();
    tools
        .into_iter()
        .try_for_each(|tool| kind("a tool", tool, &[("function", members)]))
}

/// Anthropic's `/v1/messages`.
fn messages(body: &Map<String, Value>) -> Result<(), Error> {
    only(
        "the body",
        body,
        &[
            "model",
            "messages",
            "system",
            "max_tokens",
            "stream",
            "temperature",
            "top_p",
            "top_k",
            "stop_sequences",
            "tools",
            "tool_choice",
            "metadata",
            "thinking",
        ],
    )?;
    tool_choice(body, &["auto", "any", "tool", "none"])?;
    part_of(body, "thinking", &["type", "budget_tokens"])?;
    words(body, "metadata")?;
    let text: &[(&str, &[&str])] = &[("text", &["type", "text"])];
    content(body.get("system"), text)?;
    for message in each("messages", body.get("messages"))? {
        let message = object("a message", message)?;
        only("a message", message, &["role", "content"])?;
        let parts: &[(&str, &[&str])] = &[
            ("text", &["type", "text"]),
            ("tool_use", &["type", "id", "name", "input"]),
            (
                "tool_result",
                &["type", "tool_use_id", "content", "is_error"],
            ),
            ("thinking", &["type", "thinking", "signature"]),
            ("redacted_thinking", &["type", "data"]),
        ];
        content(message.get("content"), parts)?;
        let parts = message.get("content").and_then(Value::as_array);
        for part in parts
            .into_iter()
            .flatten()
            .filter(|part| part["type"] == "tool_result")
        {
            content(part.get("content"), text)?;
        }
    }
    for tool in each("tools", body.get("tools"))? {
        let tool = object("a tool", tool)?;
        only(
            "a tool",
            tool,
            &["type", "name", "description", "input_schema"],
        )?;
        if !matches!(
            tool.get("type").and_then(Value::as_str),
            None | Some("custom")
        ) {
            return Err(wrong(
                "a tool of the service's own, that no price is known for",
            ));
        }
    }
    Ok(())
}

/// What a service says of the tokens of its answer, whole or as a stream of events.
pub struct Used {
    form: Form,
    is_stream: bool,
    /// What came of an answer, or of a line of a stream.
    came: Vec<u8>,
    /// It was too long to be looked at.
    lost: bool,
    input: Option<u64>,
    output: Option<u64>,
}

/// What of an answer, or of an event, is read. The rest takes no memory.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Said {
    usage: Option<Usage>,
    response: Option<Nested>,
    message: Option<Nested>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Nested {
    usage: Option<Usage>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
}

impl Used {
    /// The longest answer, or event of a stream, that is looked at.
    const MAX: usize = 1024 * 1024;

    /// Of an answer in this form. `is_stream`: of `text/event-stream`.
    pub fn new(form: Form, is_stream: bool) -> Self {
        Self {
            form,
            is_stream,
            came: Vec::new(),
            lost: false,
            input: None,
            output: None,
        }
    }

    /// A piece of it.
    pub fn push(&mut self, piece: &[u8]) {
        if !self.is_stream {
            self.keep(piece);
            return;
        }
        for line in piece.split_inclusive(|b| *b == b'\n') {
            self.keep(line);
            if line.ends_with(b"\n") {
                self.event();
            }
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.lost || self.came.len() + piece.len() > Self::MAX {
            self.lost = true;
            self.came = Vec::new();
        } else {
            self.came.extend_from_slice(piece);
        }
    }

    /// A line of a stream is here.
    fn event(&mut self) {
        let line = std::mem::take(&mut self.came);
        let was_lost = std::mem::take(&mut self.lost);
        let data = line.strip_prefix(b"data:").filter(|_| !was_lost);
        // Most say nothing of it.
        let data = data.filter(|data| memchr::memmem::find(data, b"usage").is_some());
        if let Some(event) = data.and_then(|data| serde_json::from_slice(data).ok()) {
            self.hear(event);
        }
    }

    fn hear(&mut self, said: Said) {
        let nested = [said.response, said.message].into_iter().flatten();
        let is_begin = |one: &Nested| one.usage.is_some() && self.form == Form::AnthropicMessages;
        let nested: Vec<Nested> = nested.collect();
        // Anthropic says the prompt's with the beginning of a stream, and the answer's at its end.
        let begins = nested.iter().any(is_begin);
        let all = nested
            .into_iter()
            .filter_map(|one| one.usage)
            .chain(said.usage);
        for usage in all {
            let (input, output) = match self.form {
                Form::OpenaiChat | Form::OpenaiCompatible => {
                    (usage.prompt_tokens, usage.completion_tokens)
                }
                Form::OpenaiResponses | Form::AnthropicMessages => {
                    (usage.input_tokens, usage.output_tokens)
                }
            };
            let cached = [
                usage.cache_creation_input_tokens,
                usage.cache_read_input_tokens,
            ];
            let cached = cached.into_iter().flatten().fold(0, u64::saturating_add);
            let input = input.map(|tokens| tokens.saturating_add(cached));
            // Some leave out what a model has thought.
            let thought = usage
                .total_tokens
                .zip(input)
                .map(|(all, prompt)| all.saturating_sub(prompt));
            let output = output.map(|tokens| tokens.max(thought.unwrap_or(0)));
            self.input = self.input.max(input);
            if !begins {
                self.output = self.output.max(output);
            }
        }
    }

    /// What was said, once all of it has come; none, if nothing was said of both.
    pub fn said(mut self) -> Option<Tokens> {
        if self.is_stream {
            self.event();
        } else if let Ok(answer) = serde_json::from_slice(&self.came) {
            self.hear(answer);
        }
        let (input, output) = self.input.zip(self.output)?;
        (input > 0).then_some(Tokens { input, output })
    }
}

/// Reads a JSON value in which no member has the name of another (readers would choose among them), and so many
/// values at most: each takes more memory than its bytes.
#[derive(Clone, Copy)]
struct Reader<'c> {
    left: &'c Cell<usize>,
}

impl Reader<'_> {
    fn count<E: serde::de::Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left
            .set(left.ok_or_else(|| E::custom("more than 20000 values"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            all.push(value);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value_seed(self)?;
            if all.insert(name, value).is_some() {
                return Err(A::Error::custom("a member is given twice"));
            }
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(form: Form, body: &Value) -> Result<Asked, String> {
        let body = serde_json::to_vec(body).unwrap();
        Asked::read(form, &body).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_costs_at_most_its_bytes_and_the_answers_that_it_wants() {
        let body = json!({"model": "toy", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100, "n": 3, "temperature": 0.5});
        let length = body.to_string().len() as u64;
        let asked = read(Form::OpenaiChat, &body).unwrap();
        let most = Tokens {
            input: length + OVERHEAD,
            output: 300,
        };
        assert_eq!((asked.model.as_str(), asked.most), ("toy", most));
        let price = |input, output| Price {
            service: "api".into(),
            model: "toy".into(),
            input,
            output,
        };
        let tokens = |input, output| Tokens { input, output };
        for (tokens, price, cost) in [
            (tokens(1_000_000, 0), price(150_000, 600_000), 150_000),
            (tokens(0, 1_000_000), price(150_000, 600_000), 600_000),
            (tokens(1, 0), price(1, 1), 1),
            (tokens(0, 0), price(1, 1), 0),
            (tokens(1, 1), price(500_000, 500_000), 1),
            (tokens(1, 2), price(500_000, 500_000), 2),
            (
                tokens(u64::MAX, u64::MAX),
                price(u64::MAX, u64::MAX),
                u64::MAX,
            ),
        ] {
            assert_eq!(tokens.cost(&price), cost, "{tokens:?}");
        }
    }

    #[test]
    fn what_no_price_is_known_for_is_refused_wherever_it_stands() {
        let chat = json!({"model": "toy", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "max_completion_tokens": 1,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"service_tier": {}}}}], "stream": true});
        let responses = json!({"model": "toy", "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "function_call_output", "call_id": "1", "output": "x"}], "max_output_tokens": 1, "tools": [{"type": "function", "name": "f"}]});
        let messages = json!({"model": "toy", "system": [{"type": "text", "text": "x"}], "max_tokens": 1, "tools": [{"name": "f", "input_schema": {}}],
            "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x"}]}]}]});
        let forms = [
            (Form::OpenaiChat, chat.clone()),
            (Form::OpenaiResponses, responses.clone()),
            (Form::AnthropicMessages, messages.clone()),
        ];
        for (form, good) in &forms {
            read(*form, good).unwrap();
            for (name, value) in [
                ("service_tier", json!("priority")),
                ("background", json!(true)),
                ("previous_response_id", json!("r")),
                ("conversation", json!("c")),
                ("container", json!("c")),
                ("mcp_servers", json!([])),
                ("prediction", json!({})),
                ("modalities", json!(["audio"])),
                ("web_search_options", json!({})),
                ("cache_control", json!({})),
                ("provider", json!({})),
                ("model ", json!("dear")),
                ("Model", json!("dear")),
            ] {
                let mut body = good.clone();
                body[name] = value;
                let refused = read(*form, &body).unwrap_err();
                assert!(refused.contains("no price is known"), "{name}: {refused}");
            }
            let mut body = good.clone();
            body["model"] = json!(null);
            assert!(read(*form, &body).unwrap_err().contains("no model"));
        }
        for item in [
            json!({"id": "msg_1"}),
            json!({"type": null, "role": "user", "content": "x"}),
            json!({"role": "user", "content": null}),
            json!({"type": "function_call", "id": "1"}),
            json!({"type": "function_call_output", "call_id": "1"}),
        ] {
            let body = json!({"model": "toy", "input": [item], "max_output_tokens": 1});
            assert!(
                read(Form::OpenaiResponses, &body)
                    .unwrap_err()
                    .contains("no price is known"),
                "{body}"
            );
        }
        let compatible =
            json!({"model": "toy", "messages": [], "max_completion_tokens": 1, "max_tokens": 1});
        assert!(read(Form::OpenaiCompatible, &compatible).is_err());
        let many = json!({"model": "toy", "messages": [], "max_tokens": 1, "metadata": vec![json!({"": 0}); 20_000]});
        assert!(
            read(Form::OpenaiChat, &many)
                .unwrap_err()
                .contains("20000 values")
        );
        let changed = |base: &Value, pointer: &str, value: Value| {
            let mut body = base.clone();
            *body.pointer_mut(pointer).unwrap() = value;
            body
        };
        let image = json!({"type": "image_url", "image_url": {"url": "https://x/y"}});
        let cached = json!({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}});
        for (form, body) in [
            (
                Form::OpenaiChat,
                changed(&chat, "/messages/0/content/0", image),
            ),
            (
                Form::OpenaiChat,
                changed(
                    &chat,
                    "/messages/0",
                    json!({"role": "user", "content": "x", "audio": {"id": "1"}}),
                ),
            ),
            (
                Form::OpenaiChat,
                changed(&chat, "/tools/0", json!({"type": "custom", "custom": {}})),
            ),
            (
                Form::OpenaiChat,
                changed(
                    &chat,
                    "/tools/0",
                    json!({"type": "function", "function": {}, "x": 1}),
                ),
            ),
            (
                Form::OpenaiChat,
                changed(
                    &chat,
                    "/tools/0",
                    json!({"type": "function", "function": {"name": "f", "cache_control": {}}}),
                ),
            ),
            (
                Form::OpenaiResponses,
                changed(&responses, "/tools/0", json!({"type": "web_search"})),
            ),
            (
                Form::OpenaiResponses,
                changed(
                    &responses,
                    "/input/0",
                    json!({"type": "item_reference", "id": "1"}),
                ),
            ),
            (
                Form::OpenaiResponses,
                changed(
                    &responses,
                    "/input/0/content/0",
                    json!({"type": "input_image", "image_url": "x"}),
                ),
            ),
            (
                Form::OpenaiResponses,
                changed(
                    &responses,
                    "/input/1/output",
                    json!([{"type": "input_file", "file_id": "1"}]),
                ),
            ),
            (
                Form::AnthropicMessages,
                changed(&messages, "/system/0", cached.clone()),
            ),
            (
                Form::AnthropicMessages,
                changed(&messages, "/messages/0/content/0", cached),
            ),
            (
                Form::AnthropicMessages,
                changed(
                    &messages,
                    "/messages/0/content/0/content/0",
                    json!({"type": "image", "source": {}}),
                ),
            ),
            (
                Form::AnthropicMessages,
                changed(
                    &messages,
                    "/tools/0",
                    json!({"type": "web_search_20250305", "name": "web_search"}),
                ),
            ),
        ] {
            let refused = read(form, &body).unwrap_err();
            assert!(refused.contains("no price is known"), "{body}: {refused}");
        }
    }

    #[test]
    fn a_query_or_a_header_may_ask_for_what_no_price_is_known_for() {
        let upstream = policy::Upstream::try_from("https://api.example".to_owned()).unwrap();
        let check = |asked: &str, name: &str| {
            check_unpriced(
                &Target::new(&upstream, asked).unwrap(),
                &[Header::new(name, b"application/json")],
            )
        };
        for good in [
            "Content-Type",
            "user-agent",
            "x-stainless-lang",
            "anthropic-version",
        ] {
            assert_eq!(check("/v1/messages", good), Ok(()), "{good}");
        }
        for bad in [
            "anthropic-beta",
            "openai-beta",
            "x-stainless",
            "openai-organization",
            "x-service-tier",
            "",
        ] {
            assert!(check("/v1/messages", bad).is_err(), "{bad}");
        }
        assert!(check("/v1/messages?beta=true", "accept").is_err());
        for choice in [
            json!({"type": "web_search"}),
            json!({}),
            json!([]),
            json!({"type": "mcp"}),
        ] {
            for (form, name) in [
                (Form::OpenaiChat, "messages"),
                (Form::OpenaiResponses, "input"),
                (Form::AnthropicMessages, "messages"),
            ] {
                let length = if form == Form::OpenaiResponses {
                    "max_output_tokens"
                } else {
                    "max_tokens"
                };
                let body = json!({"model": "toy", name: [], length: 1, "tool_choice": choice});
                assert!(read(form, &body).is_err(), "{body}");
            }
        }
    }

    #[test]
    fn what_several_readers_would_read_in_several_ways_is_refused() {
        let good = r#"{"model": "toy", "messages": [], "max_tokens": 1}"#;
        assert!(Asked::read(Form::OpenaiChat, good.as_bytes()).is_ok());
        for bad in [
            r#"{"model": "toy", "model": "dear", "messages": [], "max_tokens": 1}"#,
            r#"{"model": "toy", "mod\u0065l": "dear", "messages": [], "max_tokens": 1}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": 1, "max_tokens": 100000}"#,
            r#"{"model": "toy", "messages": [{"role": "user", "role": "system"}], "max_tokens": 1}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": 1, "max_completion_tokens": 1}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": 1.0}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": 1e3}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": -1}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": 0}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": "1"}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": null}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": 18446744073709551615, "n": 2}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": 1, "n": 0}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": 1, "n": 1000}"#,
            r#"{"model": "toy", "messages": [], "max_tokens": 1, "n": null}"#,
            r#"{"model": "toy", "messages": {}, "max_tokens": 1}"#,
            r#"{"model": ["toy"], "messages": [], "max_tokens": 1}"#,
            r#"{"model": "toy", "messages": []}"#,
            r#"[{"model": "toy"}]"#,
            r#"{"model": "toy", "messages": [], "max_tokens": 1} {}"#,
            "",
        ] {
            assert!(
                Asked::read(Form::OpenaiChat, bad.as_bytes()).is_err(),
                "{bad}"
            );
        }
        let long = format!(
            r#"{{"model": "toy", "max_tokens": 1, "user": "{}"}}"#,
            "x".repeat(MAX_PRICED)
        );
        assert!(Asked::read(Form::OpenaiChat, long.as_bytes()).is_err());
    }

    #[test]
    fn who_does_not_say_how_long_an_answer_may_be_has_it_said() {
        for (form, name) in [
            (Form::OpenaiChat, "max_completion_tokens"),
            (Form::OpenaiResponses, "max_output_tokens"),
            (Form::AnthropicMessages, "max_tokens"),
        ] {
            let mended =
                with_longest(form, br#"{"model": "toy", "temperature": 0.25}"#, 7).unwrap();
            let mended: Value = serde_json::from_slice(&mended.unwrap()).unwrap();
            assert_eq!(
                mended,
                json!({"model": "toy", "temperature": 0.25, name: 7})
            );
            let said = format!(r#"{{"model": "toy", "{name}": 9}}"#);
            assert_eq!(with_longest(form, said.as_bytes(), 7).unwrap(), None);
        }
    }

    /// What is said to have been used, however the answer is cut.
    fn used(form: Form, is_stream: bool, answer: &str) -> Option<(u64, u64)> {
        let mut said = Vec::new();
        for size in [1, 7, 1000] {
            let mut used = Used::new(form, is_stream);
            answer
                .as_bytes()
                .chunks(size)
                .for_each(|piece| used.push(piece));
            said.push(used.said().map(|tokens| (tokens.input, tokens.output)));
        }
        assert!(said.windows(2).all(|pair| pair[0] == pair[1]), "{said:?}");
        said[0]
    }

    #[test]
    fn what_was_used_is_what_the_service_says_whole_or_as_a_stream() {
        let chat = r#"{"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 22}}"#;
        assert_eq!(used(Form::OpenaiChat, false, chat), Some((11, 22)));
        let stream = format!(
            "data: {{\"choices\": [], \"usage\": null}}\n\ndata: {chat}\n\ndata: [DONE]\n\n"
        );
        assert_eq!(used(Form::OpenaiChat, true, &stream), Some((11, 22)));
        let response = r#"{"usage": {"input_tokens": 5, "output_tokens": 6}}"#;
        assert_eq!(used(Form::OpenaiResponses, false, response), Some((5, 6)));
        let stream = format!("event: response.completed\ndata: {{\"response\": {response}}}\n\n");
        assert_eq!(used(Form::OpenaiResponses, true, &stream), Some((5, 6)));
        let begin = r#"{"type": "message_start", "message": {"usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 1}}}"#;
        let delta = r#"{"type": "message_delta", "usage": {"output_tokens": 9}}"#;
        let stream = format!("data: {begin}\r\n\r\ndata: {delta}");
        assert_eq!(used(Form::AnthropicMessages, true, &stream), Some((7, 9)));
        for nothing in [
            "",
            "{}",
            "no",
            r#"{"usage": {"prompt_tokens": -1}}"#,
            r#"{"usage": {"completion_tokens": 3}}"#,
        ] {
            assert_eq!(used(Form::OpenaiChat, false, nothing), None, "{nothing}");
        }
        let long = format!(
            r#"{{"x": "{}", "usage": {{"prompt_tokens": 1, "completion_tokens": 1}}}}"#,
            "x".repeat(Used::MAX)
        );
        let mut lost = Used::new(Form::OpenaiChat, false);
        lost.push(long.as_bytes());
        assert_eq!(lost.said(), None);
    }
}
