//! What a request to a model takes of limits, at most.

use broker::{MAX_PRICED, Tokens, check_unpriced};
use policy::{Limit, Price, Service, ServiceRule};
use policy_engine::{Denied, Taken};
use protocol::ServiceRequest;

use super::asked::Asked;
use crate::Error;
use crate::env::Env;

/// What a request to a model takes at most.
pub(super) struct Counted {
    pub(super) most: Tokens,
    pub(super) price: Option<Price>,
}

impl Counted {
    pub(super) fn taken(&self) -> Taken {
        let cost = self.price.as_ref().map(|price| self.most.cost(price));
        Taken {
            cost: cost.unwrap_or_default(),
            tokens: self.most.sum(),
        }
    }
}

/// What a request takes at most, where its rule counts that.
pub(super) fn count(
    env: &Env<'_>,
    (service, rule): (&Service, &ServiceRule),
    request: &ServiceRequest,
    parsed: &Asked,
) -> Result<Option<Counted>, Error> {
    let Some(priced) = &rule.priced else {
        return Ok(None);
    };
    check_unpriced(&parsed.target, &parsed.headers)?;
    let wrong = |why: &str| Error::from(broker::Error::BodyNotPriced(why.to_owned()));
    let asked = request.counted.as_ref();
    let asked = asked.ok_or_else(|| wrong("nothing is said of what it asks"))?;
    // A prompt is as long as its body.
    let length = request.length.filter(|length| *length <= MAX_PRICED as u64);
    if length.map(Tokens::prompt) != Some(asked.input) {
        return Err(wrong(
            "its length is not known, too long, or another than what is said of it",
        ));
    }
    if asked.output > priced.max_tokens {
        let why = format!(
            "answers of {} tokens at most are allowed",
            priced.max_tokens
        );
        return Err(wrong(&why));
    }
    let price = env
        .annex()
        .and_then(|annex| annex.price(&service.name, &asked.model));
    if price.is_none() && rule.limits.iter().any(Limit::is_cost) {
        return Err(Denied::ModelNotPriced {
            service: service.name.clone(),
            model: asked.model.clone(),
        }
        .into());
    }
    Ok(Some(Counted {
        most: Tokens {
            input: asked.input,
            output: asked.output,
        },
        price: price.cloned(),
    }))
}
