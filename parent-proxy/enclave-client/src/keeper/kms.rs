//! The parent's part in asking KMS: it signs the question (SigV4), and lends a line. TLS ends in the
//! enclave, so it sees neither question nor answer.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use data_encoding::HEXLOWER;
use protocol::{Endpoint, KmsSigned, SignKms};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connect;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// A line that is still open then serves nobody any more.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);

/// Signs a question of the enclave, for the date that the enclave gives.
pub(super) fn sign_question(
    question: &SignKms,
    credentials: &Credentials,
) -> Result<KmsSigned, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let time = UNIX_EPOCH + Duration::from_secs(question.time.unsigned_abs());
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&question.region)
        .name("kms")
        .time(time)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| text(&error))?
        .into();
    let uri = format!("https://{}/", question.host);
    let headers = [
        ("content-type", "application/x-amz-json-1.1"),
        ("host", question.host.as_str()),
        ("x-amz-target", question.target.as_str()),
    ];
    let body = SignableBody::Precomputed(HEXLOWER.encode(&question.body));
    let request = SignableRequest::new("POST", &uri, headers.into_iter(), body)
        .map_err(|error| text(&error))?;
    let (instructions, _) = sign(request, &params)
        .map_err(|error| text(&error))?
        .into_parts();
    let mut signed = KmsSigned {
        number: question.number,
        authorization: String::new(),
        security_token: None,
    };
    for (name, value) in instructions.headers() {
        match name.to_ascii_lowercase().as_str() {
            "authorization" => signed.authorization = value.to_owned(),
            "x-amz-security-token" => signed.security_token = Some(value.to_owned()),
            "x-amz-date" if value != question.amz_date => {
                return Err(format!(
                    "it would be for {value}, not {}",
                    question.amz_date
                ));
            }
            _ => {}
        }
    }
    Ok(signed)
}

/// Lends a line: dials KMS, dials the enclave's egress process, and passes on what comes, either
/// way.
pub(super) async fn lend_line(address: &str, egress: &Endpoint) -> Result<(), String> {
    let dial = async {
        let outside = TcpStream::connect(address)
            .await
            .map_err(|error| format!("{address}: {error}"))?;
        let inside = connect::open(egress)
            .await
            .map_err(|error| format!("{egress}: {error}"))?;
        Ok::<_, String>((outside, inside))
    };
    let (mut outside, mut inside) = timeout(CONNECT_TIMEOUT, dial)
        .await
        .map_err(|_| format!("{address} does not answer"))??;
    tokio::spawn(async move {
        let _ = timeout(LINE_TIMEOUT, copy_bidirectional(&mut outside, &mut inside)).await;
    });
    Ok(())
}
