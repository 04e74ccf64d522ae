//! AWS's credentials of this host: a file, the environment, or the instance's role.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_credential_types::Credentials;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::files::read_bounded;

/// The instance metadata service (IMDSv2, EC2 user guide).
const METADATA: &str = "169.254.169.254:80";
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_ANSWER: usize = 16 * 1024;
const NAME: &str = "anchorhold";

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub(crate) struct NoCredentials(String);

impl fmt::Display for NoCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no AWS credentials: {}", self.0)
    }
}

/// Finds them: in the file, if one is named; else in `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and
/// `AWS_SESSION_TOKEN`; else the role of this EC2 instance. They are read anew each time, for they
/// change.
pub(crate) async fn find(file: Option<&Path>) -> Result<Credentials, NoCredentials> {
    if let Some(file) = file {
        return of_file(file);
    }
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (
        variable("AWS_ACCESS_KEY_ID"),
        variable("AWS_SECRET_ACCESS_KEY"),
    ) {
        (Some(id), Some(secret)) => {
            let token = variable("AWS_SESSION_TOKEN");
            Ok(Credentials::new(id, secret, token, None, NAME))
        }
        _ => of_instance().await,
    }
}

/// The profile `default` of a shared credentials file.
fn of_file(file: &Path) -> Result<Credentials, NoCredentials> {
    let wrong = |why: String| NoCredentials(why);
    let text = read_bounded(file).map_err(|error| wrong(error.to_string()))?;
    let text =
        String::from_utf8(text).map_err(|_| wrong(format!("{}: not UTF-8", file.display())))?;
    let mut here = false;
    let (mut id, mut secret, mut token) = (None, None, None);
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            here = line == "[default]";
        }
        let Some((key, value)) = line.split_once('=').filter(|_| here) else {
            continue;
        };
        let value = Some(value.trim().to_owned());
        match key.trim() {
            "aws_access_key_id" => id = value,
            "aws_secret_access_key" => secret = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Credentials::new(id, secret, token, None, NAME)),
        _ => Err(wrong(format!(
            "{}: its profile [default] has no aws_access_key_id and aws_secret_access_key",
            file.display()
        ))),
    }
}

/// `GET /latest/meta-data/iam/security-credentials/<role>`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleCredentials {
    access_key_id: String,
    secret_access_key: String,
    token: String,
}

async fn of_instance() -> Result<Credentials, NoCredentials> {
    const PATH: &str = "/latest/meta-data/iam/security-credentials/";
    let wrong = |what: &str, error: String| {
        NoCredentials(format!(
            "neither a file nor AWS_ACCESS_KEY_ID is given, and {what} of the instance metadata service: {error}"
        ))
    };
    let token = ask(
        Method::PUT,
        "/latest/api/token",
        "x-aws-ec2-metadata-token-ttl-seconds",
        "60",
    )
    .await
    .map_err(|error| wrong("no token", error))?;
    let get = |path: String, token: String| async move {
        ask(Method::GET, &path, "x-aws-ec2-metadata-token", &token).await
    };
    let role = get(PATH.into(), token.clone())
        .await
        .map_err(|error| wrong("no role", error))?;
    let role = role.lines().next().unwrap_or_default();
    let answer = get(format!("{PATH}{role}"), token)
        .await
        .map_err(|error| wrong("no credentials", error))?;
    let found: RoleCredentials = serde_json::from_str(&answer)
        .map_err(|error| wrong("no credentials", error.to_string()))?;
    let RoleCredentials {
        access_key_id,
        secret_access_key,
        token,
    } = found;
    Ok(Credentials::new(
        access_key_id,
        secret_access_key,
        Some(token),
        None,
        NAME,
    ))
}

/// One request to the metadata service.
async fn ask(method: Method, path: &str, header: &str, value: &str) -> Result<String, String> {
    let talk = async {
        let stream = TcpStream::connect(METADATA).await.map_err(text)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(text)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "169.254.169.254")
            .header(header, value)
            .body(Empty::<Bytes>::new())
            .map_err(text)?;
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
        let body = body.await.map_err(|error| error.to_string())?.to_bytes();
        if !status.is_success() {
            return Err(format!("status {status}"));
        }
        String::from_utf8(body.to_vec()).map_err(text)
    };
    timeout(METADATA_TIMEOUT, talk)
        .await
        .unwrap_or_else(|_| Err("it does not answer".into()))
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

/// Where credentials are read from, for people.
pub(crate) fn named(file: Option<&PathBuf>) -> String {
    file.map_or_else(
        || "the environment or the instance's role".into(),
        |file| file.display().to_string(),
    )
}
