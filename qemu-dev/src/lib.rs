//! For developers: a Nitro Secure Module without hardware, and the programs around it. Mock code lives in this crate and in no
//! other; what it makes chains to a root of its own and can pass for genuine nowhere.

pub mod authority;
mod error;
pub mod nsm;

pub use error::Error;
