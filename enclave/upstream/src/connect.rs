//! New connections, over lines that are asked for.

use std::io;
use std::time::Duration;

use protocol::{CallKind, LineTo, Ticket};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::frames::FramesTo;
use crate::lines::Line;
use crate::shared::Shared;
use crate::tokens::TokenHost;
use crate::wire::Ending;

/// For a line to be lent, and for the service to shake hands.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Whom a connection is to.
pub(crate) enum Whom<'a> {
    Service,
    /// Who gives tokens for it.
    Tokens(&'a TokenHost),
}

/// A line with TLS on it.
pub(crate) async fn connect(
    shared: &Shared,
    to: &mut FramesTo,
    ticket: Ticket,
    whom: Whom<'_>,
) -> Result<TlsStream<Line>, Ending> {
    let (connector, name, line_to) = match whom {
        Whom::Service => (&shared.tls, &shared.name, LineTo::Service),
        Whom::Tokens(host) => (&host.tls, &host.name, LineTo::Tokens),
    };
    let line = shared.want(ticket);
    let wanted = to.write(CallKind::LineWanted, line_to.bytes()).await;
    wanted.map_err(|_| Ending::Aborted)?;
    let lent = timeout(CONNECT_WITHIN, line).await;
    shared.unwant(ticket);
    let Ok(Ok(line)) = lent else {
        return Err(Ending::ServiceUnreachable);
    };
    let shaken = timeout(CONNECT_WITHIN, connector.connect(name.clone(), line)).await;
    match shaken {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if is_untrusted(&error) => Err(Ending::ServiceUntrusted),
        _ => Err(Ending::ServiceUnreachable),
    }
}

/// Whether it was the certificate.
fn is_untrusted(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}
