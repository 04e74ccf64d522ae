//! What PCR16 commits to.

use std::collections::BTreeSet;

use identity::delegation::AGENT;
use identity::{Algorithm, Did, PublicKey, json};
use serde::{Deserialize, Serialize};
use state::{Custody, KmsKey, Rollback, Terms};

use crate::names::{MultikeyText, check_name, check_validity, malformed};
use crate::services::check_services;
use crate::{Annex, Error, RevokedCredential};
use crate::{
    Approver, Budget, Callers, Delegation, HttpsProxy, Limit, Match, Pattern, PolicyDigest,
    ProvenCaller, Rego, Rule, Service, ServiceRule,
};

/// A bundle's canonical form is at most this long, so that it fits through the window with a
/// document beside it.
pub const MAX_BYTES: usize = 32 * 1024;

/// Of every identity and rule, in all. A sealed state has room for them beside 64 identities.
const MAX_KEPT_BUDGETS: usize = 256;

/// What the enclave is told once per boot, and commits to. Everything in it is public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// 1.
    pub version: u32,
    /// A production enclave refuses `development`.
    pub mode: Mode,
    /// The Ed25519 key that the proxy proves on every connection.
    pub proxy_key: MultikeyText,
    /// The key whose signature orders what callers may not: rotation, and the annex.
    pub operator_key: MultikeyText,
    /// The lowest version of an annex that is taken, in any boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annex_version: Option<u32>,
    /// The state in which its keys outlive a boot. Without it they end with the boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StatePolicy>,
    /// Callers that prove themselves to the enclave, by key or by measurement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<ProvenCaller>,
    /// Who may approve what a rule wants approved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<Approver>,
    /// What resources are. The first whose pattern matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceLabels>,
    /// What every signature must pass beside the rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rego: Option<Rego>,
    /// The identities to give birth to.
    pub identities: Vec<IdentityPolicy>,
    /// Services outside, to which agents get through with a credential that they never see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// Agents may come to those services as to a proxy: the enclave ends their TLS, under an authority of
    /// its own. Not, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https_proxy: Option<HttpsProxy>,
    /// Credentials are used while a lease lasts, and no longer. For ever, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeasePolicy>,
}

/// While whose word lasts credentials are used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeasePolicy {
    /// The key that signs leases, which can only narrow what the annex allows.
    pub key: MultikeyText,
    /// How long a lease may last, in seconds: 10 to a day.
    pub seconds: u32,
}

impl LeasePolicy {
    fn check(&self, bundle: &Bundle) -> Result<(), Error> {
        let wrong = |why: &str| Err(malformed(format!("lease: {why}")));
        if !(10..=86400).contains(&self.seconds) {
            return wrong("seconds is 10 to 86400");
        }
        if self.key == bundle.proxy_key {
            return wrong(
                "its key must not be the proxy's: a host would grant itself what it asks for",
            );
        }
        if bundle.services.is_empty() {
            return wrong("there are no [[services]] for which it could be");
        }
        Ok(())
    }
}

/// The state in which a bundle's keys outlive a boot, and what holds of it. The operator's
/// certificate must say the same, so a bundle cannot weaken it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatePolicy {
    /// Its name: lowercase letters, digits, `-`, `_` and `.`; at most 63.
    pub name: String,
    /// Where its keys are kept: `kms`.
    pub custody: Custody,
    /// ARN of the KMS key that keeps it.
    pub kms_key: KmsKey,
    /// What holds of a parent that rolls it back: `accepted`.
    pub rollback: Rollback,
    /// The key that orders its birth and certifies who opens it; `operator_key` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_key: Option<MultikeyText>,
}

impl StatePolicy {
    /// What the operator must have agreed to.
    pub fn terms(&self) -> Terms {
        Terms {
            rollback: self.rollback,
            custody: self.custody,
            kms_key: self.kms_key.clone(),
        }
    }

    fn check(&self, bundle: &Bundle) -> Result<(), Error> {
        check_name(&self.name).map_err(|why| malformed(format!("state: {why}")))?;
        if self.custody == Custody::Ephemeral {
            return Err(malformed(
                "state: custody \"ephemeral\" keeps nothing; leave [state] out",
            ));
        }
        if self.operator_key.as_ref() == Some(&bundle.proxy_key) {
            return Err(malformed(
                "state: its operator_key must not be the proxy's: the proxy could certify what only the operator may",
            ));
        }
        Ok(())
    }
}

/// For what the enclave may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// On a laptop, or to try things.
    Development,
    /// In earnest.
    Production,
}

