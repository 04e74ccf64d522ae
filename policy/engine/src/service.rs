//! Whether a request may be made to a service with a credential.

use identity::{Caller, Intent, Payload};
use policy::{Annex, ApprovalRule, Bundle, IdentityPolicy, Service, ServiceRule, SigV4};

use crate::input::CREDENTIAL_ACTION;
use crate::rules::{admits, among, any, approval, check_environment, check_resource};
use crate::{Denied, PolicyInput, Rego, ServiceInput};

/// A request to a service that may be made.
#[derive(Debug)]
pub struct AcceptedRequest<'a> {
    /// The rule that owns it.
    pub rule: &'a ServiceRule,
    /// Who must approve it first.
    pub approval: Option<&'a ApprovalRule>,
}

/// Finds the rule that accepts, and asks Rego then, if there is a module. Default is deny; the first
/// rule that accepts owns the request.
pub fn accept_request<'a>(
    bundle: &Bundle,
    rego: Option<&'a Rego>,
    (service, policy): (&'a Service, &IdentityPolicy),
    annex: Option<&Annex>,
    caller: &Caller,
    asked: ServiceInput<'_>,
) -> Result<AcceptedRequest<'a>, Denied> {
    if !admits(policy, annex, caller) {
        return Err(Denied::CallerNotAllowed);
    }
    check_resource(bundle, rego.is_some(), asked.resource)?;
    check_environment(bundle, policy, asked.resource)?;
    let rule = rule_of(service, policy, annex, caller, asked)?;
    let of_rule = rule.approval.as_ref();
    let Some(rego) = rego else {
        return Ok(AcceptedRequest {
            rule,
            approval: of_rule,
        });
    };
    let intent = Intent::new(
        CREDENTIAL_ACTION.into(),
        service.name.clone(),
        asked.resource.into(),
    );
    let intent = intent.map_err(|_| Denied::PolicyInputTooLarge)?;
    let mut facts = serde_json::json!({"method": asked.method, "path": asked.path});
    if !asked.actions.is_empty() {
        facts["actions"] = asked.actions.into();
    }
    if asked.websocket {
        facts["websocket"] = true.into();
    }
    let payload = Payload::parse(facts.to_string().as_bytes());
    let payload = payload.map_err(|_| Denied::PolicyInputTooLarge)?;
    let input = PolicyInput {
        intent: &intent,
        payload: &payload,
        audience: None,
        validity_seconds: None,
        delegated: false,
        envelope: false,
    };
    let of_rego = rego.decide(bundle, policy, caller, &input)?;
    Ok(AcceptedRequest {
        rule,
        approval: approval(of_rule, of_rego)?,
    })
}

/// Whether a rule names all that is done beyond method and path. A rule that names something is for
/// that; only of S3 does it stand beside what method and path say.
fn names_actions(service: &Service, rule: &ServiceRule, actions: &[String]) -> bool {
    let is_s3 = service.inject.sigv4.as_ref().is_some_and(SigV4::is_s3);
    let may_be_none = is_s3 || rule.actions.is_empty();
    (may_be_none || !actions.is_empty())
        && actions.iter().all(|action| rule.actions.contains(action))
}

fn rule_of<'a>(
    service: &'a Service,
    policy: &IdentityPolicy,
    annex: Option<&Annex>,
    caller: &Caller,
    asked: ServiceInput<'_>,
) -> Result<&'a ServiceRule, Denied> {
    // What the rule lacks that came furthest.
    let reasons = [
        "is for this identity",
        "is for this caller",
        "allows this method",
        "allows this path",
        if asked.websocket {
            "is for WebSockets"
        } else {
            "is for what is no WebSocket"
        },
        "names this action",
    ];
    let mut furthest = 0;
    for rule in &service.rules {
        let holds = [
            rule.identities.contains(&policy.name),
            rule.callers
                .as_ref()
                .is_none_or(|callers| among(callers, annex, caller)),
            rule.methods.iter().any(|method| method == asked.method),
            any(&rule.paths, asked.path),
            rule.websocket == asked.websocket,
            names_actions(service, rule, asked.actions),
        ];
        match holds.iter().position(|holds| !holds) {
            None => return Ok(rule),
            Some(lacks) => furthest = furthest.max(lacks),
        }
    }
    Err(Denied::ServiceRequestNotAllowed {
        service: service.name.clone(),
        why: reasons[furthest],
    })
}

#[cfg(test)]
mod tests {
    use identity::caller::ObservedCaller;

    use super::*;

