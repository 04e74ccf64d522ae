//! State that outlives a boot: its formats. Pure.
#![forbid(unsafe_code)]
