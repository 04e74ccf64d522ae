//! Why a caller is turned away.

/// Why a caller is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum TurnedAway {
    /// The kernel could not say who it is.
    CallerUnknown,
    /// The process that connected has ended.
    CallerGone,
    /// No token, or no known one.
    TokenInvalid,
    /// `Host` is not this server.
    ForeignHost,
    /// A browser sent it from some page.
    ForeignOrigin,
    /// It connects too often, or has too many connections.
    TooManyConnections,
}