    const BUNDLE: &str = "
version = 1
mode = 'development'
proxy_key = 'z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK'
operator_key = 'z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp'
resources = [{ pattern = 'https://api.example/v1/live/*', environment = 'production' }]
[[identities]]
name = 'crew'
environment = 'staging'
did = 'did:key'
algorithm = 'EdDSA'
max_validity_seconds = 600
callers = { uids = [1000, 1001] }
rules = [{ name = 'any', actions = ['*'], targets = ['*'], resources = [''] }]
[[identities]]
name = 'other'
environment = 'staging'
did = 'did:key'
algorithm = 'EdDSA'
max_validity_seconds = 600
callers = { uids = [1000] }
rules = [{ name = 'any', actions = ['*'], targets = ['*'], resources = [''] }]
[[services]]
name = 'api'
upstream = 'https://api.example/v1'
inject = { header = 'authorization', format = 'Bearer {}' }
rules = [
    { name = 'chat', methods = ['POST'], paths = ['/chat', '/live/*'], identities = ['crew'] },
    { name = 'read', methods = ['GET', 'HEAD'], paths = ['/models/*'], identities = ['crew'], callers = { uids = [1001] } },
]
";

    fn decide(
        bundle: &Bundle,
        rego: Option<&Rego>,
        identity: &str,
        uid: u32,
        line: &str,
    ) -> Result<String, Denied> {
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let actions: Vec<String> = words.collect();
        let resource = format!("https://api.example/v1{path}");
        let (service, policy) = (
            bundle.service("api").unwrap().1,
            bundle.identity(identity).unwrap(),
        );
        let caller = Caller::Asserted(ObservedCaller::ids(uid, 7));
        let asked = ServiceInput {
            method: &method,
            path: &path,
            resource: &resource,
            actions: &actions,
            websocket: false,
        };
        accept_request(bundle, rego, (service, policy), None, &caller, asked).map(|accepted| {
            match accepted.approval {
                None => accepted.rule.name.clone(),
                Some(wanted) => format!("{} by {}", accepted.rule.name, wanted.by.join(", ")),
            }
        })
    }

    #[test]
    fn a_rule_says_whether_it_is_for_websockets() {
        let socket = "{ name = 'talk', methods = ['GET'], paths = ['/models/*'], identities = ['crew'], websocket = true },";
        let text = BUNDLE.replace(
            "rules = [\n    { name = 'chat'",
            &format!("rules = [\n    {socket}\n    {{ name = 'chat'"),
        );
        let mut bundle = Bundle::from_toml(&text).unwrap();
        let rule = |bundle: &Bundle, rego: Option<&Rego>, uid, path: &str, websocket| {
            let (service, policy) = (
                bundle.service("api").unwrap().1,
                bundle.identity("crew").unwrap(),
            );
            let caller = Caller::Asserted(ObservedCaller::ids(uid, 7));
            let resource = format!("https://api.example/v1{path}");
            let asked = ServiceInput {
                method: "GET",
                path,
                resource: &resource,
                actions: &[],
                websocket,
            };
            accept_request(bundle, rego, (service, policy), None, &caller, asked)
                .map(|accepted| accepted.rule.name.clone())
        };
        let lacks = |why| {
            Err(Denied::ServiceRequestNotAllowed {
                service: "api".into(),
                why,
            })
        };
        assert_eq!(
            rule(&bundle, None, 1000, "/models/x", true),
            Ok("talk".into())
        );
        assert_eq!(
            rule(&bundle, None, 1001, "/models/x", false),
            Ok("read".into())
        );
        assert_eq!(
            rule(&bundle, None, 1000, "/models/x", false),
            lacks("is for what is no WebSocket")
        );
        bundle.services[0].rules.remove(0);
        assert_eq!(
            rule(&bundle, None, 1001, "/models/x", true),
            lacks("is for WebSockets")
        );
        // Rego knows of it.
        let module = "package a\nallow if input.payload.websocket";
        let rego = format!("{text}\n[rego]\nentrypoint = 'data.a'\nmodule = '''{module}'''\n");
        let bundle = Bundle::from_toml(&rego).unwrap();
        let rego = Rego::load(&bundle).unwrap();
        assert_eq!(
            rule(&bundle, rego.as_ref(), 1000, "/models/x", true),
            Ok("talk".into())
        );
        assert!(rule(&bundle, rego.as_ref(), 1001, "/models/x", false).is_err());
    }

