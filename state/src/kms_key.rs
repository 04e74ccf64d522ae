//! Which key of AWS KMS.

use std::fmt;
use std::str::FromStr;

use minicbor::encode::Write;
use minicbor::{Decode, Decoder, Encode, Encoder};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// The ARN of a key of AWS KMS: `arn:aws:kms:<region>:<account>:key/<id>`. No alias, which another
/// key could be given, and no multi-Region key, which has replicas under policies of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsKey {
    arn: String,
    region: String,
    suffix: &'static str,
}

const MAX_ARN: usize = 256;

impl KmsKey {
    /// The ARN.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// Its region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The endpoint that has it: `kms.<region>.amazonaws.com`.
    pub fn host(&self) -> String {
        format!("kms.{}.{}", self.region, self.suffix)
    }
}

impl FromStr for KmsKey {
    type Err = Error;

    fn from_str(arn: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            let shown: String = arn.chars().take(MAX_ARN).collect();
            Error::TermsInvalid(format!("the KMS key {shown:?} {why}"))
        };
        if arn.len() > MAX_ARN {
            return Err(wrong("is longer than 256 bytes"));
        }
        let parts: Vec<&str> = arn.split(':').collect();
        let ["arn", partition, "kms", region, account, key] = parts[..] else {
            return Err(wrong("is not arn:aws:kms:REGION:ACCOUNT:key/ID"));
        };
        let suffix = match partition {
            "aws" | "aws-us-gov" => "amazonaws.com",
            "aws-cn" => "amazonaws.com.cn",
            _ => return Err(wrong("is of a partition that is not known")),
        };
        let id = key
            .strip_prefix("key/")
            .ok_or_else(|| wrong("is not named by its id; an alias can be given to another key"))?;
        let plain = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if id.starts_with("mrk-") {
            return Err(wrong(
                "is a multi-Region key, whose replicas have policies of their own",
            ));
        }
        if id.is_empty() || !plain(id) {
            return Err(wrong("has no id of lowercase letters, digits and '-'"));
        }
        if region.is_empty() || !plain(region) || region.starts_with('-') || region.ends_with('-') {
            return Err(wrong("has no region"));
        }
        if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong("has no account of twelve digits"));
        }
        Ok(Self {
            arn: arn.to_owned(),
            region: region.to_owned(),
            suffix,
        })
    }
}

impl fmt::Display for KmsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.arn)
    }
}

impl Serialize for KmsKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.arn)
    }
}

impl<'de> Deserialize<'de> for KmsKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<C> Encode<C> for KmsKey {
    fn encode<W: Write>(
        &self,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.str(&self.arn)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for KmsKey {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let arn = decoder.str()?;
        arn.parse()
            .map_err(|_| minicbor::decode::Error::message("not the ARN of a KMS key"))
    }
}
