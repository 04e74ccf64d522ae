//! A verifier policy to begin with, from what is accepted.

use std::path::PathBuf;

use attestation::AppraisalPolicy;
use attestation::Measurements;
use policy::Bundle;

use super::args::{Error, parse};

/// What a verifier policy is made of.
#[derive(Debug, clap::Args)]
pub(crate) struct Starter {
    /// Measurements of an image that you accept, as `nitro-cli describe-eif` prints them; may be
    /// repeated
    #[arg(long, value_name = "FILE", required = true)]
    measurements: Vec<PathBuf>,
    /// A policy bundle that you accept, TOML or canonical; may be repeated
    #[arg(long, alias = "policy", value_name = "FILE", required = true)]
    bundle: Vec<PathBuf>,
    /// The audience that you are
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
}

impl Starter {
    /// The policy's TOML.
    pub(crate) fn write(&self) -> Result<String, Error> {
        let mut text = String::from("version = 1\n");
        if let Some(audience) = &self.audience {
            text += &format!("audience = {}\n", quoted(audience));
        }
        for file in &self.measurements {
            let image = parse(file, Measurements::parse)?;
            text += &format!(
                "\n[[images]]\nlabel = {}\n[images.registers]\n",
                quoted(&file.display().to_string())
            );
            let registers = [
                ("PCR0", Some(image.pcr0)),
                ("PCR1", Some(image.pcr1)),
                ("PCR2", Some(image.pcr2)),
                ("PCR8", image.pcr8),
            ];
            for (name, value) in registers {
                text += &value
                    .map(|value| format!("{name} = \"{value}\"\n"))
                    .unwrap_or_default();
            }
        }
        for file in &self.bundle {
            let digest = parse(file, |text| {
                Bundle::from_either(text).map(|bundle| bundle.digest().digest())
            })?;
            text += &format!(
                "\n[[bundles]]\nlabel = {}\ndigest = \"{digest}\"\n",
                quoted(&file.display().to_string())
            );
        }
        AppraisalPolicy::from_toml(text.as_bytes()).map_err(|error| error.to_string())?;
        Ok(text)
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
