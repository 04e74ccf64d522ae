//! The operator's port: metrics, health, and what was written down of a request.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::answer::json_answer;
use crate::body::Body;
use crate::callers::Caller;
use crate::headers::only;
use crate::recorder::{MAX_LINES, Wanted};
use crate::shared::Shared;

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
                .header_read_timeout(crate::shared::HEAD_DEADLINE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Body> {
    if request.method() != Method::GET {
        return error(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    if !is_for_this_host(request.headers()) {
        return error(StatusCode::FORBIDDEN, "ask localhost, or an address");
    }
    let is_good = shared.recorder.as_ref().is_none_or(|it| it.is_good());
    match request.uri().path() {
        "/metrics" => {
            let text = shared.metrics.text();
            let mut response = Response::new(Body::from(Bytes::from(text)));
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
        path if path.starts_with("/trace/") => trace(shared, request.uri(), None).await,
        path if path.starts_with("/quarantine/") => quarantine(shared, path, None).await,
        _ => error(StatusCode::NOT_FOUND, "Not found"),
    }
}

/// What was written down under the id of a path, `/trace/{id}?offset=0&limit=1000`; of one caller, or
/// of all.
pub(crate) async fn trace(shared: &Shared, uri: &Uri, caller: Option<&Caller>) -> Response<Body> {
    let not_found = |why| error(StatusCode::NOT_FOUND, why);
    let id = uri.path().strip_prefix("/trace/").map(Uuid::try_parse);
    let Some(Ok(id)) = id else {
        return not_found("Not found");
    };
    let mut wanted = Wanted {
        id,
        caller: caller.cloned(),
        offset: 0,
        limit: MAX_LINES,
    };
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        let number = value.parse::<usize>();
        match (&*name, number) {
            ("offset", Ok(number)) => wanted.offset = number,
            ("limit", Ok(number)) if (1..=MAX_LINES).contains(&number) => wanted.limit = number,
            _ => {
                let why = format!("offset, and limit from 1 to {MAX_LINES}, are wanted here");
                return error(StatusCode::BAD_REQUEST, &why);
            }
        }
    }
    let offset = wanted.offset;
    match read(shared, wanted).await {
        None => not_found("nothing is recorded: set --log-dir"),
        Some(Ok((logs, _))) if logs.is_empty() && offset == 0 => not_found("Trace not found"),
        Some(Ok((logs, has_more))) => {
            let next = offset.saturating_add(logs.len());
            let mut page = json!({"trace_id": id, "logs": logs});
            if has_more {
                page["next_offset"] = next.into();
            }
            json_answer(StatusCode::OK, &page)
        }
        Some(Err(_)) => unreadable(),
    }
}

/// What was overridden below the trust threshold, `/quarantine/{id}`, as the Python SDK says it.
pub(crate) async fn quarantine(
    shared: &Shared,
    path: &str,
    caller: Option<&Caller>,
) -> Response<Body> {
    let not_found = || error(StatusCode::NOT_FOUND, "Quarantine session not found");
    let id = path.strip_prefix("/quarantine/").map(Uuid::try_parse);
    let Some(Ok(id)) = id else {
        return not_found();
    };
    let wanted = Wanted {
        id,
        caller: caller.cloned(),
        offset: 0,
        limit: MAX_LINES,
    };
    let lines = match read(shared, wanted).await {
        Some(Ok((lines, _))) => lines,
        Some(Err(_)) => return unreadable(),
        None => return not_found(),
    };
    let of = |kind: &str| lines.iter().find(|line| line["type"] == kind);
    let Some((session, warned)) = of("quarantine").zip(of("user_override")) else {
        return not_found();
    };
    let session = json!({
        "session_id": id,
        "trace_id": id,
        "warning_message": warned["warning"],
        "user_override": true,
        "timestamp": session["timestamp"],
        "manifest": shared.manifest.document(),
    });
    json_answer(StatusCode::OK, &session)
}

/// Lines of the flight recorder, and whether there are more; none where nothing is recorded.
async fn read(shared: &Shared, wanted: Wanted) -> Option<std::io::Result<(Vec<Value>, bool)>> {
    let recorder = shared.recorder.clone()?;
    // It reads files; a few at once are enough.
    let reading = Arc::clone(&shared.reading).acquire_owned().await.ok()?;
    let read = tokio::task::spawn_blocking(move || {
        // It reads on if nobody waits for it any more.
        let _reading = reading;
        recorder.trace(&wanted)
    });
    Some(
        read.await
            .unwrap_or_else(|error| Err(std::io::Error::other(error))),
    )
}

fn unreadable() -> Response<Body> {
    let why = "the flight recorder cannot be read";
    error(StatusCode::INTERNAL_SERVER_ERROR, why)
}

/// Whether it asks this host by an address or as localhost. A page in a browser, whose name somebody has
/// made one of this host, asks by that name.
fn is_for_this_host(headers: &HeaderMap) -> bool {
    let host = only(headers, HOST.as_str()).and_then(|host| host.to_str().ok());
    let authority = host.and_then(|host| host.parse::<Authority>().ok());
    authority.is_some_and(|authority| {
        let host = authority.host().trim_matches(['[', ']']);
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
    })
}

fn error(status: StatusCode, detail: &str) -> Response<Body> {
    json_answer(status, &json!({"detail": detail}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_this_host_by_its_own_names_is_answered() {
        let of = |hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, HeaderValue::from_str(host).unwrap());
            }
            is_for_this_host(&headers)
        };
        for host in [
            "localhost",
            "LOCALHOST:9090",
            "127.0.0.1:9090",
            "[::1]:9090",
            "10.0.0.7",
        ] {
            assert!(of(&[host]), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9090",
            "",
            "a@127.0.0.1x",
        ] {
            assert!(!of(&[host]), "{host}");
        }
        assert!(!of(&[]) && !of(&["localhost", "localhost"]));
    }
}
