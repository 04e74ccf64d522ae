//! An agent in Rust asks its sidecar for a signature.
//!
//! ```text
//! eval "$(anchorhold env)"        # sets ANCHORHOLD_ENDPOINT_SOCKET
//! cargo run --example sign
//! ```
//!
//! Prints the DID that signed and the token.
#![expect(clippy::print_stdout, reason = "what it is for")]

use parent_proxy::{Client, Target};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sidecar: Target = std::env::var("ANCHORHOLD_ENDPOINT_SOCKET")?.parse()?;
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
