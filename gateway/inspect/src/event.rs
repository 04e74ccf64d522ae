//! Events of a stream: server-sent events (WHATWG HTML section 9.2), or one JSON text in each line.

use crate::Error;

/// What comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Text.
    Text,
    /// A JSON text in each line.
    Lines,
    /// Server-sent events.
    Events,
}

/// An event as it came.
#[derive(Debug)]
pub(crate) struct Event {
    framing: Framing,
    text: String,
    data: String,
}

/// How long the first event in these bytes is, with what ends it; none if it is not whole. Up to
/// `searched` there is no end.
pub(crate) fn first(framing: Framing, bytes: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    match framing {
        Framing::Lines => memchr::memchr(b'\n', &bytes[from..]).map(|at| from + at + 1),
        _ => memchr::memchr2_iter(b'\n', b'\r', &bytes[from..])
            .find_map(|at| blank_line(bytes, from + at)),
    }
}

/// Where the blank line ends that follows this line's end. A carriage return that is last may be half
/// of an end.
fn blank_line(bytes: &[u8], at: usize) -> Option<usize> {
    let begin = match bytes[at] {
        b'\r' if bytes.get(at + 1)? == &b'\n' => at + 2,
        _ => at + 1,
    };
    // The event before may have been nothing but a blank line.
    let begin = if at == 0 { 0 } else { begin };
    match bytes.get(begin)? {
        b'\n' => Some(begin + 1),
        b'\r' if bytes.get(begin + 1)? == &b'\n' => Some(begin + 2),
        b'\r' => Some(begin + 1),
        _ => None,
    }
}

impl Event {
    pub(crate) fn new(framing: Framing, bytes: Vec<u8>) -> Result<Self, Error> {
        let text = String::from_utf8(bytes).map_err(|_| Error::NotUtf8)?;
        let mut event = Self {
            framing,
            text,
            data: String::new(),
        };
        let data: Vec<&str> = event.lines().filter_map(|line| line.data).collect();
        event.data = data.join("\n");
        Ok(event)
    }

    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// What it says; several lines are joined.
    pub(crate) fn data(&self) -> &str {
        &self.data
    }

    /// What stands around the data: comments, names, ids.
    pub(crate) fn others(&self) -> impl Iterator<Item = &str> {
        let others = self.lines().filter(|line| line.data.is_none());
        others.map(|line| line.text)
    }

    /// Writes it as it came.
    pub(crate) fn copy(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text.as_bytes());
    }

    /// Writes it with other data, and with what `mask` makes of the lines around it.
    pub(crate) fn write(&self, data: &str, mask: impl Fn(&str) -> String, out: &mut Vec<u8>) {
        let mut data = Some(data);
        for line in self.lines() {
            if line.data.is_none() {
                out.extend_from_slice(mask(line.text).as_bytes());
            } else if let Some(data) = data.take() {
                // All of it stands where its first line stood.
                let field = match self.framing {
                    Framing::Lines => "",
                    _ => "data: ",
                };
                let lines: Vec<String> = data.split('\n').map(|it| field.to_owned() + it).collect();
                out.extend_from_slice(lines.join("\n").as_bytes());
            } else {
                continue;
            }
            out.extend_from_slice(line.end.as_bytes());
        }
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let mut rest = self.text.as_str();
        std::iter::from_fn(move || {
            let length = memchr::memchr2(b'\n', b'\r', rest.as_bytes()).unwrap_or(rest.len());
            let (text, ends) = rest.split_at(length);
            let width = if ends.starts_with("\r\n") { 2 } else { 1 };
            let (end, more) = ends.split_at(width.min(ends.len()));
            let is_over = rest.is_empty();
            rest = more;
            let data = match self.framing {
                Framing::Lines => Some(text),
                _ => data_of(text),
            };
            (!is_over).then_some(Line { text, end, data })
        })
    }
}

/// A line of an event: a line feed, a carriage return, or both end it.
struct Line<'a> {
    text: &'a str,
    end: &'a str,
    /// What it says, if it is a line of data.
    data: Option<&'a str>,
}

/// What a line of data says. A browser knows `data` in lower case only, and nothing before it; other
/// readers trim.
fn data_of(line: &str) -> Option<&str> {
    let line = line.trim_start_matches(['\u{feff}', ' ']);
    let (name, data) = line.split_once(':').unwrap_or((line, ""));
    name.trim_end()
        .eq_ignore_ascii_case("data")
        .then(|| data.strip_prefix(' ').unwrap_or(data))
}
