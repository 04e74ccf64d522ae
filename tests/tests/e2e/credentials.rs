//! Credentials that agents use and never see.

mod approving;
mod attacks;
mod between;
mod clients;
mod fields;
mod holding;
pub(crate) mod ingress;
mod keeping;
mod killed;
mod lasting;
mod leasing;
mod lying;
mod many;
mod minting;
mod searched;
mod seaweed;
pub(crate) mod setting;
mod sockets;
mod spending;
pub(crate) mod upstream;
mod using;
