//! A policy bundle on the operator's desk: is it good, what would it decide, does it decide what it
//! should.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use identity::caller::{ObservedCaller, Proven};
use identity::{Caller, Intent, Payload, printable};
use policy::{Annex, Bundle, Callers, IdentityPolicy, Mode};
use policy_engine::{Denied, PolicyInput, Rego};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Failure, print_json};
use crate::Error;
use enclave_client::files::read_bounded;

#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Check a bundle; says what is wrong, and what is better done otherwise
    Check {
        /// The bundle, TOML or canonical
        file: PathBuf,
    },
    /// Print a bundle's digest, PCR16 and canonical form
    Digest {
        /// The bundle, TOML or canonical
        file: PathBuf,
        /// Print only the canonical bytes
        #[arg(long)]
        canonical: bool,
    },
    /// Say whether a request would be allowed, and by which rule; limits are not counted. Exit code
    /// 1: it would not
    Explain(Box<Explain>),
    /// Say what differs between two bundles, by what things are called. Exit code 1: something does
    Diff {
        /// The bundle before, TOML or canonical
        before: PathBuf,
        /// The bundle after, TOML or canonical
        after: PathBuf,
    },
    /// Run a table of requests with the decisions that they should get (docs/policy.md). Exit code
    /// 1: one differs
    Test {
        /// The table, TOML
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The bundle, TOML or canonical
    file: PathBuf,
    /// The annex, TOML, unsigned
    #[arg(long, value_name = "FILE")]
    annex: Option<PathBuf>,
    /// Name of the identity; may be left out if there is only one
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// User id of the caller
    #[arg(long, value_name = "N")]
    uid: Option<u32>,
    /// Effective group id of the caller
    #[arg(long, value_name = "N")]
    gid: Option<u32>,
    /// The caller on localhost who showed the token of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The socket of its own through which the caller came, by its name in [[sockets]]
    #[arg(long, value_name = "NAME")]
    socket: Option<String>,
    /// A caller that proved itself to be the one that the bundle calls so
    #[arg(long, value_name = "NAME", conflicts_with_all = ["uid", "gid", "name", "socket"])]
    proven: Option<String>,
    /// What is to be done
    #[arg(long)]
    action: String,
    /// What it is done to
    #[arg(long, default_value = "")]
    target: String,
    /// Where
    #[arg(long, default_value = "")]
    resource: String,
    /// A JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    payload: String,
    /// For whom it is made
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    /// Validity in seconds
    #[arg(long, value_name = "N")]
    validity_seconds: Option<u32>,
    /// Asked on somebody's behalf
    #[arg(long)]
    delegated: bool,
    /// A plain envelope is asked for
    #[arg(long)]
    envelope: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A request and what should come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// Says what it is about.
    name: String,
    identity: Option<String>,
    #[serde(default)]
    caller: ObservedCaller,
    proven: Option<String>,
    action: String,
    #[serde(default)]
    target: String,
    #[serde(default)]
    resource: String,
    #[serde(default)]
    payload: serde_json::Map<String, Value>,
    audience: Option<String>,
    validity_seconds: Option<u32>,
    /// Asked on somebody's behalf.
    #[serde(default)]
    delegated: bool,
    /// A plain envelope is asked for.
    #[serde(default)]
    envelope: bool,
    /// `allow`, `approve` (allowed once approved), or the code of the refusal.
    expect: String,
    /// The rule that should decide.
    rule: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// The bundle, beside the table.
    #[serde(alias = "policy")]
    bundle: PathBuf,
    /// The annex in TOML, beside the table.
    annex: Option<PathBuf>,
    tests: Vec<Row>,
}

/// What came of a request.
struct Explained {
    decision: &'static str,
    rule: Option<String>,
    says: String,
}

impl Policy {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Check { file } => check(out, &file),
            Self::Digest { file, canonical } => digest(out, &file, canonical),
            Self::Explain(explain) => explain.run(out),
            Self::Diff { before, after } => diff(out, &before, &after),
            Self::Test { file } => test(out, &file),
        }
    }
}

fn read(file: &Path) -> Result<Bundle, Failure> {
    Ok(
        Bundle::from_either(&read_bounded(file)?).map_err(|source| Error::Policy {
            file: file.into(),
            source,
        })?,
    )
}