    #[test]
    fn a_request_passes_by_a_rule_for_its_identity_caller_method_and_path() {
        let bundle = Bundle::from_toml(BUNDLE).unwrap();
        let decide = |identity, uid, line| decide(&bundle, None, identity, uid, line);
        let lacks = |why| {
            Err(Denied::ServiceRequestNotAllowed {
                service: "api".into(),
                why,
            })
        };
        assert_eq!(decide("crew", 1000, "POST /chat"), Ok("chat".into()));
        assert_eq!(decide("crew", 1001, "GET /models/x"), Ok("read".into()));
        assert_eq!(
            decide("crew", 1000, "GET /models/x"),
            lacks("allows this method")
        );
        assert_eq!(decide("crew", 1001, "GET /chat"), lacks("allows this path"));
        assert_eq!(
            decide("crew", 1000, "DELETE /chat"),
            lacks("allows this method")
        );
        assert_eq!(
            decide("crew", 1000, "post /chat"),
            lacks("allows this method")
        );
        assert_eq!(
            decide("crew", 1000, "POST /chat/"),
            lacks("allows this path")
        );
        assert_eq!(
            decide("crew", 1000, "POST /chats"),
            lacks("allows this path")
        );
        assert_eq!(
            decide("other", 1000, "POST /chat"),
            lacks("is for this identity")
        );
        assert_eq!(
            decide("crew", 1002, "POST /chat"),
            Err(Denied::CallerNotAllowed)
        );
        assert_eq!(
            decide("other", 1001, "POST /chat"),
            Err(Denied::CallerNotAllowed)
        );
        // What is of another environment, whatever the service's rules say.
        let refused = decide("crew", 1000, "POST /live/x").unwrap_err();
        assert_eq!(refused.code(), "environment_mismatch");
    }

    #[test]
    fn what_is_done_beyond_method_and_path_must_be_named() {
        let text = BUNDLE
            .replace(
                "{ header = 'authorization', format = 'Bearer {}' }",
                "{ sigv4 = { region = 'us-east-1', service = 's3' } }",
            )
            .replace(
                "paths = ['/chat',",
                "actions = ['acl', 'tagging'], paths = ['/chat',",
            );
        let bundle = Bundle::from_toml(&text).unwrap();
        let other = Bundle::from_toml(&text.replace("service = 's3'", "service = 'sts'")).unwrap();
        let refused = decide(&other, None, "crew", 1001, "POST /chat");
        assert!(refused.is_err(), "a rule that names actions is for those");
        let decide = |line| decide(&bundle, None, "crew", 1001, line);
        for line in ["POST /chat", "POST /chat acl", "POST /chat tagging acl"] {
            assert_eq!(decide(line), Ok("chat".into()), "{line}");
        }
        for line in [
            "POST /chat delete",
            "POST /chat acl delete",
            "GET /models/x acl",
        ] {
            let refused = decide(line).unwrap_err().to_string();
            assert!(refused.contains("names this action"), "{refused}");
        }
    }

    #[test]
    fn rego_has_the_last_word_and_sees_what_is_asked() {
        let module = "package a\nallow if { input.action == \"credential.use\"\n input.target == \"api\"\n \
            input.resource.id == \"https://api.example/v1/chat\"\n input.payload.method == \"POST\"\n input.payload.path == \"/chat\" }";
        let with = |module: &str| {
            let text = format!("rego = {{ entrypoint = 'data.a', module = '''{module}''' }}\n");
            let at = BUNDLE.find("[[identities]]").unwrap();
            let bundle =
                Bundle::from_toml(&format!("{}{text}{}", &BUNDLE[..at], &BUNDLE[at..])).unwrap();
            let rego = Rego::load(&bundle).unwrap();
            decide(&bundle, rego.as_ref(), "crew", 1000, "POST /chat")
        };
        assert_eq!(with(module), Ok("chat".into()));
        let refused = with("package a\nallow if input.action == \"something.else\"");
        assert_eq!(refused.unwrap_err().code(), "policy_denied");
    }

    #[test]
    fn rego_sees_the_actions_of_a_request() {
        let text = BUNDLE
            .replace(
                "{ header = 'authorization', format = 'Bearer {}' }",
                "{ sigv4 = { region = 'us-east-1', service = 's3' } }",
            )
            .replace(
                "paths = ['/chat',",
                "actions = ['acl', 'tagging'], paths = ['/chat',",
            );
        let decide = |module: &str, line| {
            let text = format!("{text}\n[rego]\nentrypoint = 'data.a'\nmodule = '''{module}'''\n");
            let bundle = Bundle::from_toml(&text).unwrap();
            let rego = Rego::load(&bundle).unwrap();
            decide(&bundle, rego.as_ref(), "crew", 1000, line)
        };
        let named = "package a\nallow if input.payload.actions == [\"acl\"]";
        assert_eq!(decide(named, "POST /chat acl"), Ok("chat".into()));
        assert!(decide(named, "POST /chat tagging").is_err());
        // Where there are none, it sees no member for them.
        let none = "package a\nallow if not input.payload.actions";
        assert_eq!(decide(none, "POST /chat"), Ok("chat".into()));
        assert!(decide(none, "POST /chat acl").is_err());
    }
}
