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
