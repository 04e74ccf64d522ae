//! A text that comes in pieces.

use std::ops::Range;

use crate::fold::Folded;
use crate::open::open;
use crate::text::{ROUNDS, all, apart};
use crate::words::Words;
use crate::{Kind, Kinds, Purpose, secret};

/// What passed is remembered for so many bytes: words before a number say what it is.
const CONTEXT: usize = 256;
/// What can still become something is held back for so many bytes; what is longer is nothing more
/// than it is now.
const MAX_HELD: usize = 8192;

/// One text of a stream: what passed last, and what is held back.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    text: String,
    passed: usize,
    /// It is JSON that comes in pieces, with escapes in its strings.
    is_json: bool,
    /// The text that is remembered begins in a string of it.
    begins_in_string: bool,
    /// What is held back is the rest of a private key, whose begin passed.
    is_in_key: bool,
}

/// What is known of the part that is held back. Offsets are from its begin.
#[derive(Debug)]
pub(crate) struct Look {
    /// What was found before `open`.
    pub(crate) kinds: Kinds,
    /// What is masked of it, in its order, and what stands in its place: nothing where its begin
    /// passed already.
    pub(crate) masks: Vec<(Range<usize>, String)>,
    /// What follows can change nothing before here.
    pub(crate) open: usize,
}

impl Channel {
    pub(crate) fn new(is_json: bool) -> Self {
        Self {
            is_json,
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub(crate) fn push(&mut self, piece: &str) {
        self.text.push_str(piece);
    }

    /// What is held back.
    pub(crate) fn held(&self) -> &str {
        &self.text[self.passed..]
    }

    /// Looks at what is held back; nothing follows it if it `is_end`.
    pub(crate) fn look(&self, watched: Kinds, masked: Kinds, is_end: bool) -> Look {
        if self.is_in_key {
            return self.look_at_key(watched, masked, is_end);
        }
        let folded = self.fold(&self.text);
        let bytes = folded.bytes();
        let mut found = all(bytes, Words::default(), false, Purpose::Decide);
        found.retain(|(kind, _)| watched.contains(*kind));
        let is_end = is_end || self.held().len() > MAX_HELD;
        let open = if is_end {
            bytes.len()
        } else {
            before(open(bytes, watched), &found)
        };
        found.retain(|(_, range)| range.end <= open);
        let found = found.into_iter();
        let mut found: Vec<_> = found
            .map(|(kind, range)| (kind, folded.original(range)))
            .collect();
        // What ends in what passed was found then.
        found.retain(|(_, range)| range.end > self.passed);
        let kinds = found.iter().map(|(kind, _)| *kind).collect();
        let open = if open == bytes.len() {
            self.text.len()
        } else {
            folded.original(open..bytes.len()).start
        };
        found.retain(|(kind, _)| masked.contains(*kind));
        let masks = self.beside(apart(found), masked, open).into_iter();
        let mut strings = (0, self.begins_in_string);
        let masks = masks
            .map(|(kind, range)| self.mask(kind, range, &mut strings))
            .collect();
        let open = match half_escape(&self.text).filter(|_| self.is_json && !is_end) {
            Some(escape) => open.min(escape),
            None => open,
        };
        Look {
            kinds,
            masks,
            open: open.saturating_sub(self.passed),
        }
    }

    fn fold<'a>(&self, text: &'a str) -> Folded<'a> {
        if self.is_json {
            Folded::of_json(text)
        } else {
            Folded::of(text)
        }
    }

    /// What is masked, and what looks like something beside the masks.
    fn beside(
        &self,
        mut masks: Vec<(Kind, Range<usize>)>,
        masked: Kinds,
        open: usize,
    ) -> Vec<(Kind, Range<usize>)> {
        for _ in 0..ROUNDS {
            if masks.is_empty() {
                return masks;
            }
            let (text, places) = replaced(&self.text[..open], &masks);
            let folded = self.fold(&text);
            let mut more = all(folded.bytes(), Words::default(), false, Purpose::Decide);
            more.retain(|(kind, _)| masked.contains(*kind));
            let more = more.into_iter().map(|(kind, range)| {
                let range = folded.original(range);
                (
                    kind,
                    original(&places, range.start)..original(&places, range.end),
                )
            });
            // What ends in what passed was there before.
            let more: Vec<_> = more.filter(|(_, range)| range.end > self.passed).collect();
            if more.is_empty() {
                return masks;
            }
            masks.extend(more);
            masks = apart(masks);
        }
        // It was made to look like something else each time; nothing of it stays.
        let first = masks[0].clone();
        vec![(first.0, first.1.start..open)]
    }

