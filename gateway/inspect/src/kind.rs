use std::fmt;

/// A kind of sensitive data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The number of a payment card.
    CreditCard,
    /// A US social security number.
    Ssn,
    /// An e-mail address.
    Email,
    /// An International Bank Account Number.
    Iban,
    /// A phone number.
    Phone,
    /// An API key, a token, a private key.
    ApiKey,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::CreditCard,
        Self::Ssn,
        Self::Email,
        Self::Iban,
        Self::Phone,
        Self::ApiKey,
    ];

    /// What is written in place of one.
    pub fn mask(self) -> &'static str {
        match self {
            Self::CreditCard => "[CREDIT_CARD_REDACTED]",
            Self::Ssn => "[SSN_REDACTED]",
            Self::Email => "[EMAIL_REDACTED]",
            Self::Iban => "[IBAN_REDACTED]",
            Self::Phone => "[PHONE_REDACTED]",
            Self::ApiKey => "[API_KEY_REDACTED]",
        }
    }

    /// Its name in settings and in the log.
    pub fn name(self) -> &'static str {
        self.fact().trim_start_matches("has_")
    }

    /// The name of the fact that one was found: `has_credit_card`, for example.
    pub fn fact(self) -> &'static str {
        match self {
            Self::CreditCard => "has_credit_card",
            Self::Ssn => "has_ssn",
            Self::Email => "has_email",
            Self::Iban => "has_iban",
            Self::Phone => "has_phone",
            Self::ApiKey => "has_api_key",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::CreditCard => 1,
            Self::Ssn => 2,
            Self::Email => 4,
            Self::Iban => 8,
            Self::Phone => 16,
            Self::ApiKey => 32,
        }
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds(u8);

impl Kinds {
    /// Whether this kind is among them.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }

    /// Adds one.
    pub fn insert(&mut self, kind: Kind) {
        self.0 |= kind.bit();
    }

    /// Both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL
            .into_iter()
            .filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<T: IntoIterator<Item = Kind>>(kinds: T) -> Self {
        let mut set = Self::default();
        kinds.into_iter().for_each(|kind| set.insert(kind));
        set
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
