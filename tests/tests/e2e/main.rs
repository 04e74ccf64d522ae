//! End to end: real processes, real sockets. What each test shows is numbered in
//! docs/SPECIFICATION.md.
#![allow(clippy::unwrap_used, reason = "a test")]

mod api;
mod approvals;
mod bad_input;
mod by_hand;
mod bypasses;
mod callers;
mod commands;
mod delegation;
mod demo;
mod docs;
mod edges;
mod evidence;
mod faults;
mod grants;
mod guard;
mod image;
mod image_file;
mod interop;
mod limits;
mod localhost;
mod lockdown;
mod pages;
mod policy_schema;
mod proofs;
mod record;
mod rotation;
mod sockets;
mod specification;
mod systemd;
mod time;
mod up;
mod vectors;
mod verifier;
mod window;