/// Compiles and tries the Rego of a bundle, if it has any.
fn load(file: &Path, bundle: &Bundle) -> Result<Option<Rego>, Failure> {
    Ok(crate::config::load_rego(file, bundle)?)
}

pub(super) fn read_annex(file: &Path) -> Result<Annex, Failure> {
    let wrong = |source| Error::Policy {
        file: file.into(),
        source,
    };
    let text = String::from_utf8(read_bounded(file)?).map_err(|_| {
        Failure::Usage(format!(
            "{}: not text; give the TOML that the annex was signed from",
            file.display()
        ))
    })?;
    Ok(Annex::from_toml(&text).map_err(wrong)?)
}

fn check(out: &mut impl Write, file: &Path) -> Result<(), Failure> {
    let bundle = read(file)?;
    load(file, &bundle)?;
    let rules: usize = bundle
        .identities
        .iter()
        .map(|identity| identity.rules.len())
        .sum();
    writeln!(
        out,
        "good: {} identities, {rules} rules, digest {}",
        bundle.identities.len(),
        bundle.digest().digest()
    )?;
    if bundle.mode == Mode::Development {
        writeln!(
            out,
            "advice: none is given for development; mode = \"production\" shows it"
        )?;
        return Ok(());
    }
    for advice in bundle.identities.iter().flat_map(advice) {
        writeln!(out, "advice: {}", printable(&advice))?;
    }
    Ok(())
}

/// What is allowed and still better done otherwise.
fn advice(identity: &IdentityPolicy) -> Vec<String> {
    let mut advice = Vec::new();
    let name = &identity.name;
    let any = |patterns: &[policy::Pattern]| {
        patterns
            .iter()
            .any(|pattern| pattern.matches("") && pattern.matches("x"))
    };
    for rule in &identity.rules {
        if any(&rule.actions) && any(&rule.targets) && any(&rule.resources) {
            advice.push(format!(
                "{name}: rule {:?} allows any action on any target of any resource",
                rule.name
            ));
        }
        if rule.limits.is_empty() && identity.limits.is_empty() {
            advice.push(format!(
                "{name}: rule {:?} has no limit; an attacker who takes over the caller may have any number",
                rule.name
            ));
        }
        if rule.audiences.is_none() {
            advice.push(format!(
                "{name}: rule {:?} asks for no audience; what it allows can be shown to anybody",
                rule.name
            ));
        }
    }
    if identity.callers.uids.contains(&0) {
        advice
            .push(format!("{name}: uid 0 is a caller; root of the host needs no permission to pretend to be another one either"));
    }
    advice
}

fn diff(out: &mut impl Write, before: &Path, after: &Path) -> Result<(), Failure> {
    let (before, after) = (read(before)?, read(after)?);
    let lines = super::diff::of(&before, &after);
    for line in &lines {
        writeln!(out, "{}", printable(line).replace('\n', "\\n"))?;
    }
    let digest = |bundle: &Bundle| bundle.digest().digest();
    match lines.len() {
        0 => writeln!(out, "no difference: {}", digest(&before)).map_err(Failure::Output),
        differences => Err(Failure::Refused(format!(
            "{differences} difference{}: {} -> {}",
            if differences == 1 { "" } else { "s" },
            digest(&before),
            digest(&after)
        ))),
    }
}

fn digest(out: &mut impl Write, file: &Path, canonical: bool) -> Result<(), Failure> {
    let bundle = read(file)?;
    if canonical {
        return Ok(out.write_all(&bundle.canonical())?);
    }
    let digest = bundle.digest();
    let facts = json!({
        "digest": digest.digest(),
        "pcr16": digest.pcr16(),
        "canonical": String::from_utf8_lossy(&bundle.canonical()),
    });
    print_json(out, &facts)
}

