//! What is remembered between requests, within this boot: used proofs, documents of other enclaves,
//! requests that wait for an approval, budgets of refusals.

pub(crate) mod approvals;
pub(crate) mod peers;
pub(crate) mod refusals;
pub(crate) mod replay;
