//! The stable codes of refusals, read from the enums that they are made of: docs/errors.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use quote::ToTokens;
use syn::visit::Visit;

use crate::{parse, root, rust_files};

/// A code: what it is called, why it comes, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Code {
    name: String,
    cause: String,
    /// HTTP status; nothing where there is none.
    status: String,
}

/// A part of the page.
struct Section {
    title: &'static str,
    about: &'static str,
    codes: Vec<Code>,
    /// What to do about any of them that has no words of its own; none if each must have.
    otherwise: Option<&'static str>,
    /// A table of `advice.toml` that counts before the one for all.
    advice: Option<&'static str>,
}

/// The page, of the enums as they are now and of what `advice.toml` says to do about each code.
///
/// # Panics
/// If a code that needs advice has none, or advice is for a code that there is not.
pub fn page() -> String {
    let written: BTreeMap<String, BTreeMap<String, String>> =
        toml::from_str(include_str!("../advice.toml")).expect("advice.toml");
    let (advice, causes) = (&written["advice"], &written["causes"]);
    let sections = sections();
    let mut used = BTreeSet::new();
    let mut text = BEGIN.to_owned();
    for section in &sections {
        let _ = write!(text, "\n## {}\n\n{}\n\n", section.title, section.about);
        let with_status = section.codes.iter().any(|code| !code.status.is_empty());
        text += if with_status {
            "| code | cause | status | what to do |\n|---|---|---|---|\n"
        } else {
            "| code | cause | what to do |\n|---|---|---|\n"
        };
        for code in &section.codes {
            used.insert(code.name.clone());
            // A code of a guarded service is its client's to act on.
            let own = section
                .advice
                .and_then(|table| written[table].get(&code.name));
            let what = own.or(advice.get(&code.name)).map(String::as_str);
            let what = what.or(section.otherwise).unwrap_or_else(|| {
                panic!("advice.toml does not say what to do about {}", code.name)
            });
            let status = if with_status {
                format!("{} | ", code.status)
            } else {
                String::new()
            };
            // What the source says of it counts; only what it does not say is said here.
            let cause = match (code.cause.as_str(), causes.get(&code.name)) {
                ("", Some(cause)) => cause,
                ("", None) => panic!("advice.toml does not say why {} comes", code.name),
                (cause, _) => cause,
            };
            let _ = writeln!(text, "| `{}` | {cause} | {status}{what} |", code.name);
        }
    }
    let said = advice.keys().chain(causes.keys());
    let stale: Vec<_> = said.filter(|name| !used.contains(*name)).collect();
    assert!(stale.is_empty(), "advice.toml: there is no {stale:?}");
    text
}

const BEGIN: &str = "# Error codes

A refusal has a stable code, which programs may match on, and words for people, which may change. This page is written from the source
(`just errors`); each cause is what the source says of it. Of the sidecar's HTTP API the code stands in `code` (RFC 9457), and `Retry-After`
where waiting helps; `anchorhold` and `anchorhold-verify` print it before the words. What is wrong with a file or a
command line has no code, but words and the exit code 64.
";