/// What the resources of a pattern are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceLabels {
    /// Which resources.
    pub pattern: Pattern,
    /// Their environment: identities of another one cannot sign for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Their type, such as `pull_request`: Rego sees it.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// One identity: its DID, its kind of key, who may use it, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityPolicy {
    /// Lowercase letters, digits, `-`, `_` and `.`; at most 63.
    pub name: String,
    /// The one environment that its key is for, such as `staging`.
    pub environment: String,
    /// Its role, such as `reviewer`: Rego sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// `did:key`, for one that follows from the key, or a whole `did:web:...`.
    pub did: String,
    /// `EdDSA` or `ES256`.
    pub algorithm: Algorithm,
    /// The longest validity of anything signed, in seconds; at most a day.
    pub max_validity_seconds: u32,
    /// Who may ask for signatures.
    pub callers: Callers,
    /// Who may rotate the key without an order of the operator. Nobody, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_callers: Option<Callers>,
    /// On whose behalf it may act. On nobody's, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation: Option<Delegation>,
    /// How much may be signed in a time, whatever the rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// What may be signed. The first rule that allows decides; without one nothing is.
    pub rules: Vec<Rule>,
}

impl Bundle {
    /// Refuses an annex that revokes an agent or a credential that this bundle does not have: what was
    /// meant would go on. The sidecar asks this before it brings an annex to an enclave. The enclave does not: an annex
    /// that is not taken revokes nothing at all.
    pub fn check_annex(&self, annex: &Annex) -> Result<(), Error> {
        let begins = |entry: &str, with: &str| {
            entry
                .get(..with.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(with))
        };
        let is_identity = |name: &str| self.identity(name).is_some();
        let is_known = |entry: &str| {
            if begins(entry, RevokedCredential::PREFIX) {
                return RevokedCredential::parse(entry).is_some_and(|revoked| {
                    is_identity(revoked.identity) && self.service(revoked.service).is_some()
                });
            }
            !begins(entry, AGENT) || entry.strip_prefix(AGENT).is_some_and(is_identity)
        };
        match annex.revoked.iter().find(|entry| !is_known(entry)) {
            Some(unknown) => Err(malformed(format!(
                "revoked names {unknown:?}, and the policy has no such identity or service"
            ))),
            None => Ok(()),
        }
    }

