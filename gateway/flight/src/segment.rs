//! Names of the files of a flight recorder.

/// The file of the lines from this place on.
pub fn segment_name(first: u64) -> String {
    format!("flight-{first:012}.jsonl")
}

/// The file of their seals: a token in each line.
pub fn seals_name(first: u64) -> String {
    format!("flight-{first:012}.seals")
}

/// The place of the first line of a segment, by the name of the file of its seals.
pub fn first_sealed(name: &str) -> Option<u64> {
    let first = name.strip_prefix("flight-")?.strip_suffix(".seals")?;
    let first = first.parse().ok()?;
    (name == seals_name(first)).then_some(first)
}

/// The place of a segment's first line, by the name of its file.
pub fn first_of(name: &str) -> Option<u64> {
    let first = name.strip_prefix("flight-")?.strip_suffix(".jsonl")?;
    let first = first.parse().ok()?;
    (name == segment_name(first)).then_some(first)
}