fn sections() -> Vec<Section> {
    let kinds = statuses_of_kinds();
    let enclave = arms("enclave/src/error.rs", "kind");
    let kind = |name: &str| {
        let of = |arm: &&Arm| arm.names.iter().any(|own| own == name);
        let arm = enclave.iter().find(of);
        arm.and_then(|arm| kinds.get(&arm.value))
            .cloned()
            .unwrap_or_default()
    };
    let denied = codes("policy/engine/src/denied.rs", "Denied", |variant| {
        // Two of them are arms of their own, and stand before all others.
        match kind(variant) {
            limited if limited.is_empty() => kind("ProofInvalid"),
            limited => limited,
        }
    });
    let of_request = codes("identity/src/error.rs", "Error", |variant| {
        if variant == "JsonMalformed" {
            "400"
        } else {
            "422"
        }
        .into()
    });
    let formats: BTreeSet<String> = of_request.iter().map(|code| code.name.clone()).collect();
    let judged = codes("attestation/src/error.rs", "Error", |_| String::new());
    let unchecked = Code {
        name: "unchecked".into(),
        cause:
            "Everything that was checked was right, but not everything that matters was checked."
                .into(),
        status: String::new(),
    };
    vec![
        Section {
            title: "What the policy says no to",
            about: "Of `POST /sign` and the like; `anchorhold policy explain` says which rule, and why. These stand in the decision record. `POST /token` has the same codes,\n\
                with the statuses of RFC 6749: 400, 403 with `unauthorized_client`, and 503 with `Retry-After` where it may be tried again.",
            codes: denied,
            otherwise: None,
            advice: None,
        },
        Section {
            title: "What the enclave does not do",
            about: "Through the sidecar, as the statuses say.",
            codes: codes("enclave/src/error.rs", "Error", kind),
            otherwise: None,
            advice: None,
        },
        Section {
            title: "What keeps a state closed",
            about: "Keys that outlive a boot: `anchorhold state status` says which of these it is, and what is refused meanwhile has the code `state_awaited`. KMS was not asked.",
            codes: codes("state/src/error.rs", "Error", |_| kind("State")),
            otherwise: None,
            advice: None,
        },
        Section {
            title: "What KMS did not give",
            about: "The same, once KMS was asked. The sidecar tries again by itself, after a second, then after two, up to thirty; SIGHUP tries at once.",
            codes: codes("enclave/src/error.rs", "KmsError", |_| kind("Kms")),
            otherwise: None,
            advice: None,
        },
        Section {
            title: "What is wrong with a request to a service, or with its credential",
            about: "Of the proxied routes, where `X-Anchorhold-Error` has the code, and of `POST /credentials`.",
            codes: codes("broker/src/error.rs", "Error", |_| kind("Broker")),
            otherwise: None,
            advice: None,
        },
        Section {
            title: "How a call to a service ended",
            about: "In `credential.ending` of a `credential.close`, and in `X-Anchorhold-Error` where no answer had begun; an answer that had is cut off.",
            codes: codes(
                "enclave/upstream/src/wire.rs",
                "Ending",
                |variant| match variant {
                    "Complete" | "Unclaimed" | "Aborted" => String::new(),
                    "ServiceBusy" => "503".into(),
                    "CredentialRevoked" => "403".into(),
                    "BodyMismatch" | "PlaceholderMisplaced" => "422".into(),
                    _ => "502".into(),
                },
            ),
            otherwise: None,
            advice: None,
        },
        Section {
            title: "What the ingress process does not do",
            about: "Of agents that come as to a proxy, in `X-Anchorhold-Error`; the enclave and the sidecar refuse there too.",
            codes: codes(
                "enclave/ingress/src/refusal.rs",
                "Refusal",
                |variant| match variant {
                    "HostMisdirected" => "421".into(),
                    "ForeignOrigin" => "403".into(),
                    "ServiceBusy" => "503".into(),
                    "UnknownService" => "404".into(),
                    "BodyBroken" => "400".into(),
                    "HeadersTooLong" => "431".into(),
                    "ParentNonsense" => "502".into(),
                    _ => "422".into(),
                },
            ),
            otherwise: None,
            advice: None,
        },
        Section {
            title: "What the sidecar does not do",
            about: "Without asking the enclave.",
            codes: of_sidecar(),
            otherwise: None,
            advice: None,
        },
        Section {
            title: "What cannot be taken",
            about: "JSON, keys, DIDs, tokens, credentials and grants: in requests to the sidecar, in files of the commands, and in what a verifier reads.",
            codes: of_request,
            otherwise: Some("Mend what you sent; the detail says where."),
            advice: None,
        },
        Section {
            title: "What a verifier refuses",
            about: "Of `anchorhold-verify`, `POST /verify` and the library; those of the section before come here too.",
            codes: std::iter::once(unchecked)
                .chain(judged)
                .filter(|code| !formats.contains(&code.name))
                .collect(),
            otherwise: Some(
                "Believe none of it: it was changed, or is none of ours. Ask for new evidence.",
            ),
            advice: None,
        },
        Section {
            title: "What a guarded service refuses",
            about: "Of a service behind `anchorhold-guard`; those of the two sections before come here too: of a token with 401, of evidence with 403.",
            codes: codes("attestation/guard/src/error.rs", "Error", of_guard()),
            otherwise: None,
            advice: Some("guard"),
        },
        Section {
            title: "What is wrong with a decision record",
            about: "Of `anchorhold audit verify`.",
            codes: ["record_invalid", "record_gap"]
                .into_iter()
                .zip(codes("record/src/error.rs", "Error", |_| String::new()))
                .map(|(name, code)| Code {
                    name: name.into(),
                    ..code
                })
                .collect(),
            otherwise: Some(
                "The record was changed, or is not whole: keep the file as it is, and look who could write it.",
            ),
            advice: None,
        },
        Section {
            title: "Why an enclave ended, beside these",
            about: "Of the NSM; [nitro.md](nitro.md) says more.",
            codes: codes("enclave/src/nsm.rs", "NsmError", |_| String::new()),
            otherwise: Some(
                "The NSM failed, or this is not Nitro: start it again; if it stays so, take another instance.",
            ),
            advice: None,
        },
        Section {
            title: "What is wrong with an image",
            about: "Of `anchorhold-eif`.",
            codes: codes("eif/src/error.rs", "Error", |_| String::new()),
            otherwise: Some("The message says what, and of which file."),
            advice: None,
        },
    ]
}

