//! What a service and its rules may say.

use super::*;

fn inject(text: &str) -> Result<(), String> {
    let upstream = Upstream::try_from("https://api.example".to_owned())?;
    let inject: Inject = toml::from_str(text).map_err(|error| error.to_string())?;
    inject.check(&upstream)
}

#[test]
fn what_is_signed_for_is_named_whole_and_nothing_stands_beside_it() {
    for good in [
        "sigv4 = { region = 'us-east-1', service = 's3' }",
        "sigv4 = { region = 'eu-central-1', service = 'execute-api' }",
    ] {
        assert_eq!(inject(good), Ok(()), "{good}");
    }
    for bad in [
        "sigv4 = { region = 'us-east-1' }",
        "sigv4 = { region = '', service = 's3' }",
        "sigv4 = { region = 'US', service = 's3' }",
        "sigv4 = { region = 'us-east-1', service = 's3/x' }",
        "sigv4 = { region = 'us-east-1', service = 's3express' }",
        "sigv4 = { region = 'us-east-1', service = 's3-outposts' }",
        "sigv4 = { region = 'us-east-1', service = 's3', token = 'x' }",
        "header = 'authorization'\nsigv4 = { region = 'us-east-1', service = 's3' }",
        "format = 'Bearer {}'\nsigv4 = { region = 'us-east-1', service = 's3' }",
    ] {
        assert!(inject(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_credential_has_one_place_in_its_form() {
    for good in [
        "header = 'x-key'",
        "header = 'x-key'\nformat = 'Key {}'",
        "basic = 'x'",
        "query = 'key'",
        "path = '/bot{}'",
        "field = 'client_secret'",
        "field = '/auth/api_key'\nformat = 'Key {}'",
        "message = '/d/token'\nformat = 'Bot {}'",
    ] {
        assert_eq!(inject(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "format = '{}'",
        "field = 'a'\nmessage = '/a'",
        "header = 'x-key'\nfield = 'a'",
        "basic = 'x'\nformat = '{}'",
        "path = '/bot{}'\nformat = '{}'",
        "field = ''",
        "field = '/'",
        "field = '/a//b'",
        "field = '/a/'",
        "field = '/a~1b'",
        "field = 'a b'",
        "field = '/1/2/3/4/5/6/7/8/9'",
        "field = 'a'\nformat = 'Key'",
        "field = 'a'\nformat = '{}{}'",
        "message = 'token'",
        "message = '/d/tök'",
    ] {
        assert!(inject(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_rule_is_for_websockets_or_for_bodies_as_the_credential_wants() {
    let check = |inject: &str, methods: &str, rule: &str| {
        let text = format!(
            "name = 'api'\nupstream = 'https://api.example'\ninject = {{ {inject} }}\n\
             rules = [{{ name = 'r', methods = [{methods}], paths = ['/x'], identities = ['crew']{rule} }}]"
        );
        let service: Service = toml::from_str(&text).map_err(|error| error.to_string())?;
        service.check(&[], &|_: &str| true)
    };
    let (header, message, field) = (
        "header = 'x-key'",
        "message = '/d/token'",
        "field = 'token'",
    );
    let websocket = ", websocket = true";
    for (inject, methods, rule) in [
        (header, "'GET'", websocket),
        (message, "'GET'", websocket),
        ("query = 'key'", "'GET'", websocket),
        (field, "'POST', 'PUT', 'PATCH'", ""),
        (header, "'GET'", ", websocket = false"),
    ] {
        assert_eq!(check(inject, methods, rule), Ok(()), "{inject} {methods}");
    }
    let priced = ", websocket = true, priced = { form = 'openai-chat', max_tokens = 1 }";
    let approved = ", websocket = true, approval = { by = ['alice'], seconds = 60 }";
    for (inject, methods, rule, why) in [
        (header, "'GET', 'POST'", websocket, "by GET"),
        (header, "'POST'", websocket, "by GET"),
        (header, "'GET'", approved, "cannot be approved"),
        (header, "'GET'", priced, "has no price"),
        (field, "'GET'", websocket, "stands in a header"),
        (message, "'GET'", "", "websocket = true"),
        (message, "'POST'", "", "websocket = true"),
        (field, "'GET'", "", "have a body"),
        (field, "'POST', 'DELETE'", "", "have a body"),
        (
            field,
            "'POST'",
            ", priced = { form = 'openai-chat', max_tokens = 1 }",
            "no body to a model",
        ),
        (
            "sigv4 = { region = 'us-east-1', service = 's3' }",
            "'GET'",
            websocket,
            "stands in a header",
        ),
    ] {
        let refused = check(inject, methods, rule).unwrap_err();
        assert!(
            refused.contains(why),
            "{inject} {methods} {rule}: {refused}"
        );
    }
}

#[test]
fn a_token_stands_in_a_header() {
    let check = |inject: &str| {
        let text = format!(
            "name = 'api'\nupstream = 'https://api.example'\ninject = {{ {inject} }}\n\
             token = {{ url = 'https://auth.example/token', grant = 'client_credentials', client_id = 'a' }}\n\
             rules = [{{ name = 'r', methods = ['POST'], paths = ['/x'], identities = ['crew'] }}]"
        );
        let service: Service = toml::from_str(&text).map_err(|error| error.to_string())?;
        service.check(&[], &|_: &str| true)
    };
    assert_eq!(
        check("header = 'authorization', format = 'Bearer {}'"),
        Ok(())
    );
    for other in [
        "basic = 'x'",
        "query = 'key'",
        "path = '/bot{}'",
        "field = 'token'",
    ] {
        assert!(check(other).unwrap_err().contains("in a header"), "{other}");
    }
}

#[test]
fn what_is_counted_of_a_service_is_said_whole() {
    let check = |service: &str, rule: &str, limit: &str| {
        let text = format!(
            "name = 'api'\nupstream = 'https://api.example'\ninject = {{ basic = 'x' }}\n{service}\n\
             rules = [{{ name = 'chat', methods = ['POST'], paths = ['/chat'], identities = ['crew'], limits = [{limit}]{rule} }}]"
        );
        let service: Service = toml::from_str(&text).map_err(|error| error.to_string())?;
        service.check(&[], &|_: &str| true)
    };
    let budget = "budget = 'per boot'";
    let priced = ", priced = { form = 'openai-chat', max_tokens = 100 }";
    let (cost, tokens) = (
        "{ per = 'month', max = 1, amount = 'cost' }",
        "{ per = 'week', max = 1, amount = 'tokens' }",
    );
    for (service, rule, limit) in [
        (budget, priced, cost),
        ("", priced, tokens),
        ("", priced, ""),
        (budget, "", ""),
    ] {
        assert_eq!(
            check(service, rule, limit),
            Ok(()),
            "{service} {rule} {limit}"
        );
    }
    for (service, rule, limit, why) in [
        ("", priced, cost, "per boot"),
        (budget, "", cost, "needs `priced`"),
        ("", "", tokens, "needs `priced`"),
        (
            budget,
            priced,
            "{ per = 'day', max = 1, amount = '/usage' }",
            "cost or tokens",
        ),
        (
            budget,
            priced,
            "{ per = 'day', max = 0, amount = 'cost' }",
            "max",
        ),
        ("budget = 'for ever'", priced, cost, "per boot"),
        (
            budget,
            ", priced = { form = 'other', max_tokens = 100 }",
            cost,
            "form",
        ),
        (
            budget,
            ", priced = { form = 'openai-chat', max_tokens = 0 }",
            cost,
            "max_tokens",
        ),
        (
            budget,
            ", priced = { form = 'openai-chat' }",
            cost,
            "max_tokens",
        ),
    ] {
        let refused = check(service, rule, limit).unwrap_err();
        assert!(refused.contains(why), "{service} {rule} {limit}: {refused}");
    }
    let get = "name = 'api'\nupstream = 'https://api.example'\ninject = { basic = 'x' }\n\
        rules = [{ name = 'chat', methods = ['GET', 'POST'], paths = ['/chat'], identities = ['crew'], priced = { form = 'openai-chat', max_tokens = 1 } }]";
    let get: Service = toml::from_str(get).unwrap();
    assert!(
        get.check(&[], &|_: &str| true)
            .unwrap_err()
            .contains("POST")
    );
}

/// So many letters.
fn letters(count: usize) -> String {
    "a".repeat(count)
}

#[test]
fn a_place_for_a_credential_has_its_length_and_its_characters() {
    let sigv4 = |region: &str, service: &str| {
        format!("sigv4 = {{ region = '{region}', service = '{service}' }}")
    };
    let placed = |place: &str, length: usize| format!("{place} = '{}'", letters(length));
    // With what stands before and behind the letters, as long as may be; and by one too long.
    let path = |length: usize| format!("path = '/{}{{}}'", letters(length - 3));
    let pointer = |length: usize| format!("message = '/{}'", letters(length - 1));
    for (form, longest) in [
        (
            &(|n| sigv4(&letters(n), "s3")) as &dyn Fn(usize) -> String,
            64,
        ),
        (&|n| sigv4("us-east-1", &letters(n)), 64),
        (&|n| placed("basic", n), 128),
        (&|n| placed("query", n), 64),
        (&|n| placed("field", n), 64),
        (&|n| placed("header", n), 64),
        (&path, 256),
        (&pointer, 128),
    ] {
        assert_eq!(inject(&form(longest)), Ok(()));
        let refused = inject(&form(longest + 1));
        assert!(refused.is_err(), "{}", form(longest + 1));
    }
    for good in [
        "sigv4 = { region = 'a-9', service = '9-a' }",
        "basic = '!user@example.org~'",
        "query = 'aZ0-._~'",
        "field = 'aZ0-._~'",
        "field = '/1/2/3/4/5/6/7/8'",
        "message = '/aZ0/-._$@:'",
        "header = 'x_key-9'",
        "header = 'x-key'\nformat = '! {} ~'",
        "path = '/a9-._~@/bot{}'",
        "path = '/bot{}/x/y'",
        "path = '/{}'",
    ] {
        assert_eq!(inject(good), Ok(()), "{good}");
    }
    for bad in [
        "sigv4 = { region = 'us_east', service = 's3' }",
        "sigv4 = { region = 'us-east-1', service = '' }",
        "sigv4 = { region = 'us-east-1', service = 'S3' }",
        "basic = ''",
        "basic = 'a:b'",
        "basic = 'a b'",
        "query = ''",
        "query = 'a+b'",
        "query = 'a=b'",
        "message = '/a%b'",
        "header = ''",
        "header = 'X-Key'",
        "header = 'x.key'",
        "header = 'proxy-authorization'",
        "header = 'sec-websocket-key'",
        "header = 'x-key'\nformat = \"{}\\t\"",
        "header = 'x-key'\nformat = 'schlüssel {}'",
        "path = '/bot'",
        "path = 'bot{}'",
        "path = '{}'",
        "path = '/bot{}x'",
        "path = '/bot{}/'",
        "path = '/bot{}/x/'",
        "path = '/b%6ft{}'",
        "path = '/bot{}/x?y'",
        "path = '/bot{}/{}'",
        "path = '/a/../bot{}'",
        "path = '/bot{}/..'",
    ] {
        assert!(inject(bad).is_err(), "{bad}");
    }
    for header in NOT_FOR_CREDENTIALS {
        let refused = inject(&format!("header = '{header}'")).unwrap_err();
        assert!(refused.contains(header), "{refused}");
    }
}

#[test]
fn what_is_not_the_default_is_said() {
    let pin = format!("sha256:{}", "0a".repeat(32));
    let text = format!(
        "name = 'api'\nupstream = 'https://api.example'\ninject = {{ basic = 'x' }}\npins = ['{pin}']\nscrub = 'replace'\n\
         token = {{ url = 'https://auth.example/token', grant = 'client_credentials', client_id = 'a', client_auth = 'body' }}\n\
         rules = []\n"
    );
    let service: Service = toml::from_str(&text).unwrap();
    assert_eq!(service.pins[0].to_string(), pin);
    let said = serde_json::to_value(&service).unwrap();
    assert_eq!(
        (
            &said["pins"][0],
            &said["scrub"],
            &said["token"]["client_auth"]
        ),
        (&pin.as_str().into(), &"replace".into(), &"body".into())
    );
    assert_eq!(serde_json::from_value::<Service>(said).unwrap(), service);
    let plain = text
        .replace("scrub = 'replace'\n", "")
        .replace(", client_auth = 'body'", "");
    let plain: Service = toml::from_str(&plain).unwrap();
    let said = serde_json::to_value(&plain).unwrap();
    assert_eq!(
        (said.get("scrub"), said["token"].get("client_auth")),
        (None, None)
    );
    for bad in [
        "0a".repeat(32),
        format!("sha256:{}", "0A".repeat(32)),
        format!("sha256:{}", "0a".repeat(31)),
        format!("sha384:{}", "0a".repeat(32)),
    ] {
        assert!(Pin::try_from(bad.clone()).is_err(), "{bad}");
    }
}

/// A service that may be, changed, and what is said of it.
fn changed(change: impl FnOnce(&mut Service)) -> Result<(), String> {
    let mut service: Service = toml::from_str(
        "name = 'api'\nupstream = 'https://api.example'\ninject = { basic = 'x' }\n\
         rules = [{ name = 'r', methods = ['GET'], paths = ['/x'], identities = ['crew'] }]",
    )
    .unwrap();
    change(&mut service);
    service.check(&[], &|name: &str| name == "crew")
}

/// Its rule, so often, each of a name of its own.
fn repeat_rule(service: &mut Service, count: usize) {
    let rule = service.rules.remove(0);
    let named = |number| ServiceRule {
        name: format!("r{number}"),
        ..rule.clone()
    };
    service.rules = (0..count).map(named).collect();
}

#[test]
fn a_service_has_a_name_for_variables_of_a_shell_roots_and_rules() {
    for good in ["a", "a_9", &letters(63)] {
        assert_eq!(changed(|service| service.name = good.into()), Ok(()));
    }
    for bad in ["", "_a", "9a", "A", "aB", "a-b", "a.b", &letters(64)] {
        let refused = changed(|service| service.name = bad.into()).unwrap_err();
        assert!(refused.contains("the name has"), "{bad}: {refused}");
    }
    let root = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let roots = |root: &str, count| {
        let roots = vec![root.to_owned(); count];
        changed(|service| service.roots = roots)
    };
    assert_eq!(roots(root, 8), Ok(()));
    assert_eq!(roots(root, 9).unwrap_err(), "at most 8 roots");
    for bad in [
        String::new(),
        root.repeat(2),
        format!("of a file\n{root}"),
        root.replace("-----END CERTIFICATE-----\n", ""),
        root.replace("CERTIFICATE", "PRIVATE KEY"),
    ] {
        let refused = roots(&bad, 1).unwrap_err();
        assert!(refused.contains("one certificate in PEM"), "{bad}");
    }
    let rules = |count| changed(|service| repeat_rule(service, count));
    assert_eq!((rules(1), rules(64)), (Ok(()), Ok(())));
    for count in [0, 65] {
        assert_eq!(rules(count).unwrap_err(), "1 to 64 rules");
    }
    // Not only the first one's.
    let refused = changed(|service| {
        repeat_rule(service, 3);
        service.rules[2].name = "r1".into();
    });
    assert_eq!(refused.unwrap_err(), "two rules are called \"r1\"");
}

#[test]
fn a_rule_names_methods_paths_actions_identities_and_callers_that_there_are() {
    type Change<'a> = &'a dyn Fn(&mut ServiceRule);
    let rule = |change: Change<'_>| changed(|service| change(&mut service.rules[0]));
    let all = METHODS.map(str::to_owned).to_vec();
    assert_eq!(rule(&|rule| rule.methods.clone_from(&all)), Ok(()));
    for path in ["*", "/", "/x*", "/x/*", "/x/y"] {
        let path = Pattern::try_from(path.to_owned()).unwrap();
        assert_eq!(rule(&|rule| rule.paths = vec![path.clone()]), Ok(()));
    }
    let nobody = Callers::default();
    let crew = Callers {
        names: vec!["crew".into()],
        ..Callers::default()
    };
    let proven = Callers {
        proven: vec!["robot".into()],
        ..crew.clone()
    };
    assert_eq!(rule(&|rule| rule.callers = Some(crew.clone())), Ok(()));
    let set_path = |path: &'static str| {
        move |rule: &mut ServiceRule| rule.paths.push(Pattern::try_from(path.to_owned()).unwrap())
    };
    let changes: [(Change<'_>, &str); 16] = [
        (&|rule| rule.name = "R".into(), "a name has"),
        (&|rule| rule.methods.clear(), "each name something"),
        (&|rule| rule.paths.clear(), "each name something"),
        (&|rule| rule.identities.clear(), "each name something"),
        (
            &|rule| rule.methods.push("TRACE".into()),
            "is none of GET, ",
        ),
        (&|rule| rule.methods.push("get".into()), "is none of GET, "),
        (&set_path("x"), "does not begin with /"),
        (&set_path("x*"), "does not begin with /"),
        (&set_path("/a/../b"), "the path \"/a/../b\""),
        (&set_path("/a/../*"), "the path \"/a/../*\""),
        (&set_path("/a?b"), "the path \"/a?b\""),
        (
            &|rule| rule.actions.push("acl".into()),
            "are of services with",
        ),
        (&|rule| rule.identities.push("other".into()), "\"other\""),
        (&|rule| rule.callers = Some(nobody.clone()), "name nobody"),
        (
            &|rule| rule.callers = Some(proven.clone()),
            "no [[callers]] is called so",
        ),
        (
            &|rule| {
                rule.callers = Some(Callers {
                    uids: vec![65534],
                    ..Callers::default()
                });
            },
            "nobody in particular",
        ),
    ];
    for (change, why) in changes {
        let refused = rule(change).unwrap_err();
        assert!(refused.contains(why), "{why}: {refused}");
        assert!(refused.starts_with("rule "), "{refused}");
    }
    // Clients are not changed, so they prove nothing, whoever they are.
    let robot = ProvenCaller {
        name: "robot".into(),
        key: None,
        enclave: Some(crate::PeerEnclave {
            pcr0: Digest([0; 48]),
            pcr1: Digest([1; 48]),
            pcr2: Digest([2; 48]),
            pcr16: None,
        }),
    };
    let mut service = None;
    changed(|given| {
        given.rules[0].callers = Some(proven);
        service = Some(given.clone());
    })
    .unwrap_err();
    let refused = service.unwrap().check(&[robot], &|_: &str| true);
    assert!(refused.unwrap_err().contains("could never apply"));
}

#[test]
fn actions_are_named_for_what_is_signed_and_no_more_than_there_is_room_for() {
    let actions = |actions: Vec<String>| {
        changed(|service| {
            service.inject = toml::from_str("sigv4 = { region = 'a', service = 's3' }").unwrap();
            service.rules[0].actions = actions;
        })
    };
    for good in [
        vec![],
        vec![letters(1); 64],
        vec![letters(128)],
        vec!["!DynamoDB_20120810.GetItem~".into()],
    ] {
        assert_eq!(actions(good.clone()), Ok(()), "{good:?}");
    }
    for bad in [
        vec![letters(1); 65],
        vec![letters(129)],
        vec![letters(1), String::new()],
        vec!["a b".into()],
        vec!["ä".into()],
    ] {
        let refused = actions(bad.clone()).unwrap_err();
        assert!(refused.contains("at most 64 actions"), "{bad:?}: {refused}");
    }
}

#[test]
fn rules_that_could_be_of_one_request_are_counted_alike() {
    const PRICED: &str = ", priced = { form = 'openai-chat', max_tokens = 100 }";
    const MORE: &str = ", priced = { form = 'openai-chat', max_tokens = 200 }";
    let check = |rules: [(&str, &str, &str); 2]| {
        let rule = |(number, (methods, paths, more)): (usize, (&str, &str, &str))| {
            format!(
                "{{ name = 'r{number}', methods = [{methods}], paths = [{paths}], identities = ['crew']{more} }}"
            )
        };
        let rules: Vec<String> = rules.into_iter().enumerate().map(rule).collect();
        let text = format!(
            "name = 'api'\nupstream = 'https://api.example'\ninject = {{ basic = 'x' }}\nrules = [{}]",
            rules.join(", ")
        );
        let service: Service = toml::from_str(&text).unwrap();
        service.check(&[], &|_: &str| true)
    };
    let post = "'POST'";
    for (one, other) in [
        ((post, "'/a*'", PRICED), (post, "'/ab'", PRICED)),
        ((post, "'/a*'", PRICED), ("'GET'", "'/ab'", "")),
        ((post, "'/a', '/b'", PRICED), (post, "'/c', '/d'", "")),
        ((post, "'/a*'", PRICED), (post, "'/b*'", "")),
        ((post, "'/a'", PRICED), (post, "'/ab'", "")),
        ((post, "'/a*'", ""), ("'GET', 'POST'", "'/ab'", "")),
    ] {
        assert_eq!(check([one, other]), Ok(()), "{one:?} {other:?}");
        assert_eq!(check([other, one]), Ok(()), "{one:?} {other:?}");
    }
    for (one, other) in [
        ((post, "'/a'", PRICED), (post, "'/a'", "")),
        ((post, "'/a'", PRICED), (post, "'/a'", MORE)),
        ((post, "'/a*'", PRICED), (post, "'/ab'", "")),
        ((post, "'/a*'", PRICED), (post, "'/ab*'", "")),
        ((post, "'*'", PRICED), (post, "'/x'", "")),
        (
            (post, "'/x', '/a*'", PRICED),
            ("'GET', 'POST'", "'/c', '/ab'", ""),
        ),
    ] {
        for both in [[one, other], [other, one]] {
            let refused = check(both).unwrap_err();
            assert!(
                refused.contains("not `priced` alike"),
                "{both:?}: {refused}"
            );
        }
    }
}

#[test]
fn there_are_no_more_services_than_there_are_processes_for_them() {
    let services = |count: usize, change: &dyn Fn(&mut [Service])| {
        let service = |number: usize| {
            let mut one = None;
            changed(|service| {
                service.name = format!("s{number}");
                one = Some(service.clone());
            })
            .unwrap();
            one.unwrap()
        };
        let mut services: Vec<Service> = (0..count).map(service).collect();
        change(&mut services);
        let checked = check_services(&services, &[], |name| name == "crew");
        checked.map_err(|error| error.to_string())
    };
    assert_eq!(services(0, &|_| ()), Ok(()));
    assert_eq!(services(MAX_SERVICES, &|_| ()), Ok(()));
    let refused = services(MAX_SERVICES + 1, &|_| ()).unwrap_err();
    assert!(refused.contains("at most 16 services"), "{refused}");
    let refused = services(3, &|all| all[2].name = "s1".into()).unwrap_err();
    assert!(
        refused.contains("service \"s1\": another one has this name"),
        "{refused}"
    );
    let refused = services(2, &|all| all[1].rules.clear()).unwrap_err();
    assert!(
        refused.contains("service \"s1\": 1 to 64 rules"),
        "{refused}"
    );
}
