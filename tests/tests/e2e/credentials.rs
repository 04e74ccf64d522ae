//! Credentials that agents use and never see.

mod attacks;
mod clients;
mod lasting;
mod setting;
mod upstream;
mod using;
