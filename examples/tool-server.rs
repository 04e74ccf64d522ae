//! A tool server in the manner of MCP (JSON-RPC 2.0 over `POST /mcp`), whose tools run for attested
//! agents only.
//!
//! Each call needs a token of its own, made for exactly this call: its intent is `{"action":
//! METHOD, "target": AUDIENCE, "resource": TOOL}`, and its payload is the call's `params`. So the
//! agent can show afterwards what it asked for, and nobody who catches the token on the way can ask
//! for something else.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use attestation::{AppraisalPolicy, MockRoot};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use clap::Parser;
use guard::{Admitted, Guard, RequireToken, Requirements, evidence_routes};
use identity::json;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Parser)]
#[command(
    name = "tool-server",
    about = "An example tool server, whose tools run for attested agents only"
)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Who this server is: the audience of its callers' tokens.
    #[arg(long)]
    audience: String,
    /// A verifier policy (docs/verifier-policy.md).
    #[arg(long)]
    verifier_policy: PathBuf,
    /// Accept a mock of this root too (PEM).
    #[arg(long)]
    mock_root: Option<PathBuf>,
    /// Tokens that are remembered.
    #[arg(long, default_value_t = 100_000)]
    max_tokens: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match serve(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "tool-server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let read =
        |file: &PathBuf| fs::read(file).map_err(|error| format!("{}: {error}", file.display()));
    let policy = AppraisalPolicy::from_toml(&read(&arguments.verifier_policy)?)?;
    let mut requirements = Requirements::new(arguments.audience, policy);
    requirements.max_tokens = arguments.max_tokens;
    if let Some(root) = arguments.mock_root {
        requirements.mock_root = Some(MockRoot::from_pem(&read(&root)?)?);
    }
    let audience = requirements.audience.clone();
    let guard = Arc::new(Guard::new(requirements)?);
    let bound = tokio::net::TcpListener::bind(arguments.listen).await;
    let listener = bound.map_err(|error| format!("{}: {error}", arguments.listen))?;
    writeln!(io::stdout(), "http://{}", listener.local_addr()?)?;
    axum::serve(listener, app(guard, audience)).await?;
    Ok(())
}

fn app(guard: Arc<Guard>, audience: String) -> Router {
    let ledger = Arc::new(Ledger {
        audience,
        sent: AtomicU64::new(0),
    });
    Router::new()
        .route("/mcp", post(call))
        .with_state(ledger)
        .layer(RequireToken::new(Arc::clone(&guard)))
        .merge(evidence_routes(guard))
}

/// What the tool works on: who it is, and how much was sent so far.
struct Ledger {
    audience: String,
    sent: AtomicU64,
}

#[derive(Deserialize)]
struct Request {
    jsonrpc: String,
    id: Value,
    method: String,
    #[serde(default)]
    params: Value,
}

#[derive(Deserialize)]
struct Transfer {
    to: String,
    amount: u32,
}

/// The handler. It runs for admitted calls only, and looks whether this is the call that was
/// signed.
async fn call(State(ledger): State<Arc<Ledger>>, admitted: Admitted, body: Bytes) -> Response {
    let request: Request = match json::parse_as(&body) {
        Ok(request) => request,
        Err(error) => {
            return answer(
                StatusCode::BAD_REQUEST,
                &Value::Null,
                Err((-32700, error.to_string())),
            );
        }
    };
    if request.jsonrpc != "2.0" {
        return answer(
            StatusCode::BAD_REQUEST,
            &request.id,
            Err((-32600, "jsonrpc is not 2.0".into())),
        );
    }
    let signed = &admitted.claims().vouch;
    let tool = request.params["name"].as_str().unwrap_or_default();
    let payload = signed.payload.clone().into_value();
    let intent = (
        signed.intent.action(),
        signed.intent.target(),
        signed.intent.resource(),
    );
    if intent != (request.method.as_str(), ledger.audience.as_str(), tool)
        || payload != request.params
    {
        return answer(
            StatusCode::FORBIDDEN,
            &request.id,
            Err((-32001, "the token was made for another call".into())),
        );
    }
    match request.method.as_str() {
        "tools/call" => {
            let result = run(&ledger, tool, &request.params["arguments"]).map(|text| {
                let by = format!(
                    "{text}, for {} of a {} enclave",
                    admitted.claims().iss,
                    admitted.verdict().verdict
                );
                json!({"content": [{"type": "text", "text": by}], "isError": false})
            });
            answer(StatusCode::OK, &request.id, result)
        }
        other => answer(
            StatusCode::OK,
            &request.id,
            Err((-32601, format!("no method {other:?}"))),
        ),
    }
}

fn run(ledger: &Ledger, tool: &str, arguments: &Value) -> Result<String, (i32, String)> {
    if tool != "transfer" {
        return Err((-32602, format!("no tool {tool:?}")));
    }
    let Transfer { to, amount } =
        Transfer::deserialize(arguments).map_err(|error| (-32602, error.to_string()))?;
    let before = ledger.sent.fetch_add(u64::from(amount), Ordering::Relaxed);
    Ok(format!(
        "sent {amount} to {to}; {} in all",
        before + u64::from(amount)
    ))
}

fn answer(status: StatusCode, id: &Value, outcome: Result<Value, (i32, String)>) -> Response {
    let mut body = json!({"jsonrpc": "2.0", "id": id});
    match outcome {
        Ok(result) => body["result"] = result,
        Err((code, message)) => body["error"] = json!({"code": code, "message": message}),
    }
    (status, Json(body)).into_response()
}
