//! The agent's manifest, as it is served.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::{Response, StatusCode};
use identity::sha256;

use crate::body::Body;

/// The manifest as it is served.
#[derive(Debug)]
pub(crate) struct ManifestPage {
    body: Bytes,
    etag: HeaderValue,
}

impl ManifestPage {
    pub(crate) fn new(document: &serde_json::Map<String, serde_json::Value>) -> Self {
        let body = serde_json::to_vec(document).expect("JSON of ours");
        let etag = format!("\"{}\"", sha256(&body));
        Self {
            etag: HeaderValue::try_from(etag).expect("hexadecimal digits"),
            body: body.into(),
        }
    }

    /// The answer to a GET.
    pub(crate) fn respond(&self, request: &hyper::Request<Incoming>) -> Response<Body> {
        let known = request.headers().get_all(IF_NONE_MATCH).iter();
        let is_known = known
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == "*" || tag.as_bytes() == self.etag.as_bytes());
        let mut response = if is_known {
            let mut response = Response::new(Body::from(Bytes::new()));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            Response::new(Body::from(self.body.clone()))
        };
        let headers = response.headers_mut();
        headers.insert(ETAG, self.etag.clone());
        let hour = HeaderValue::from_static("max-age=3600");
        headers.insert(CACHE_CONTROL, hour);
        if !is_known {
            let json = HeaderValue::from_static("application/json");
            headers.insert(CONTENT_TYPE, json);
        }
        response
    }
}
