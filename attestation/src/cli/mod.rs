//! The command line of `anchorhold-verify`, and what a person reads.

pub(crate) mod args;
pub(crate) mod checklist;
mod starter;
