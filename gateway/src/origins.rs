//! Pages of other places, whose browsers ask (CORS).

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue, ORIGIN};
use tower_http::cors::{AllowHeaders, AllowMethods, CorsLayer};

use crate::headers::{LATENCY, QUARANTINED, TRUST_SCORE};
use crate::trace;

/// The origins whose pages may ask.
#[derive(Debug, Clone)]
pub struct Origins(Vec<HeaderValue>);

impl Origins {
    /// Of texts such as `https://app.example`; the error says what is none.
    pub fn new(texts: &[String]) -> Result<Self, String> {
        let origin = |text: &String| {
            let uri: Option<hyper::Uri> = text.parse().ok();
            let is_origin = uri.is_some_and(|uri| {
                let authority = uri.authority().map_or("", |authority| authority.as_str());
                let scheme = uri.scheme_str().unwrap_or_default();
                matches!(scheme, "http" | "https") && *text == format!("{scheme}://{authority}")
            });
            match HeaderValue::from_str(text) {
                Ok(value) if is_origin => Ok(value),
                _ => Err(format!("{text} is no origin such as https://app.example")),
            }
        };
        texts.iter().map(origin).collect::<Result<_, _>>().map(Self)
    }

    /// Answers browsers for them.
    pub fn layer(&self) -> CorsLayer {
        let exposed = [trace::HEADER, LATENCY, TRUST_SCORE, QUARANTINED];
        CorsLayer::new()
            .allow_origin(self.0.clone())
            .allow_credentials(true)
            .allow_methods(AllowMethods::mirror_request())
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(exposed.map(HeaderName::from_static))
    }
}

/// Whether the page that asks, if it is one, may. A browser sends what it is told to by any page that
/// somebody opens, also to this host.
pub fn may_ask(origins: Option<&Origins>, headers: &HeaderMap) -> bool {
    let known = |origin: &HeaderValue| origins.is_some_and(|origins| origins.0.contains(origin));
    headers.get_all(ORIGIN).iter().all(known)
}