    /// Reads what people write. Unknown keys are errors.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let bundle: Self = toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
        bundle.check()?;
        Ok(bundle)
    }

    /// Reads the canonical form and nothing else.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(malformed("longer than 32 KiB"));
        }
        let bundle: Self = json::parse_as(bytes).map_err(|error| malformed(error.to_string()))?;
        bundle.check()?;
        if bundle.canonical() == bytes {
            Ok(bundle)
        } else {
            Err(malformed("not in canonical form"))
        }
    }

    /// Reads either form: canonical JSON begins with a brace, TOML cannot.
    pub fn from_either(text: &[u8]) -> Result<Self, Error> {
        if text.first() == Some(&b'{') {
            return Self::from_canonical(text.strip_suffix(b"\n").unwrap_or(text));
        }
        Self::from_toml(std::str::from_utf8(text).map_err(|_| malformed("not UTF-8"))?)
    }

    /// RFC 8785 JSON: the bytes that are committed to.
    pub fn canonical(&self) -> Vec<u8> {
        // Only strings, booleans and safe integers, which RFC 8785 can always write.
        json::canonical(self).expect("a checked bundle has a canonical form")
    }

    /// The digest of the canonical form.
    pub fn digest(&self) -> PolicyDigest {
        PolicyDigest::of(&self.canonical())
    }

    /// The key whose word counts for the state.
    pub fn state_operator(&self) -> &PublicKey {
        let named = self
            .state
            .as_ref()
            .and_then(|state| state.operator_key.as_ref());
        &named.unwrap_or(&self.operator_key).0
    }

    /// The identity of this name.
    pub fn identity(&self, name: &str) -> Option<&IdentityPolicy> {
        self.identities
            .iter()
            .find(|identity| identity.name == name)
    }

    /// The service of this name, and its place in the bundle.
    pub fn service(&self, name: &str) -> Option<(usize, &Service)> {
        let mut services = self.services.iter().enumerate();
        services.find(|(_, service)| service.name == name)
    }

    fn check(&self) -> Result<(), Error> {
        if self.version != 1 {
            return Err(malformed("version is not 1"));
        }
        if self.proxy_key.0.algorithm() != Algorithm::EdDSA {
            return Err(malformed("proxy_key is not an Ed25519 key"));
        }
        if self.proxy_key == self.operator_key {
            return Err(malformed(
                "the operator's key must not be the proxy's: the proxy could order what only the operator may",
            ));
        }
        if let Some(state) = &self.state {
            state.check(self)?;
        }
        self.check_callers()?;
        self.check_resources()?;
        self.rego
            .iter()
            .try_for_each(Rego::check)
            .map_err(|why| malformed(format!("rego: {why}")))?;
        if self.identities.is_empty() || self.identities.len() > 64 {
            return Err(malformed("1 to 64 identities"));
        }
        for (index, identity) in self.identities.iter().enumerate() {
            identity
                .check(self)
                .map_err(|why| malformed(format!("identity {:?}: {why}", identity.name)))?;
            let twin = |other: &IdentityPolicy| {
                other.name == identity.name || (other.did != "did:key" && other.did == identity.did)
            };
            if self.identities[..index].iter().any(twin) {
                return Err(malformed(format!(
                    "identity {:?}: another one has this name or did",
                    identity.name
                )));
            }
        }
        check_services(&self.services, &self.callers, |name| {
            self.identity(name).is_some()
        })?;
        self.check_budgets()?;
        self.lease.iter().try_for_each(|lease| lease.check(self))?;
        if self.https_proxy.is_some() && self.services.is_empty() {
            return Err(malformed(
                "https_proxy: there are no [[services]] to which it could lead",
            ));
        }
        if json::canonical(self)?.len() > MAX_BYTES {
            return Err(malformed("longer than 32 KiB"));
        }
        Ok(())
    }

    /// Refuses budgets that outlive a boot where nothing does, and more than a sealed state has room for.
    fn check_budgets(&self) -> Result<(), Error> {
        let outlives = |service: &&Service| service.budget == Some(Budget::AcrossBoots);
        let mut count = 0;
        for service in self.services.iter().filter(outlives) {
            if self.state.is_none() {
                return Err(malformed(format!(
                    "service {:?}: budget = \"across boots\" is kept with a [state], and there is none",
                    service.name
                )));
            }
            let of_rule = |rule: &ServiceRule| {
                let costs = rule.limits.iter().filter(|limit| limit.is_cost());
                costs.count() * rule.identities.len()
            };
            count += service.rules.iter().map(of_rule).sum::<usize>();
        }
        if count > MAX_KEPT_BUDGETS {
            return Err(malformed(format!(
                "services: {count} budgets of identities outlive a boot, and {MAX_KEPT_BUDGETS} can"
            )));
        }
        Ok(())
    }

    fn check_resources(&self) -> Result<(), Error> {
        for label in &self.resources {
            label
                .pattern
                .check_resource()
                .map_err(|why| malformed(format!("resources: {why}")))?;
        }
        for label in &self.resources {
            let wrong = |what: &str| {
                malformed(format!(
                    "resources {:?}: its {what} is not a name",
                    label.pattern
                ))
            };
            for (what, name) in [("environment", &label.environment), ("type", &label.kind)] {
                name.as_deref()
                    .map_or(Ok(()), check_name)
                    .map_err(|_| wrong(what))?;
            }
        }
        Ok(())
    }

    fn check_callers(&self) -> Result<(), Error> {
        for (index, caller) in self.callers.iter().enumerate() {
            caller
                .check()
                .map_err(|why| malformed(format!("caller {:?}: {why}", caller.name)))?;
            let twin = |other: &ProvenCaller| {
                other.name == caller.name
                    || (caller.key.is_some() && other.key == caller.key)
                    || (caller.enclave.is_some() && other.enclave == caller.enclave)
            };
            if self.callers[..index].iter().any(twin) {
                return Err(malformed(format!(
                    "caller {:?}: another one has this name, key or enclave",
                    caller.name
                )));
            }
            if [Some(&self.proxy_key), Some(&self.operator_key)].contains(&caller.key.as_ref()) {
                return Err(malformed(format!(
                    "caller {:?}: its key is the proxy's or the operator's",
                    caller.name
                )));
            }
            let mut environments = self
                .identities
                .iter()
                .filter(|identity| identity.proven_callers().any(|name| *name == caller.name))
                .map(|i| &i.environment);
            if let Some(one) = environments.next()
                && let Some(other) = environments.find(|other| *other != one)
            {
                return Err(malformed(format!(
                    "caller {:?}: one key for {one} and {other}; an attacker who takes it in the one has the other. Give it a key for each",
                    caller.name
                )));
            }
        }
        self.check_approvers()
    }

    fn check_approvers(&self) -> Result<(), Error> {
        for (index, approver) in self.approvers.iter().enumerate() {
            let wrong = |why: &str| malformed(format!("approver {:?}: {why}", approver.name));
            check_name(&approver.name).map_err(|why| wrong(&why))?;
            if self.approvers[..index]
                .iter()
                .any(|other| other.name == approver.name || other.key == approver.key)
            {
                return Err(wrong("another one has this name or key"));
            }
            let callers = self.callers.iter().filter_map(|caller| caller.key.as_ref());
            if callers
                .chain([&self.proxy_key])
                .any(|key| *key == approver.key)
            {
                return Err(wrong(
                    "its key is a caller's or the proxy's: it would approve what it asks for itself",
                ));
            }
        }
        let of_rules = self
            .identities
            .iter()
            .flat_map(|identity| &identity.rules)
            .filter_map(|rule| rule.approval.as_ref());
        let of_services = self
            .services
            .iter()
            .flat_map(|service| &service.rules)
            .filter_map(|rule| rule.approval.as_ref());
        let of_rules = of_rules.chain(of_services);
        let wanted = of_rules.chain(self.rego.iter().filter_map(|rego| rego.approval.as_ref()));
        match wanted.flat_map(|approval| &approval.by).find(|name| {
            !self
                .approvers
                .iter()
                .any(|approver| approver.name == **name)
        }) {
            Some(name) => Err(malformed(format!(
                "approval by {name:?}, and no [[approvers]] is called so"
            ))),
            None => Ok(()),
        }
    }

    /// What the resource is, if any label matches. Of a resource that is not spelled in the one way
    /// nothing is known: rules that decide by labels refuse it first ([`identity::resource`]).
    pub fn labels(&self, resource: &str) -> Option<&ResourceLabels> {
        self.resources
            .iter()
            .find(|label| label.pattern.matches_resource(resource) == Match::Yes)
    }

    /// The label of another environment that says what some resource of this pattern is. A label
    /// that covers the whole pattern hides those behind it.
    fn foreign_label(&self, resources: &Pattern, environment: &str) -> Option<&ResourceLabels> {
        for label in self
            .resources
            .iter()
            .filter(|label| label.pattern.overlaps(resources))
        {
            if label
                .environment
                .as_ref()
                .is_some_and(|other| other != environment)
            {
                return Some(label);
            }
            if label.pattern.covers(resources) {
                return None;
            }
        }
        None
    }
}