    /// The rest of a private key, up to its end.
    fn look_at_key(&self, watched: Kinds, masked: Kinds, is_end: bool) -> Look {
        let held = self.held();
        let end = memchr::memmem::find(held.as_bytes(), secret::PEM_END);
        // The end itself may come in two parts.
        let mut open = match end {
            Some(end) => end,
            None if is_end => held.len(),
            None => held.len().saturating_sub(secret::PEM_END.len()),
        };
        while !held.is_char_boundary(open) {
            open -= 1;
        }
        let mut look = Look {
            kinds: Kinds::default(),
            masks: Vec::new(),
            open,
        };
        if end.is_some() {
            let rest = Self {
                text: held[open..].to_owned(),
                is_json: self.is_json,
                begins_in_string: self.begins_in_string,
                ..Self::default()
            };
            look = rest.look(watched, masked, is_end);
            for (mask, _) in &mut look.masks {
                *mask = mask.start + open..mask.end + open;
            }
            look.open += open;
        }
        if open > 0 && watched.contains(Kind::ApiKey) {
            look.kinds.insert(Kind::ApiKey);
        }
        if open > 0 && masked.contains(Kind::ApiKey) {
            look.masks.insert(0, (0..open, String::new()));
        }
        look
    }

    /// `strings` is up to where the text was looked through for strings, and whether that is in one.
    fn mask(
        &self,
        kind: Kind,
        range: Range<usize>,
        strings: &mut (usize, bool),
    ) -> (Range<usize>, String) {
        let Some(start) = range.start.checked_sub(self.passed) else {
            return (0..range.end - self.passed, String::new());
        };
        if self.is_json {
            let is_in = ends_in_string(strings.1, &self.text[strings.0..range.start]);
            *strings = (range.start, is_in);
        }
        let mask = if self.is_json && !strings.1 {
            // A number, in whose place a string stands.
            format!("\"{}\"", kind.mask())
        } else {
            kind.mask().to_owned()
        };
        (start..range.end - self.passed, mask)
    }

    /// The first bytes of what is held back pass, up to the end of a character.
    pub(crate) fn pass(&mut self, length: usize) {
        let passing = &self.text.as_bytes()[self.passed..];
        let end = memchr::memmem::find(passing, secret::PEM_END);
        self.is_in_key = match end.filter(|end| self.is_in_key && *end <= length) {
            Some(end) => secret::is_in_key(&passing[end.min(length)..length]),
            None if self.is_in_key => true,
            None => secret::is_in_key(&self.text.as_bytes()[..self.passed + length]),
        };
        self.passed += length;
        let mut forgotten = self.passed.saturating_sub(CONTEXT);
        while !self.text.is_char_boundary(forgotten) {
            forgotten -= 1;
        }
        // Not for each word: what is forgotten is moved away.
        if forgotten >= CONTEXT {
            self.begins_in_string = ends_in_string(self.begins_in_string, &self.text[..forgotten]);
            self.text.drain(..forgotten);
            self.passed -= forgotten;
        }
    }
}

/// A text with masks in it; and for pieces of it, where they begin there and in the original.
fn replaced(text: &str, masks: &[(Kind, Range<usize>)]) -> (String, Vec<(usize, usize)>) {
    let (mut out, mut places, mut at) = (String::new(), Vec::new(), 0);
    for (kind, range) in masks {
        places.push((out.len(), at));
        out.push_str(&text[at..range.start]);
        places.push((out.len(), range.start));
        out.push_str(kind.mask());
        at = range.end;
    }
    places.push((out.len(), at));
    out.push_str(&text[at..]);
    (out, places)
}

/// Where a place of a text with masks in it stands in the original.
fn original(places: &[(usize, usize)], at: usize) -> usize {
    let after = places.partition_point(|(begins, _)| *begins <= at);
    let (begins, there) = places[after.saturating_sub(1)];
    // Within a mask it is no further than its end.
    let end = places.get(after).map_or(usize::MAX, |(_, there)| *there);
    (there + (at - begins)).min(end)
}

/// Where the open part begins, if it is not in the middle of something that was found.
fn before(open: usize, found: &[(Kind, Range<usize>)]) -> usize {
    let mut ranges: Vec<&Range<usize>> = found.iter().map(|(_, range)| range).collect();
    // Of those that overlap, each moves it to its begin.
    ranges.sort_by_key(|range| std::cmp::Reverse(range.start));
    let move_back = |open: usize, range: &Range<usize>| match range.start < open && range.end > open
    {
        true => range.start,
        false => open,
    };
    ranges.into_iter().fold(open, move_back)
}

/// Whether a part of a JSON text ends within a string.
fn ends_in_string(begins: bool, text: &str) -> bool {
    let mut is_in = begins;
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_in = !is_in,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    is_in
}

/// Where an escape begins that is not whole.
fn half_escape(text: &str) -> Option<usize> {
    let at = text.rfind('\\')?;
    let before = text[..at].bytes().rev();
    let is_escaped = before.take_while(|byte| *byte == b'\\').count() % 2 == 1;
    let rest = &text[at + 1..];
    let is_half = rest.is_empty() || rest.starts_with('u') && rest.len() < 5;
    (!is_escaped && is_half).then_some(at)
}
