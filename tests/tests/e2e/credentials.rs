//! Credentials that agents use and never see.

mod attacks;
mod clients;
mod setting;
mod upstream;
mod using;
