//! The key policy of the KMS key that keeps a state.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::Failure;
use super::state::{read_bundle, read_measurements};
use crate::operator::key_policy;

/// Print the policy of the KMS key that keeps a state
///
/// Under it only enclaves of these images, under these bundles, can have what the key wraps; a host with
/// the role's credentials alone cannot. Whoever may change this policy can take the keys: that is
/// the administrator whom you name.
#[derive(Debug, Args)]
pub(super) struct KmsPolicy {
    /// An image under a bundle that may have the key; may be repeated
    #[arg(long = "pair", value_name = "MEASUREMENTS,BUNDLE", required = true)]
    pairs: Vec<String>,
    /// The role of the host that runs the sidecar: the only one that asks for the enclave
    #[arg(long, value_name = "ARN")]
    role: String,
    /// The role that may administer the key: it can change this policy, and so take what the key
    /// keeps
    #[arg(long, value_name = "ARN")]
    admin: String,
}

#[derive(Debug, Args)]
pub(super) struct KmsCheck {
    #[command(flatten)]
    wanted: KmsPolicy,
    /// The policy that the key has: aws kms get-key-policy --key-id ARN --query Policy --output text
    #[arg(long, value_name = "FILE")]
    live: PathBuf,
}

impl KmsPolicy {
    pub(super) fn print(&self, out: &mut impl Write) -> Result<(), Failure> {
        let policy = serde_json::to_string_pretty(&self.policy()?).unwrap_or_default();
        Ok(writeln!(out, "{policy}")?)
    }

    fn policy(&self) -> Result<Value, Failure> {
        let read = |text: &String| {
            let (image, bundle) = text
                .split_once(',')
                .ok_or_else(|| Failure::Usage(format!("--pair {text}: MEASUREMENTS,BUNDLE")))?;
            Ok::<_, Failure>((
                read_measurements(image.as_ref())?,
                read_bundle(bundle.as_ref())?,
            ))
        };
        let pairs = self.pairs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(key_policy(&pairs, &self.role, &self.admin)?)
    }
}

impl KmsCheck {
    /// Compares as JSON: order of members does not count, everything else does.
    pub(super) fn run(&self, out: &mut impl Write) -> Result<(), Failure> {
        let text = enclave_client::files::read_bounded(&self.live)?;
        let live: Value = identity::json::parse(&text)
            .map_err(|error| Failure::Usage(format!("{}: {error}", self.live.display())))?;
        let wanted = self.wanted.policy()?;
        if live == wanted {
            writeln!(out, "good: the key has exactly this policy")?;
            return Ok(());
        }
        Err(Failure::Refused(format!(
            "the key has another policy: {}",
            difference(&wanted, &live, String::new())
        )))
    }
}

/// Where two values differ first.
fn difference(wanted: &Value, live: &Value, at: String) -> String {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            let names = wanted.keys().chain(live.keys());
            for name in names {
                let (one, other) = (&wanted.get(name), &live.get(name));
                match (one, other) {
                    (Some(one), Some(other)) if one == other => {}
                    (Some(one), Some(other)) => {
                        return difference(one, other, format!("{at}/{name}"));
                    }
                    (Some(_), None) => return format!("{at}/{name} is missing"),
                    _ => return format!("{at}/{name} should not be there"),
                }
            }
            at
        }
        (Value::Array(wanted), Value::Array(live)) => {
            let differs = wanted
                .iter()
                .zip(live)
                .position(|(one, other)| one != other);
            match differs {
                Some(index) => difference(&wanted[index], &live[index], format!("{at}/{index}")),
                None => format!("{at} has {} entries, not {}", live.len(), wanted.len()),
            }
        }
        _ => format!("{at} is {live}, not {wanted}"),
    }
}
