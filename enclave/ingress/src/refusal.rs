//! What this process refuses by itself, before anybody else hears of it.

use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::answer::{AnswerBody, whole};

const ERROR: HeaderName = HeaderName::from_static("x-anchorhold-error");

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    /// The request is for another host than its connection.
    HostMisdirected,
    /// A page in a browser asks.
    ForeignOrigin,
    /// Too many long bodies are kept whole just now.
    ServiceBusy,
    /// The host has no service of this path.
    UnknownService,
    /// The request names no path, or one that cannot be judged.
    PathNotCanonical,
    /// Its body did not come in time, or broke off.
    BodyBroken,
    /// It is to a model, and says what no price is known for.
    BodyNotPriced,
    /// Its headers are more than what can be judged.
    HeadersTooLong,
    /// What the parent said makes no sense, or came from elsewhere.
    ParentNonsense,
}

impl Refusal {
    /// The stable snake_case name.
    pub fn code(self) -> &'static str {
        self.into()
    }

    fn status(self) -> StatusCode {
        match self {
            Self::HostMisdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::ForeignOrigin => StatusCode::FORBIDDEN,
            Self::ServiceBusy => StatusCode::SERVICE_UNAVAILABLE,
            Self::UnknownService => StatusCode::NOT_FOUND,
            Self::PathNotCanonical | Self::BodyNotPriced => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::HeadersTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ParentNonsense => StatusCode::BAD_GATEWAY,
        }
    }

    fn says(self) -> &'static str {
        match self {
            Self::HostMisdirected => "the request is for another host than its TLS connection",
            Self::ForeignOrigin => "a page in a browser asks, and not an agent",
            Self::ServiceBusy => "too many long bodies are kept whole just now",
            Self::UnknownService => "the bundle has no service of this host and path",
            Self::PathNotCanonical => "the request names no path that can be judged",
            Self::BodyBroken => "the body did not arrive whole",
            Self::BodyNotPriced => "the body cannot be counted",
            Self::HeadersTooLong => "the headers are too long",
            Self::ParentNonsense => "the parent said what makes no sense",
        }
    }

    /// With more than its name says.
    pub(crate) fn because(self, why: &dyn std::fmt::Display) -> Refused {
        Refused {
            why: self,
            says: why.to_string(),
        }
    }

    pub(crate) fn response(self) -> Response<AnswerBody> {
        Refused::from(self).response()
    }

    /// In the shape that clients of OpenAI and Anthropic read.
    fn written(self, says: &str) -> Response<AnswerBody> {
        let error = json!({"type": "invalid_request_error", "message": says, "code": self.code(), "param": null});
        let body = json!({"type": "error", "error": error}).to_string();
        let mut response = Response::new(whole(Full::from(body)));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ERROR, HeaderValue::from_static(self.code()));
        response
    }
}

/// A refusal, and what is said of it.
pub(crate) struct Refused {
    why: Refusal,
    says: String,
}

impl From<Refusal> for Refused {
    fn from(why: Refusal) -> Self {
        Self {
            why,
            says: why.says().to_owned(),
        }
    }
}

impl Refused {
    pub(crate) fn response(&self) -> Response<AnswerBody> {
        self.why.written(&self.says)
    }
}