/// One arm of a `match`: every name in its pattern, and what it gives.
struct Arm {
    names: Vec<String>,
    value: String,
}

/// The arms of every `match` in the function of this name.
fn arms(file: &str, function: &str) -> Vec<Arm> {
    struct Reader<'a> {
        function: &'a str,
        inside: bool,
        arms: Vec<Arm>,
    }
    impl<'ast> Visit<'ast> for Reader<'_> {
        fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
            self.inside = function.sig.ident == self.function;
            syn::visit::visit_impl_item_fn(self, function);
            self.inside = false;
        }

        fn visit_arm(&mut self, arm: &'ast syn::Arm) {
            if self.inside {
                let pattern = arm.pat.to_token_stream();
                let value = arm.body.to_token_stream().to_string();
                self.arms.push(Arm {
                    names: words(&pattern.to_string()),
                    value: words(&value).pop().unwrap_or_default(),
                });
            }
            syn::visit::visit_arm(self, arm);
        }
    }
    let mut reader = Reader {
        function,
        inside: false,
        arms: Vec::new(),
    };
    reader.visit_file(&parse(&root().join(file)));
    assert!(!reader.arms.is_empty(), "{file}: no match in {function}");
    reader.arms
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// HTTP status by the kind of a refusal.
fn statuses_of_kinds() -> BTreeMap<String, String> {
    let arms = arms("parent-proxy/src/api/problem.rs", "from");
    let of_kind = |arm: Arm| {
        let [kind, name] = &arm.names[..] else {
            return None;
        };
        (kind == "Kind").then(|| (name.clone(), arm.value))
    };
    arms.into_iter().filter_map(of_kind).collect()
}

fn of_guard() -> impl Fn(&str) -> String {
    let arms = arms("attestation/guard/src/error.rs", "status");
    move |variant| {
        let arm = arms
            .iter()
            .find(|arm| arm.names.iter().any(|own| own == variant));
        arm.map_or_else(String::new, |arm| arm.value.clone())
    }
}

/// The sidecar's own: those of an enum, and those that its handlers make where they are needed.
fn of_sidecar() -> Vec<Code> {
    let turned_away = arms("parent-proxy/src/api/problem.rs", "from");
    let status = |variant: &str| {
        let of = |arm: &&Arm| arm.names == ["TurnedAway", variant];
        let arm = turned_away.iter().find(of);
        // ( 403 , "why" )
        let file = std::fs::read_to_string(root().join("parent-proxy/src/api/problem.rs"));
        let text = file.unwrap_or_default();
        let after = text.split(&format!("TurnedAway::{variant} => (")).nth(1);
        arm.and(after).map_or_else(String::new, |after| {
            after
                .trim_start()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect()
        })
    };
    let mut all = codes(
        "parent-proxy/callers/src/turned_away.rs",
        "TurnedAway",
        status,
    );
    let mut made = Made(BTreeMap::new());
    for file in rust_files(&root().join("parent-proxy/src/api")) {
        made.visit_file(&parse(&file));
    }
    let requests = codes(
        "parent-proxy/enclave-client/src/client.rs",
        "RequestError",
        |_| String::new(),
    );
    for (name, (status, says)) in made.0 {
        let cause = requests.iter().find(|code| {
            // Those of the connection say why in the enum.
            let short = name
                .trim_start_matches("enclave_")
                .replace("record_failed", "unrecorded");
            code.name == short
        });
        let cause = cause.map_or(says, |code| code.cause.clone());
        if !all.iter().any(|code| code.name == name) {
            all.push(Code {
                name,
                cause,
                status,
            });
        }
    }
    all
}

/// What `Problem::new(403, "code", ...)` and `Refused::new("error", "code", ...)` make.
struct Made(BTreeMap<String, (String, String)>);

