//! What can be asked of an enclave that has a policy: one file for each request.

pub(crate) mod annex;
pub(crate) mod approve;
pub(crate) mod attest;
pub(crate) mod call;
pub(crate) mod credential;
pub(crate) mod describe;
pub(crate) mod exchange;
pub(crate) mod overview;
pub(crate) mod rotate;
pub(crate) mod sign;
