//! Looks through a text or events while they come.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use crate::channel::Channel;
use crate::deltas::deltas;
use crate::event::{Event, Framing, first};
use crate::json::quote;
use crate::{Error, Kinds, Purpose, json, mask_text};

/// Events that wait for what follows them, in bytes. When there are more, nothing is waited for.
const MAX_WAITING: usize = 1 << 20;

/// Texts of one stream at once. When there are more, nothing is waited for, and they are forgotten.
const MAX_TEXTS: usize = 256;

/// Something that comes in parts, of which only that is held back which may still become something
/// sensitive.
///
/// Events are looked through one by one; and the texts that the protocols of agents spread over
/// several events as one text each.
///
/// ```
/// use inspect::{Framing, Kind, Kinds, Stream};
///
/// let mut cards = Kinds::default();
/// cards.insert(Kind::CreditCard);
/// let mut stream = Stream::new(Framing::Text, cards, cards, 1000);
/// let mut out = Vec::new();
/// stream.push(b"pay with 4532 01", &mut out)?;
/// assert_eq!(out, b"pay with ");
/// stream.push(b"51 1283 0366.", &mut out)?;
/// stream.finish(&mut out)?;
/// assert_eq!(out, b"pay with [CREDIT_CARD_REDACTED].");
/// # Ok::<(), inspect::Error>(())
/// ```
#[derive(Debug)]
pub struct Stream {
    framing: Framing,
    watched: Kinds,
    masked: Kinds,
    kinds: Kinds,
    /// The longest event, in bytes.
    max: usize,
    /// Of what is not whole: an event, or a character.
    rest: Vec<u8>,
    /// Of `rest`, so much was looked through for its end.
    searched: usize,
    text: Channel,
    texts: BTreeMap<String, Text>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// The number of the first event that waits.
    first: usize,
}

/// A text that comes in pieces.
#[derive(Debug)]
struct Text {
    channel: Channel,
    pieces: VecDeque<Piece>,
    /// Something came since it was looked at.
    is_new: bool,
}

/// A part of an event's data.
#[derive(Debug)]
struct Piece {
    /// The event's number.
    event: usize,
    place: Range<usize>,
    length: usize,
    /// It is a token of JSON.
    is_token: bool,
    /// What stands in its place if only it, by itself, holds something.
    alone: Option<String>,
}

/// An event that waits until its pieces are known.
#[derive(Debug)]
struct Waiting {
    event: Event,
    edits: Vec<(Range<usize>, String)>,
    pieces: usize,
    is_masked_around: bool,
}

impl Stream {
    /// Looks for the kinds that are watched, and masks those of them that are masked. An event of more
    /// than `max` bytes is an error.
    pub fn new(framing: Framing, watched: Kinds, masked: Kinds, max: usize) -> Self {
        Self {
            framing,
            watched,
            masked: masked.intersection(watched),
            kinds: Kinds::default(),
            max,
            rest: Vec::new(),
            searched: 0,
            text: Channel::default(),
            texts: BTreeMap::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            first: 0,
        }
    }

    /// What was found so far. After each part it is complete for what was written, so that nothing
    /// needs to be sent of what is not allowed.
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// What is held back, in bytes.
    pub fn held(&self) -> usize {
        self.rest.len() + self.waiting_bytes + self.text.held().len()
    }

    /// Takes a part; writes what nothing that follows can change.
    pub fn push(&mut self, part: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.rest.extend_from_slice(part);
        if self.framing == Framing::Text {
            let valid = match std::str::from_utf8(&self.rest) {
                Ok(text) => text.len(),
                // The last character is not whole yet.
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                Err(_) => return Err(Error::NotUtf8),
            };
            return self.pass_text(valid, false, out);
        }
        let mut rest = std::mem::take(&mut self.rest);
        let mut at = 0;
        while let Some(length) = first(self.framing, &rest[at..], self.searched) {
            self.take(rest[at..at + length].to_vec())?;
            at += length;
            self.searched = 0;
        }
        rest.drain(..at);
        self.searched = rest.len();
        self.rest = rest;
        if self.rest.len() > self.max {
            return Err(Error::LongEvent(self.max));
        }
        self.settle(|_| false);
        if self.waiting_bytes > MAX_WAITING {
            self.settle(|_| true);
        }
        self.release(out);
        Ok(())
    }