impl<'ast> Visit<'ast> for Made {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.ident != "tests" {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        let path = call.func.to_token_stream().to_string();
        let mut arguments = call.args.iter().map(literal);
        if ["Problem :: new", "Self :: new", "Refused :: new"].contains(&path.as_str())
            && let (Some(Some(first)), Some(Some(code))) = (arguments.next(), arguments.next())
        {
            let status = match first.as_str() {
                "unauthorized_client" => "403".into(),
                "temporarily_unavailable" => "503".into(),
                number if number.bytes().all(|b| b.is_ascii_digit()) => number.to_owned(),
                _ => "400".to_owned(),
            };
            let says = arguments.next().flatten().unwrap_or_default();
            let made = self.0.entry(code).or_insert((status, String::new()));
            if made.1.is_empty() {
                made.1 = sentence(&says);
            }
        }
        syn::visit::visit_expr_call(self, call);
    }
}

fn literal(expression: &syn::Expr) -> Option<String> {
    match expression {
        syn::Expr::Lit(literal) => match &literal.lit {
            syn::Lit::Str(text) => Some(text.value()),
            syn::Lit::Int(number) => Some(number.to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// As a cause is written: with a capital and a full stop.
fn sentence(says: &str) -> String {
    let mut characters = says.chars();
    // A name stays as it is.
    match characters.next() {
        Some(first)
            if !says
                .split(' ')
                .next()
                .is_some_and(|word| word.contains('_')) =>
        {
            format!("{}{}.", first.to_uppercase(), characters.as_str())
        }
        _ => String::new(),
    }
}

/// The codes of an enum: the name of each variant, its documentation, and a status. What only hands
/// on another error has no code of its own.
fn codes(file: &str, name: &str, status: impl Fn(&str) -> String) -> Vec<Code> {
    let parsed = parse(&root().join(file));
    let found = parsed.items.iter().find_map(|item| match item {
        syn::Item::Enum(found) if found.ident == name => Some(found),
        _ => None,
    });
    let found = found.unwrap_or_else(|| panic!("{file}: no enum {name}"));
    let prefix = named(&found.attrs, "strum", "prefix").unwrap_or_default();
    let mut all: Vec<Code> = Vec::new();
    for variant in &found.variants {
        let says = attribute(&variant.attrs, "error").unwrap_or_default();
        let hands_on = says == "transparent" || says.contains("to_presenter");
        // The only one of its kind whose variant is the whole error.
        let code = named(&variant.attrs, "strum", "serialize");
        let code = code.unwrap_or_else(|| format!("{prefix}{}", snake(&variant.ident.to_string())));
        let own = !hands_on || variant.ident == "TimeInvalid";
        let wraps = ["Identity", "Nsm", "Document"].contains(&variant.ident.to_string().as_str());
        if own && !wraps && !all.iter().any(|other| other.name == code) {
            all.push(Code {
                name: code,
                cause: documentation(&variant.attrs),
                status: status(&variant.ident.to_string()),
            });
        }
    }
    all
}

/// The first paragraph of a documentation, in one line.
fn documentation(attributes: &[syn::Attribute]) -> String {
    let lines = attributes
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => literal(&pair.value),
            _ => None,
        });
    let lines: Vec<String> = lines
        .map(|line| line.trim().to_owned())
        .take_while(|line| !line.is_empty())
        .collect();
    // Links lead nowhere outside of rustdoc.
    lines
        .join(" ")
        .replace("[`", "`")
        .replace("`]", "`")
        .replace('|', "\\|")
}

/// The tokens of an attribute.
fn attribute(attributes: &[syn::Attribute], name: &str) -> Option<String> {
    attributes
        .iter()
        .find_map(|attribute| match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident(name) => Some(list.tokens.to_string()),
            _ => None,
        })
}

/// The text of `key = "text"` in an attribute.
fn named(attributes: &[syn::Attribute], name: &str, key: &str) -> Option<String> {
    let tokens = attribute(attributes, name)?;
    let after = tokens.split(&format!("{key} = \"")).nth(1)?;
    after.split('"').next().map(str::to_owned)
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

/// Where the page lies.
pub fn file() -> std::path::PathBuf {
    root().join(Path::new("docs/errors.md"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_codes_is_as_the_source_is() {
        let written = std::fs::read_to_string(file()).unwrap_or_default();
        assert!(written == page(), "just errors writes docs/errors.md anew");
    }
}