impl Explain {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let bundle = read(&self.file)?;
        let annex = self.annex.as_deref().map(read_annex).transpose()?;
        let payload = identity::json::parse(self.payload.as_bytes())
            .map_err(|error| Failure::Usage(format!("--payload: {error}")))?;
        let Value::Object(payload) = payload else {
            return Err(Failure::Usage("--payload: not an object".into()));
        };
        let row = Row {
            name: String::new(),
            identity: self.identity,
            caller: ObservedCaller {
                uid: self.uid,
                gid: self.gid,
                name: self.name,
                socket: self.socket,
                ..ObservedCaller::default()
            },
            proven: self.proven,
            action: self.action,
            target: self.target,
            resource: self.resource,
            payload,
            audience: self.audience,
            validity_seconds: self.validity_seconds,
            delegated: self.delegated,
            envelope: self.envelope,
            expect: String::new(),
            rule: None,
        };
        let rego = load(&self.file, &bundle)?;
        let explained = row.explain(&bundle, rego.as_ref(), annex.as_ref())?;
        if self.json {
            let facts = json!({"decision": explained.decision, "rule": explained.rule, "detail": explained.says});
            print_json(out, &facts)?;
        } else {
            writeln!(
                out,
                "{}: {}",
                explained.decision,
                printable(&explained.says)
            )?;
        }
        if ["allow", "approve"].contains(&explained.decision) {
            Ok(())
        } else {
            Err(Failure::Refused(explained.decision.to_owned()))
        }
    }
}

impl Row {
    fn explain(
        &self,
        bundle: &Bundle,
        rego: Option<&Rego>,
        annex: Option<&Annex>,
    ) -> Result<Explained, Failure> {
        let wrong = |error: identity::Error| Failure::Usage(error.to_string());
        let intent = Intent::new(
            self.action.clone(),
            self.target.clone(),
            self.resource.clone(),
        )
        .map_err(wrong)?;
        let payload = serde_json::to_vec(&self.payload).unwrap_or_default();
        let payload = Payload::parse(&payload).map_err(wrong)?;
        let caller = match &self.proven {
            Some(name) => Caller::Proven(Proven {
                key: String::new(),
                measurement: None,
                name: name.clone(),
            }),
            None => Caller::Asserted(self.caller.clone()),
        };
        let identity = match (&self.identity, &bundle.identities[..]) {
            (Some(name), _) => bundle.identity(name).ok_or_else(|| {
                let names: Vec<&str> = bundle.identities.iter().map(|i| i.name.as_str()).collect();
                Failure::Usage(format!(
                    "the bundle has no identity {name:?}, only {}",
                    names.join(", ")
                ))
            })?,
            (None, [one]) => one,
            // As the enclave chooses: the only one that this caller may use.
            (None, all) => {
                let mut usable = all
                    .iter()
                    .filter(|identity| policy_engine::admits(identity, annex, &caller));
                match (usable.next(), usable.next()) {
                    (Some(one), None) => one,
                    (None, _) => {
                        let denied = Denied::CallerNotAllowed;
                        return Ok(Explained::denied(&denied));
                    }
                    (Some(one), Some(other)) => {
                        let names = [one, other].into_iter().chain(usable);
                        let names: Vec<&str> =
                            names.map(|identity| identity.name.as_str()).collect();
                        return Err(Failure::Usage(format!(
                            "this caller may use several identities; name one of {} (--identity, or identity = in a table)",
                            names.join(", ")
                        )));
                    }
                }
            }
        };
        let asked = PolicyInput {
            intent: &intent,
            payload: &payload,
            audience: self.audience.as_deref(),
            validity_seconds: self.validity_seconds,
            delegated: self.delegated,
            envelope: self.envelope,
        };
        Ok(
            match policy_engine::accept(bundle, rego, identity, annex, &caller, &asked) {
                Ok(accepted) => Explained::accepted(&accepted, &identity.name),
                Err(denied) => {
                    let mut explained = Explained::denied(&denied);
                    if denied == Denied::CallerNotAllowed {
                        let allowed = allowed(&identity.callers);
                        explained.says = format!("{}; it is for {allowed}", explained.says);
                    }
                    explained
                }
            },
        )
    }
}

/// Who may use an identity, for people.
fn allowed(callers: &Callers) -> String {
    let numbers = |what: &str, ids: &[u32]| {
        let each = ids.iter().map(|id| format!("{what} {id}"));
        each.collect::<Vec<_>>()
    };
    let names = |what: &str, names: &[String]| {
        let each = names.iter().map(|name| format!("{what} {name:?}"));
        each.collect::<Vec<_>>()
    };
    let all = [
        numbers("uid", &callers.uids),
        numbers("gid", &callers.gids),
        names("the caller", &callers.names),
        names("the proven caller", &callers.proven),
    ];
    match all.concat().join(", ") {
        nobody if nobody.is_empty() => "nobody".into(),
        all => all,
    }
}