    /// Nothing follows; writes the rest.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.framing == Framing::Text {
            return self.pass_text(self.rest.len(), true, out);
        }
        let rest = std::mem::take(&mut self.rest);
        if rest.len() > self.max {
            return Err(Error::LongEvent(self.max));
        }
        if !rest.is_empty() {
            self.take(rest)?;
        }
        self.settle(|_| true);
        self.release(out);
        Ok(())
    }

    fn pass_text(&mut self, valid: usize, is_end: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        let text = std::str::from_utf8(&self.rest[..valid]).map_err(|_| Error::NotUtf8)?;
        // What a reader may take for JSON is meant after its escapes.
        if self.text.is_empty() && begins_like_json(text) {
            self.text = Channel::new(true);
        }
        self.text.push(text);
        self.rest.drain(..valid);
        let look = self.text.look(self.watched, self.masked, is_end);
        self.kinds = self.kinds.union(look.kinds);
        out.extend_from_slice(masked(self.text.held(), 0..look.open, &look.masks).as_bytes());
        self.text.pass(look.open);
        Ok(())
    }

    /// Looks through an event by itself, and adds its pieces to their texts.
    fn take(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        if bytes.len() > self.max {
            return Err(Error::LongEvent(self.max));
        }
        let mut waiting = Waiting {
            event: Event::new(self.framing, bytes)?,
            edits: Vec::new(),
            pieces: 0,
            is_masked_around: false,
        };
        for other in waiting.event.others() {
            let (masked, kinds) = mask_text(other, Purpose::Mask(self.masked));
            self.kinds = self.kinds.union(kinds.intersection(self.watched));
            waiting.is_masked_around |= masked != other;
        }
        let ended = self.look_at_data(&mut waiting)?;
        self.waiting_bytes += waiting.event.len();
        self.waiting.push_back(waiting);
        if let Some(marks) = ended {
            let has = |key: &str, mark: &String| key.split('\n').any(|it| it == mark);
            self.settle(|key| marks.iter().all(|mark| has(key, mark)));
        }
        if self.texts.len() > MAX_TEXTS {
            self.settle(|_| true);
            self.texts.clear();
        }
        Ok(())
    }

    /// The marks of the texts that it ends.
    fn look_at_data(&mut self, waiting: &mut Waiting) -> Result<Option<Vec<String>>, Error> {
        let data = waiting.event.data().to_owned();
        let trimmed = data.trim_matches([' ', '\t', '\n', '\r']);
        if trimmed.is_empty() {
            return Ok(None);
        }
        if trimmed == "[DONE]" {
            return Ok(Some(Vec::new()));
        }
        let number = self.first + self.waiting.len();
        let found = match json(data.as_bytes(), Purpose::Mask(self.masked)) {
            Ok(found) => found,
            // A reader that is less strict may see something in it.
            Err(error) if begins_like_json(trimmed) => return Err(error),
            Err(_) => {
                self.add_alone(waiting, number, &data, trimmed);
                return Ok(None);
            }
        };
        self.kinds = self.kinds.union(found.kinds().intersection(self.watched));
        waiting.edits = found.into_edits();
        if !trimmed.starts_with(['{', '[']) {
            // A word of a text may look like a number or a string of JSON.
            self.add_alone(waiting, number, &data, trimmed);
            return Ok(None);
        }
        let deltas = deltas(data.as_bytes()).ok_or(Error::ManyParts)?;
        let edits = std::mem::take(&mut waiting.edits).into_iter();
        let mut edits: BTreeMap<usize, _> = edits.map(|edit| (edit.0.start, edit)).collect();
        for delta in deltas.pieces {
            let alone = edits.remove(&delta.token.start);
            let piece = Piece {
                event: number,
                place: delta.token,
                length: delta.text.len(),
                is_token: true,
                alone: alone.map(|(_, edit)| edit),
            };
            waiting.pieces += 1;
            self.add(delta.key, delta.is_json, piece, &delta.text);
        }
        waiting.edits = edits.into_values().collect();
        Ok(deltas.ended)
    }

    /// Adds all that an event says to the text of such events.
    fn add_alone(&mut self, waiting: &mut Waiting, number: usize, data: &str, trimmed: &str) {
        let string: Option<String> = serde_json::from_str(trimmed).ok();
        let alone = std::mem::take(&mut waiting.edits).pop();
        let begins = data.len() - data.trim_start().len();
        let place = match &string {
            Some(_) => begins..begins + trimmed.len(),
            None => 0..data.len(),
        };
        let text = string.as_deref().unwrap_or(data);
        let piece = Piece {
            event: number,
            place,
            length: text.len(),
            is_token: string.is_some(),
            alone: alone.map(|(_, edit)| edit),
        };
        waiting.pieces += 1;
        self.add(String::new(), false, piece, text);
    }

    fn add(&mut self, key: String, is_json: bool, piece: Piece, text: &str) {
        let known = self.texts.entry(key).or_insert_with(|| Text {
            channel: Channel::new(is_json),
            pieces: VecDeque::new(),
            is_new: true,
        });
        known.is_new = true;
        known.channel.push(text);
        known.pieces.push_back(piece);
    }

    /// Looks at each text from which something is held back; nothing follows those that are ended, as
    /// far as is known.
    fn settle(&mut self, is_ended: impl Fn(&str) -> bool) {
        for (key, text) in &mut self.texts {
            let is_end = !text.pieces.is_empty() && is_ended(key);
            if text.pieces.is_empty() || !(text.is_new || is_end) {
                continue;
            }
            text.is_new = false;
            let look = text.channel.look(self.watched, self.masked, is_end);
            self.kinds = self.kinds.union(look.kinds);
            let mut masks = look.masks.as_slice();
            let mut at = 0;
            while let Some(piece) = text
                .pieces
                .pop_front_if(|piece| at + piece.length <= look.open)
            {
                // Those that end before it are done with.
                let done = masks.iter().take_while(|(mask, _)| mask.end <= at).count();
                masks = &masks[done..];
                let waiting = &mut self.waiting[piece.event - self.first];
                waiting.pieces -= 1;
                let length = piece.length;
                waiting
                    .edits
                    .extend(piece.edit(text.channel.held(), at, masks));
                at += length;
            }
            text.channel.pass(at);
        }
    }

    /// Writes the events for which nothing is waited any more.
    fn release(&mut self, out: &mut Vec<u8>) {
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.pieces == 0) {
            self.first += 1;
            self.waiting_bytes -= waiting.event.len();
            waiting.write(self.masked, out);
        }
    }
}

