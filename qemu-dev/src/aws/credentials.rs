//! Who may call the mock: two pairs of keys, in a file as AWS's own tools read it.

use std::path::Path;

use data_encoding::{BASE32_NOPAD, BASE64_NOPAD};

use crate::Error;
use crate::files;
use crate::nsm::os_random;

/// The role of `[default]`: what a sidecar is.
pub const SIDECAR: &str = "arn:aws:iam::000000000000:role/anchorhold-sidecar";
/// The role of `[admin]`: who makes keys.
pub const ADMIN: &str = "arn:aws:iam::000000000000:role/anchorhold-admin";

const PROFILES: [(&str, &str); 2] = [("default", SIDECAR), ("admin", ADMIN)];
const NAMES: [&str; 3] = [
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
];

/// Temporary credentials of a role.
pub(super) struct Credentials {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: String,
    pub(super) principal: &'static str,
}

/// Reads the file; makes it if it is missing.
pub(super) fn open(file: &Path) -> Result<Vec<Credentials>, Error> {
    if !file.exists() {
        files::write(file, new_text().as_bytes())?;
    }
    let text = files::read(file)?;
    parse(&text).ok_or_else(|| {
        let what = file.display();
        Error::State(format!(
            "{what}: not as `anchorhold-dev aws` wrote it; remove it to have a new one"
        ))
    })
}

fn new_text() -> String {
    let mut text =
        "# Made by `anchorhold-dev aws`, which is no AWS. Worth nothing anywhere else.\n"
            .to_owned();
    for (profile, _) in PROFILES {
        let values = [
            format!("ASIAMOCK{}", &BASE32_NOPAD.encode(&random::<8>())[..12]),
            BASE64_NOPAD.encode(&random::<30>()),
            format!("MOCKAWS{}", BASE64_NOPAD.encode(&random::<96>())),
        ];
        text.push_str(&format!("[{profile}]\n"));
        for (name, value) in NAMES.iter().zip(values) {
            text.push_str(&format!("{name} = {value}\n"));
        }
    }
    text
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    os_random(&mut bytes);
    bytes
}

/// What [`new_text`] wrote, line by line.
fn parse(text: &str) -> Option<Vec<Credentials>> {
    let mut lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut credentials = Vec::new();
    for (profile, principal) in PROFILES {
        if lines.next()? != format!("[{profile}]") {
            return None;
        }
        let mut value = |name: &str| {
            let (found, value) = lines.next()?.split_once(" = ")?;
            (found == name && !value.is_empty()).then(|| value.to_owned())
        };
        credentials.push(Credentials {
            id: value(NAMES[0])?,
            secret: value(NAMES[1])?,
            token: value(NAMES[2])?,
            principal,
        });
    }
    lines.next().is_none().then_some(credentials)
}
