use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::reason::innermost;

/// It is asked for so long.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What it answers is no longer.
const MAX_ANSWER: usize = 256 << 10;

/// Asks an authorization server, over TLS unless it is on this host.
#[derive(Clone)]
pub struct Fetch(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// Where it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(Uri);

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fetch")
    }
}

impl Place {
    /// `https:`, or `http:` on this host. The error says why not.
    pub fn new(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| format!("{text} is no URL"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let address = host.parse::<std::net::IpAddr>();
        let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        match uri.scheme_str() {
            Some("https") if !host.is_empty() => Ok(Self(uri)),
            Some("http") if is_here => Ok(Self(uri)),
            _ => Err(format!("{text}: only https:, or http: on this host")),
        }
    }
}

impl Fetch {
    /// It trusts Mozilla's list of authorities, or those of a file in PEM. The error says what is wrong
    /// with it.
    pub fn new(authorities: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match authorities {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(file) => {
                let said = |error: &dyn fmt::Display| format!("{}: {error}", file.display());
                let read = CertificateDer::pem_file_iter(file).map_err(|error| said(&error))?;
                for certificate in read {
                    let certificate = certificate.map_err(|error| said(&error))?;
                    roots.add(certificate).map_err(|error| said(&error))?;
                }
            }
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Self(client))
    }

    /// What is there. The error says why nothing was had.
    pub(super) async fn get(&self, place: &Place) -> Result<Bytes, String> {
        self.ask(Request::get(place.0.clone()), Bytes::new()).await
    }

    /// Asks with a form, as a client that authenticates itself (RFC 6749 section 2.3.1).
    pub(super) async fn post(
        &self,
        place: &Place,
        client: &HeaderValue,
        form: String,
    ) -> Result<Bytes, String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(place.0.clone())
            .header(AUTHORIZATION, client)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.ask(request, form.into()).await
    }

    async fn ask(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Bytes, String> {
        let request = request
            .header(ACCEPT, "application/json")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let answer = self.exchange(request).await?;
        if !answer.status().is_success() {
            return Err(format!("it answered {}", answer.status()));
        }
        Ok(answer.into_body())
    }

    /// Sends a request. The error says why there was no answer.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        self.exchange(request.map(Full::new)).await
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
        let asked = async {
            let answer = self.0.request(request).await;
            let (head, body) = answer.map_err(|error| innermost(&error))?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|error| error.to_string())?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        let answered = tokio::time::timeout(TIMEOUT, asked).await;
        answered.unwrap_or_else(|_| Err("it did not answer in time".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_cross_no_network_in_clear() {
        for good in [
            "https://a/b",
            "http://127.0.0.1:1/",
            "http://[::1]/",
            "http://localhost:9/x",
        ] {
            assert!(Place::new(good).is_ok(), "{good}");
        }
        for bad in [
            "http://a/b",
            "ftp://a",
            "/b",
            "https:///",
            "http://localhost.example/",
            "",
        ] {
            assert!(Place::new(bad).is_err(), "{bad}");
        }
    }
}