impl Piece {
    /// What stands in its place, if something was found. `at` is where it begins in what is held back;
    /// no mask ends before.
    fn edit(
        self,
        held: &str,
        at: usize,
        masks: &[(Range<usize>, String)],
    ) -> Option<(Range<usize>, String)> {
        let range = at..at + self.length;
        let touching = masks
            .iter()
            .take_while(|(mask, _)| mask.start < range.end)
            .count();
        let masks = &masks[..touching];
        if masks.is_empty() {
            return self.alone.map(|alone| (self.place, alone));
        }
        let text = masked(held, range, masks);
        let text = if self.is_token { quote(&text) } else { text };
        Some((self.place, text))
    }
}

/// Whether a reader takes it for JSON, with a mark of the byte order before it or without.
fn begins_like_json(text: &str) -> bool {
    let text = text.trim_start_matches(|char: char| char == '\u{feff}' || char.is_whitespace());
    text.starts_with(['{', '[', '"'])
}

impl Waiting {
    fn write(mut self, kinds: Kinds, out: &mut Vec<u8>) {
        if self.edits.is_empty() && !self.is_masked_around {
            return self.event.copy(out);
        }
        self.edits.sort_by_key(|(range, _)| range.start);
        let data = self.event.data();
        let (mut text, mut at) = (String::new(), 0);
        for (range, edit) in &self.edits {
            text.push_str(&data[at..range.start]);
            text.push_str(edit);
            at = range.end;
        }
        text.push_str(&data[at..]);
        let mask = |line: &str| mask_text(line, Purpose::Mask(kinds)).0;
        self.event.write(&text, mask, out);
    }
}

/// A range of what is held back, masked. What was found at its begin may have begun before it, and is
/// masked there.
fn masked(held: &str, range: Range<usize>, masks: &[(Range<usize>, String)]) -> String {
    let (mut text, mut at) = (String::new(), range.start);
    for (mask, replacement) in masks {
        if mask.start >= range.start {
            text.push_str(&held[at..mask.start]);
            text.push_str(replacement);
        }
        at = mask.end.min(range.end);
    }
    text.push_str(&held[at..range.end]);
    text
}