impl IdentityPolicy {
    /// Names of the callers that prove themselves to do anything with it.
    pub fn proven_callers(&self) -> impl Iterator<Item = &String> {
        let rotating = self.rotation_callers.iter();
        [&self.callers]
            .into_iter()
            .chain(rotating)
            .flat_map(|callers| &callers.proven)
    }

    /// Whether an attested DID and algorithm are what this policy says.
    pub fn describes(&self, did: &Did, algorithm: Algorithm) -> bool {
        self.algorithm == algorithm
            && (self.did == did.as_str() || (self.did == "did:key" && did.embedded_key().is_some()))
    }

    fn check(&self, bundle: &Bundle) -> Result<(), String> {
        check_name(&self.name)?;
        check_name(&self.environment).map_err(|why| format!("environment: {why}"))?;
        self.role
            .iter()
            .try_for_each(|role| check_name(role).map_err(|why| format!("role: {why}")))?;
        match self.did.as_str() {
            "did:key" => {}
            web if web.starts_with("did:web:") => {
                Did::parse(web).map_err(|error| error.to_string())?;
            }
            _ => return Err("did is neither \"did:key\" nor a did:web".into()),
        }
        check_validity(self.max_validity_seconds)?;
        self.callers.check(&bundle.callers)?;
        if self.callers.is_empty() {
            return Err("callers name nobody, so nobody could use it".into());
        }
        if let Some(callers) = &self.rotation_callers {
            callers
                .check(&bundle.callers)
                .map_err(|why| format!("rotation_callers: {why}"))?;
        }
        self.limits.iter().try_for_each(Limit::check)?;
        if let Some(delegation) = &self.delegation {
            delegation.check(|name| bundle.identity(name).is_some())?;
            self.check_environment(bundle, &delegation.resources)
                .map_err(|why| format!("delegation {why}"))?;
        }
        if self.rules.is_empty() || self.rules.len() > 256 {
            return Err("1 to 256 rules".into());
        }
        let mut names = BTreeSet::new();
        for rule in &self.rules {
            rule.check()
                .map_err(|why| format!("rule {:?}: {why}", rule.name))?;
            self.check_environment(bundle, &rule.resources)
                .map_err(|why| format!("rule {:?} {why}", rule.name))?;
            if !names.insert(&rule.name) {
                return Err(format!("two rules are called {:?}", rule.name));
            }
        }
        Ok(())
    }
}

impl IdentityPolicy {
    /// Refuses patterns that reach resources of another environment.
    fn check_environment(&self, bundle: &Bundle, resources: &[Pattern]) -> Result<(), String> {
        match resources
            .iter()
            .find_map(|resource| bundle.foreign_label(resource, &self.environment))
        {
            None => Ok(()),
            Some(label) => Err(format!(
                "reaches {:?}, which is of {}, with a key for {}: give each environment an identity of its own, and patterns that end where it ends",
                label.pattern,
                label.environment.as_deref().unwrap_or_default(),
                self.environment
            )),
        }
    }
}
