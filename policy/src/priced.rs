//! What requests to models cost.

use serde::{Deserialize, Serialize};

use crate::names::check_name;

/// The longest answer that a rule may let a request want, in tokens.
const MAX_TOKENS: u64 = 10_000_000;

/// That the requests of a rule are to a model, and so can be counted by tokens and cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Priced {
    /// Of which form their bodies are.
    pub form: Form,
    /// How many tokens an answer may have at most. A request that does not say how many it wants is given
    /// this many.
    pub max_tokens: u64,
}

/// The form of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// OpenAI's `/v1/chat/completions`.
    OpenaiChat,
    /// The same of others, who know the length of an answer as `max_tokens` alone.
    OpenaiCompatible,
    /// OpenAI's `/v1/responses`.
    OpenaiResponses,
    /// Anthropic's `/v1/messages`.
    AnthropicMessages,
}

impl Form {
    /// All of them, in an order that stays.
    pub const ALL: [Self; 4] = [
        Self::OpenaiChat,
        Self::OpenaiResponses,
        Self::AnthropicMessages,
        Self::OpenaiCompatible,
    ];

    /// Its place among all.
    pub fn place(self) -> u8 {
        match self {
            Self::OpenaiChat => 0,
            Self::OpenaiResponses => 1,
            Self::AnthropicMessages => 2,
            Self::OpenaiCompatible => 3,
        }
    }
}

/// For how long budgets in money are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Budget {
    /// Each boot begins anew.
    #[serde(rename = "per boot")]
    PerBoot,
    /// What was used is kept with the bundle's state.
    #[serde(rename = "across boots")]
    AcrossBoots,
}

/// What a model of a service costs, in micro-dollars for a million tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Name of the service.
    pub service: String,
    /// The model, as requests name it.
    pub model: String,
    /// Of a prompt.
    pub input: u64,
    /// Of an answer.
    pub output: u64,
}

impl Priced {
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(1..=MAX_TOKENS).contains(&self.max_tokens) {
            return Err("priced: max_tokens is 1 to 10000000".into());
        }
        Ok(())
    }
}

impl Price {
    /// The highest that can be written down.
    const MAX: u64 = 1_000_000_000_000;

    pub(crate) fn check(&self) -> Result<(), String> {
        check_name(&self.service)?;
        let is_model = !self.model.is_empty() && self.model.len() <= 256;
        if !is_model || self.model.chars().any(char::is_control) {
            return Err("a model has 1 to 256 characters, and no control characters".into());
        }
        if self.input.max(self.output) > Self::MAX {
            return Err("a price is at most 10^12 micro-dollars for a million tokens".into());
        }
        Ok(())
    }
}
