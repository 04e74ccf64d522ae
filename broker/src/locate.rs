//! Which service is meant, where an agent names its host as if it asked the service itself.

use policy::{Bundle, Priced, Service, ServiceRule};

use crate::Target;

/// The form in which a bundle names an authority: lower case, without the port of `https:`.
fn plain(authority: &str) -> String {
    let lower = authority.to_ascii_lowercase();
    lower.strip_suffix(":443").unwrap_or(&lower).to_owned()
}

/// Whether a bundle has a service at this authority: host, and perhaps port.
pub fn is_served(bundle: &Bundle, authority: &str) -> bool {
    let authority = plain(authority);
    let mut services = bundle.services.iter();
    services.any(|service| service.upstream.authority() == authority)
}

/// The service that is meant by an authority and a path with a query, and what is asked of it, behind its own path. Of
/// several it is the one with the longest path of its own.
pub fn service_at<'b, 't>(
    bundle: &'b Bundle,
    authority: &str,
    target: &'t str,
) -> Option<(&'b Service, &'t str)> {
    let authority = plain(authority);
    let at = |service: &'b Service| {
        let upstream = &service.upstream;
        let asked = target.strip_prefix(upstream.path())?;
        let is_whole = asked.is_empty() || asked.starts_with(['/', '?']);
        (upstream.authority() == authority && is_whole).then_some((service, asked))
    };
    let all = bundle.services.iter().filter_map(at);
    all.min_by_key(|(_, asked)| asked.len())
}

/// Whether somebody may have to approve such a request, by this identity or by any: then it is shown whole.
pub fn may_want_approval(
    bundle: &Bundle,
    service: &Service,
    identity: Option<&str>,
    (method, asked): (&str, &str),
) -> bool {
    let rego = bundle.rego.as_ref();
    let by_rego = rego.is_some_and(|rego| rego.approval.is_some());
    let rules = rules_for(service, identity, (method, asked));
    by_rego || rules.iter().any(|rule| rule.approval.is_some())
}

/// How such a request is counted, if it may be one to a model: by the first rule that it could be of.
pub fn may_be_counted<'b>(
    service: &'b Service,
    identity: Option<&str>,
    (method, asked): (&str, &str),
) -> Option<&'b Priced> {
    let rules = rules_for(service, identity, (method, asked));
    rules.first()?.priced.as_ref()
}

/// The rules of which such a request could be, of this identity or of any.
fn rules_for<'b>(
    service: &'b Service,
    identity: Option<&str>,
    (method, asked): (&str, &str),
) -> Vec<&'b ServiceRule> {
    // What has no one form is refused.
    let Ok(target) = Target::new(&service.upstream, asked) else {
        return Vec::new();
    };
    let is_own = |name: &String| identity.is_none_or(|identity| name == identity);
    let is_for = |rule: &&ServiceRule| {
        rule.methods.iter().any(|own| own == method)
            && rule.identities.iter().any(is_own)
            && rule
                .paths
                .iter()
                .any(|path| path.matches(target.rule_path()))
    };
    service.rules.iter().filter(is_for).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        let service = |name: &str, upstream: &str| {
            serde_json::json!({"name": name, "upstream": upstream, "inject": {"basic": "x"}, "rules": [
                {"name": "all", "methods": ["GET"], "paths": ["/*"], "identities": ["crew"]},
            ]})
        };
        let key = |seed| {
            let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key();
            let key = identity::PublicKey::ed25519(key.as_bytes());
            key.unwrap().to_multikey()
        };
        let bundle = serde_json::json!({
            "version": 1, "mode": "development", "proxy_key": key(1), "operator_key": key(2),
            "identities": [{
                "name": "crew", "environment": "production", "did": "did:key", "algorithm": "EdDSA", "max_validity_seconds": 300,
                "callers": {"uids": [0]},
                "rules": [{"name": "r", "actions": ["*"], "targets": ["*"], "resources": [""]}],
            }],
            "services": [
                service("models", "https://api.example/v1"),
                service("admin", "https://api.example/v1/admin"),
                service("other", "https://api.example:8443"),
            ],
            "https_proxy": {"unmatched": "refuse"},
        });
        serde_json::from_value(bundle).unwrap()
    }

    #[test]
    fn a_host_and_a_path_mean_the_service_with_the_longest_path_of_its_own() {
        let bundle = bundle();
        let found = |authority: &str, target: &str| {
            service_at(&bundle, authority, target)
                .map(|(service, asked)| (service.name.clone(), asked.to_owned()))
        };
        for (authority, target, service, asked) in [
            ("api.example", "/v1/chat?x=1", "models", "/chat?x=1"),
            ("API.example:443", "/v1", "models", ""),
            ("api.example", "/v1?x", "models", "?x"),
            ("api.example", "/v1/admin/keys", "admin", "/keys"),
            (
                "api.example",
                "/v1/administration",
                "models",
                "/administration",
            ),
            ("api.example:8443", "/v1/chat", "other", "/v1/chat"),
        ] {
            let wanted = Some((service.to_owned(), asked.to_owned()));
            assert_eq!(found(authority, target), wanted, "{authority}{target}");
        }
        for (authority, target) in [
            ("api.example", "/"),
            ("api.example", "/v10/chat"),
            ("api.example", "/%761/chat"),
            ("api.example:8444", "/v1/chat"),
            ("api.example.", "/v1/chat"),
            ("evil.api.example", "/v1/chat"),
            ("api.example:443:443", "/v1/chat"),
            ("", "/v1/chat"),
        ] {
            assert_eq!(found(authority, target), None, "{authority}{target}");
        }
        assert!(is_served(&bundle, "Api.Example:443") && !is_served(&bundle, "api.example:80"));
    }
}
