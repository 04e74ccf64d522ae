//! Who could take a key, and what holds of rolling a state back.

use std::fmt;
use std::str::FromStr;

use minicbor::encode::Write;
use minicbor::{Decode, Decoder, Encode, Encoder};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// A word of a closed list: the same in text, JSON and CBOR.
macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            /// Its word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(Error::TermsInvalid(format!(
                        concat!("the ", $what, " {:?} is none of: ", $($text, " "),+),
                        text.chars().take(64).collect::<String>()
                    ).trim_end().into())),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: Write>(
                &self,
                encoder: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                encoder.str(self.as_str())?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let word = decoder.str()?;
                word.parse().map_err(|_| {
                    minicbor::decode::Error::message(concat!("not a ", $what, " that is known"))
                })
            }
        }
    };
}

word! {
    /// Where an identity's key is kept, and so who could take it. Each is better than those before
    /// it.
    Custody, "custody" {
        /// In the memory of one boot. Nobody can take it, and it ends with the boot.
        Ephemeral = "ephemeral",
        /// Sealed under a key of AWS KMS, whose administrator could take it.
        Kms = "kms",
    }
}

word! {
    /// What holds of a parent that brings an older seal than the last one, or runs two enclaves on
    /// one state.
    Rollback, "rollback" {
        /// It can. The operator has accepted that.
        Accepted = "accepted",
    }
}
