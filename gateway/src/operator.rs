//! The operator's port: metrics, health, and what was written down of a request.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::answer::{Body, json_answer};
use crate::service::{HEAD_DEADLINE, Shared};

/// Serves it, for ever.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(&shared, &request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Body> {
    if request.method() != Method::GET {
        return error(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    let is_good = shared.recorder.as_ref().is_none_or(|it| it.is_good());
    match request.uri().path() {
        "/metrics" => {
            let text = shared.metrics.text();
            let mut response = Response::new(Either::Left(Full::new(Bytes::from(text))));
            let kind = HeaderValue::from_static(
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            );
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        "/health" => json_answer(StatusCode::OK, &json!({"status": "healthy"})),
        "/ready" if is_good => json_answer(StatusCode::OK, &json!({"status": "ready"})),
        "/ready" => error(
            StatusCode::SERVICE_UNAVAILABLE,
            "the flight recorder cannot write",
        ),
        path => match path.strip_prefix("/trace/").map(Uuid::try_parse) {
            Some(Ok(trace_id)) => trace(shared, trace_id).await,
            _ => error(StatusCode::NOT_FOUND, "Not found"),
        },
    }
}

async fn trace(shared: &Shared, trace_id: Uuid) -> Response<Body> {
    let Some(recorder) = shared.recorder.clone() else {
        return error(StatusCode::NOT_FOUND, "nothing is recorded: set --log-dir");
    };
    let read = tokio::task::spawn_blocking(move || recorder.trace(trace_id)).await;
    match read {
        Ok(Ok(logs)) if logs.is_empty() => error(StatusCode::NOT_FOUND, "Trace not found"),
        Ok(Ok(logs)) => json_answer(StatusCode::OK, &json!({"trace_id": trace_id, "logs": logs})),
        _ => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the flight recorder cannot be read",
        ),
    }
}

fn error(status: StatusCode, detail: &str) -> Response<Body> {
    json_answer(status, &json!({"detail": detail}))
}
