//! An agent in Rust asks its sidecar for a signature.
//!
//! ```text
//! eval "$(anchorhold env)"        # sets ANCHORHOLD_ENDPOINT_SOCKET
//! cargo run --example sign
//! ```
//!
//! Prints the DID that signed and the token.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it is for")]

use std::process::ExitCode;

use parent_proxy::{Client, Target};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match sign().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn sign() -> Result<(), Box<dyn std::error::Error>> {
    let sidecar = std::env::var("ANCHORHOLD_ENDPOINT_SOCKET")
        .map_err(|_| "ANCHORHOLD_ENDPOINT_SOCKET is not set; eval \"$(anchorhold env)\" sets it")?;
    let sidecar: Target = sidecar.parse()?;
    let body = json!({
        "payload": {"amount": 100, "recipient": "account_123"},
        "intent": {"action": "transfer", "target": "account_123"},
    });
    // A refusal is an error here: its status, its code, and why.
    let answer = Client::new(sidecar, None)
        .call("/sign", Some(&body))
        .await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    match (answer["did"].as_str(), answer["vouch_token"].as_str()) {
        (Some(did), Some(token)) => println!("{did} {token}"),
        _ => println!("it waits for an approval: {answer}"),
    }
    Ok(())
}
