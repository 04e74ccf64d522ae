//! What every request for a signature passes, in this order. Each stage takes a value that only the
//! one before can make, and owns what it permits, so that none can be left out, used twice, or used
//! for something else.

pub(crate) mod authenticate;
pub(crate) mod authority;
pub(crate) mod authorize;
pub(crate) mod parse;
pub(crate) mod settle;
#[cfg(test)]
mod tests;