impl Explained {
    fn accepted(accepted: &policy_engine::Accepted<'_>, identity: &str) -> Self {
        let approval = accepted
            .approval
            .map(|approval| format!(", once approved by {}", approval.by.join(" or ")));
        let (rule, seconds) = (&accepted.rule.name, accepted.validity_seconds);
        let says = format!(
            "rule {rule:?} of {identity}, for {seconds} s{}",
            approval.unwrap_or_default()
        );
        let decision = if accepted.approval.is_some() {
            "approve"
        } else {
            "allow"
        };
        Self {
            decision,
            rule: Some(rule.clone()),
            says,
        }
    }

    fn denied(denied: &Denied) -> Self {
        Self {
            decision: denied.code(),
            rule: denied.rule().map(str::to_owned),
            says: denied.to_string(),
        }
    }
}

pub(super) fn test(out: &mut impl Write, file: &Path) -> Result<(), Failure> {
    let text = String::from_utf8(read_bounded(file)?)
        .map_err(|_| Failure::Usage(format!("{}: not UTF-8", file.display())))?;
    let table: Table = toml::from_str(&text)
        .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
    let beside = |path: &Path| file.parent().unwrap_or(Path::new(".")).join(path);
    let bundle = read(&beside(&table.bundle))?;
    let rego = load(&beside(&table.bundle), &bundle)?;
    let annex = table
        .annex
        .as_deref()
        .map(|path| read_annex(&beside(path)))
        .transpose()?;
    let mut failed = 0;
    for row in &table.tests {
        let named = |failure| match failure {
            Failure::Usage(why) => Failure::Usage(format!("test {:?}: {why}", row.name)),
            other => other,
        };
        let explained = row
            .explain(&bundle, rego.as_ref(), annex.as_ref())
            .map_err(named)?;
        let as_expected =
            explained.decision == row.expect && (row.rule.is_none() || row.rule == explained.rule);
        if as_expected {
            writeln!(
                out,
                "ok      {}: {}",
                printable(&row.name),
                explained.decision
            )?;
        } else {
            failed += 1;
            let by = row
                .rule
                .as_ref()
                .map(|rule| format!(" by rule {rule:?}"))
                .unwrap_or_default();
            let says = format!(
                "{}: expected {}{by}, and it is {}: {}",
                row.name, row.expect, explained.decision, explained.says
            );
            writeln!(out, "FAILED  {}", printable(&says))?;
        }
    }
    match failed {
        0 if table.tests.is_empty() => Err(Failure::Usage(format!(
            "{}: there is no test in it",
            file.display()
        ))),
        0 => Ok(()),
        _ => Err(Failure::Refused(format!(
            "{failed} of {} tests failed",
            table.tests.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_better_done_otherwise_is_said_of_production_and_only_where_it_is_so() {
        let bundle = |rule: &str, callers: &str| {
            let text = format!(
                "version = 1
mode = 'production'
proxy_key = 'z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK'
operator_key = 'z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp'
[[identities]]
name = 'a'
environment = 'test'
did = 'did:key'
algorithm = 'EdDSA'
max_validity_seconds = 60
callers = {{ {callers} }}
rules = [{{ name = 'r', {rule} }}]
"
            );
            Bundle::from_toml(&text).unwrap()
        };
        let good = "actions = ['pay'], targets = ['*'], resources = ['https://a/*'], audiences = ['b'], limits = [{ per = 'day', max = 1 }]";
        let said = |rule: &str, callers: &str| advice(&bundle(rule, callers).identities[0]);
        assert_eq!(said(good, "uids = [1]"), [""; 0]);
        for (from, to, callers, says) in [
            (
                "['pay'], targets = ['*'], resources = ['https://a/*']",
                "['*'], targets = ['*'], resources = ['*']",
                "uids = [1]",
                "any action on any target",
            ),
            (
                ", limits = [{ per = 'day', max = 1 }]",
                "",
                "uids = [1]",
                "has no limit",
            ),
            (
                ", audiences = ['b']",
                "",
                "uids = [1]",
                "asks for no audience",
            ),
            ("", "", "uids = [0]", "uid 0 is a caller"),
        ] {
            let all = said(&good.replacen(from, to, 1), callers);
            assert!(all.len() == 1 && all[0].contains(says), "{says}: {all:?}");
        }
    }
}
