//! Requests to models: what they take is counted, before they are made and by what the service says of them.

use std::io::Write;

use harness::Answer;
use harness::services::{SECRET, With};
use serde_json::{Value, json};

use super::ingress::{HTTPS_PROXY, Proxied};
use super::setting::Setting;
use super::upstream::{Request, Tls, Upstream, answer};

/// A million tokens of a prompt, and of an answer, in micro-dollars.
pub(super) const PRICES: &str =
    "[[prices]]\nservice = \"api\"\nmodel = \"toy\"\ninput = 1000000\noutput = 2000000\n";

pub(super) fn rules(limits: &str) -> String {
    let rule = |name: &str, form: &str, path: &str| {
        format!(
            "{{ name = \"{name}\", methods = [\"POST\"], paths = [\"{path}\"], identities = [\"crew\"], \
             priced = {{ form = \"{form}\", max_tokens = 500 }}, limits = [{limits}] }}"
        )
    };
    [
        rule("chat", "openai-chat", "/chat/completions"),
        rule("responses", "openai-responses", "/responses"),
        rule("messages", "anthropic-messages", "/messages"),
    ]
    .join(", ")
}

/// A model whose answers are of 10 tokens, to prompts of 20, unless its prompt asks for something else.
pub(super) fn model(request: &Request, tls: &mut Tls) -> std::io::Result<bool> {
    let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let json = "content-type: application/json\r\n";
    let usage = match request.line.contains("chat") {
        true => json!({"prompt_tokens": 20, "completion_tokens": 10}),
        false => json!({"input_tokens": 20, "output_tokens": 10}),
    };
    let user = asked["user"]
        .as_str()
        .or(asked["metadata"]["user_id"].as_str());
    match user.unwrap_or_default() {
        "begins" => {
            let begin = "data: {\"message\": {\"usage\": {\"input_tokens\": 20, \"output_tokens\": 1}}}\n\n\
                data: {\"usage\": {\"output_tokens\": 5}}\n\n";
            write!(tls, "HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{begin}\r\n", begin.len())?;
            tls.flush()?;
            std::thread::sleep(std::time::Duration::from_millis(300));
            Ok(false)
        }
        "fails" => answer(tls, 500, json, b"{}"),
        "refuses" => answer(tls, 400, json, b"{}"),
        "hides" => answer(tls, 200, json, b"{}"),
        "exaggerates" => answer(tls, 200, json, b"{\"usage\": {\"prompt_tokens\": 18446744073709551615, \"completion_tokens\": 18446744073709551615}}"),
        "streams" => {
            write!(tls, "HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
            for event in ["data: {\"choices\": []}\n\n".to_owned(), format!("data: {}\n\n", json!({"usage": usage}))] {
                write!(tls, "{:x}\r\n{event}\r\n", event.len())?;
            }
            tls.write_all(b"0\r\n\r\n")?;
            Ok(true)
        }
        _ => answer(tls, 200, json, json!({"usage": usage}).to_string().as_bytes()),
    }
}

fn start(limits: &str, prices: &str, bundle: &str) -> Setting {
    let setting = Setting::with(
        Upstream::start(model),
        &With {
            rules: &rules(limits),
            service: "budget = \"per boot\"",
            bundle,
            ..With::default()
        },
    );
    setting.put_well("crew", SECRET);
    setting.annex(2, prices);
    harness::wait_for(|| setting.running.log().contains("the annex is in force"));
    setting
}

fn ask(setting: &Setting, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    setting.ask(
        &format!("POST /api{path}"),
        "content-type: application/json\r\n",
        body.as_bytes(),
    )
}

pub(super) fn code(answer: &Answer) -> (u16, String) {
    (
        answer.status,
        answer.header("x-anchorhold-error").unwrap_or_default(),
    )
}

pub(super) fn chat(user: &str) -> Value {
    json!({"model": "toy", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100, "user": user})
}

#[test]
fn a_budget_is_reserved_before_a_request_and_settled_by_what_the_service_says() {
    // A request of these reserves some 1,200 micro-dollars, and takes 40.
    let setting = start(
        "{ per = \"day\", max = 2000, amount = \"cost\" }",
        PRICES,
        "",
    );
    for count in 1..=10 {
        assert_eq!(ask(&setting, "/chat/completions", &chat("x")).status, 200);
        setting.events("credential.close", count);
    }
    let opened = setting.events("credential.open", 10);
    let closed = setting.events("credential.close", 10);
    let length = chat("x").to_string().len() as u64;
    let (first, last) = (&opened[0]["credential"], &closed[9]["credential"]);
    assert_eq!(first["tokens_in"], length + 1024);
    assert_eq!(
        (&first["tokens_out"], &first["cost"]),
        (&json!(100), &json!(length + 1024 + 200))
    );
    assert_eq!(
        (&last["tokens_in"], &last["tokens_out"], &last["cost"]),
        (&json!(20), &json!(10), &json!(40))
    );
    // 400 are used. What says nothing of itself stays as it was reserved, and then there is no room.
    assert_eq!(
        ask(&setting, "/chat/completions", &chat("hides")).status,
        200
    );
    let refused = ask(&setting, "/chat/completions", &chat("x"));
    assert_eq!(code(&refused), (403, "budget_exceeded".into()));
    assert_eq!(refused.header("x-should-retry").as_deref(), Some("false"));
    // Each rule counts for itself.
    let messages = json!({"model": "toy", "messages": [], "max_tokens": 100});
    assert_eq!(ask(&setting, "/messages", &messages).status, 200);
    let responses = json!({"model": "toy", "input": "hello", "max_output_tokens": 100});
    assert_eq!(ask(&setting, "/responses", &responses).status, 200);
    let closed = setting.events("credential.close", 13);
    assert!(
        closed[11..]
            .iter()
            .all(|one| one["credential"]["cost"] == 40),
        "{closed:?}"
    );
    assert_eq!(setting.upstream.seen().len(), 13);
}

#[test]
fn what_comes_of_nothing_costs_nothing_and_what_breaks_off_stays_reserved() {
    for (user, left) in [
        ("refuses", true),
        ("streams", true),
        ("x", true),
        ("fails", false),
        ("exaggerates", false),
    ] {
        let setting = start(
            "{ per = \"month\", max = 2000, amount = \"cost\" }",
            PRICES,
            "",
        );
        ask(&setting, "/chat/completions", &chat(user));
        setting.events("credential.close", 1);
        let second = ask(&setting, "/chat/completions", &chat("x"));
        assert_eq!(second.status == 200, left, "{user}: {:?}", code(&second));
    }
    // What a stream says at its beginning is not what it took.
    let setting = start(
        "{ per = \"day\", max = 2000, amount = \"cost\" }",
        PRICES,
        "",
    );
    let begins = json!({"model": "toy", "messages": [], "max_tokens": 100, "stream": true, "metadata": {"user_id": "begins"}});
    ask(&setting, "/messages", &begins);
    let closed = setting.events("credential.close", 1);
    assert_eq!(closed[0]["credential"]["tokens_out"], 100);
    let messages = json!({"model": "toy", "messages": [], "max_tokens": 100});
    assert_eq!(
        code(&ask(&setting, "/messages", &messages)),
        (403, "budget_exceeded".into())
    );
    // Nobody could be reached: nothing was sent.
    let setting = start(
        "{ per = \"week\", max = 2000, amount = \"cost\" }",
        PRICES,
        "",
    );
    drop(std::net::TcpListener::bind(setting.upstream.address));
    for _ in 0..3 {
        let body = chat("x").to_string();
        let half = format!(
            "POST /api/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{{",
            body.len()
        );
        let mut stream = std::os::unix::net::UnixStream::connect(&setting.socket).unwrap();
        stream.write_all(half.as_bytes()).unwrap();
    }
    assert_eq!(ask(&setting, "/chat/completions", &chat("x")).status, 200);
}

#[test]
fn tokens_are_counted_without_prices_and_money_only_with_them() {
    let setting = start(
        "{ per = \"minute\", max = 3000, amount = \"tokens\" }",
        "",
        "",
    );
    for count in 1..=5 {
        assert_eq!(ask(&setting, "/chat/completions", &chat("x")).status, 200);
        setting.events("credential.close", count);
    }
    let closed = setting.events("credential.close", 5);
    assert_eq!(
        (
            &closed[4]["credential"]["tokens_in"],
            closed[4]["credential"].get("cost")
        ),
        (&json!(20), None)
    );
    ask(&setting, "/chat/completions", &chat("hides"));
    ask(&setting, "/chat/completions", &chat("hides"));
    assert_eq!(
        code(&ask(&setting, "/chat/completions", &chat("x"))),
        (403, "budget_exceeded".into())
    );
    let money = start(
        "{ per = \"day\", max = 1000000, amount = \"cost\" }",
        "",
        "",
    );
    assert_eq!(
        code(&ask(&money, "/chat/completions", &chat("x"))),
        (403, "model_not_priced".into())
    );
    money.annex(3, PRICES);
    harness::wait_for(|| ask(&money, "/chat/completions", &chat("x")).status == 200);
    let mut dear = chat("x");
    dear["model"] = json!("dear");
    assert_eq!(
        code(&ask(&money, "/chat/completions", &dear)),
        (403, "model_not_priced".into())
    );
}

#[test]
fn what_cannot_be_counted_is_not_sent_and_what_is_not_said_is_said_for_it() {
    let setting = start(
        "{ per = \"day\", max = 100000, amount = \"cost\" }",
        PRICES,
        "",
    );
    let mut bodies = Vec::new();
    for (name, value) in [
        ("service_tier", json!("priority")),
        ("n", json!(6)),
        ("max_tokens", json!(501)),
        ("max_tokens", json!(null)),
    ] {
        let mut body = chat("x");
        body[name] = value;
        bodies.push(body.to_string());
    }
    bodies.push(
        "{\"model\": \"toy\", \"messages\": [], \"max_tokens\": 1, \"max_tokens\": 100}".into(),
    );
    bodies.push("no json".into());
    bodies.push(String::new());
    for body in bodies {
        let refused = setting.ask("POST /api/chat/completions", "", body.as_bytes());
        assert_eq!(code(&refused), (422, "body_not_priced".into()), "{body}");
    }
    for (line, headers) in [
        (
            "POST /api/chat/completions?tier=priority",
            "content-type: application/json\r\n",
        ),
        (
            "POST /api/chat/completions",
            "content-type: application/json\r\nopenai-beta: dear\r\n",
        ),
        (
            "POST /api/chat/completions",
            "content-type: application/json; charset=utf-7\r\n",
        ),
    ] {
        let refused = setting.ask(line, headers, chat("x").to_string().as_bytes());
        assert_eq!(
            code(&refused),
            (422, "body_not_priced".into()),
            "{line} {headers}"
        );
    }
    assert!(setting.upstream.seen().is_empty());
    let said = |path: &str, body: Value, name: &str| {
        assert_eq!(ask(&setting, path, &body).status, 200);
        let last = setting.upstream.seen().pop().unwrap();
        let sent: Value = serde_json::from_slice(&last.body).unwrap();
        assert_eq!(sent[name], 500, "{sent}");
        assert_eq!(
            last.header("content-length"),
            Some(&*last.body.len().to_string())
        );
    };
    said(
        "/chat/completions",
        json!({"model": "toy", "messages": [], "temperature": 0.5}),
        "max_completion_tokens",
    );
    said(
        "/responses",
        json!({"model": "toy", "input": "x"}),
        "max_output_tokens",
    );
    said(
        "/messages",
        json!({"model": "toy", "messages": []}),
        "max_tokens",
    );
}

#[test]
fn through_the_proxy_requests_to_models_are_counted_as_well() {
    let setting = start(
        "{ per = \"day\", max = 2800, amount = \"cost\" }",
        PRICES,
        HTTPS_PROXY,
    );
    let proxied = Proxied::of(setting);
    let ask = |body: &Value| {
        let told = proxied.post("/v1/chat/completions", &body.to_string());
        let status = told.split(' ').nth(1).unwrap_or_default().to_owned();
        let code = told
            .lines()
            .find_map(|line| line.strip_prefix("x-anchorhold-error: "));
        (status, code.unwrap_or_default().trim().to_owned())
    };
    for count in 1..=5 {
        assert_eq!(ask(&chat("x")).0, "200");
        proxied.setting.events("credential.close", count);
    }
    let mut odd = chat("x");
    odd["service_tier"] = json!("priority");
    assert_eq!(ask(&odd), ("422".into(), "body_not_priced".into()));
    assert_eq!(
        ask(&json!({"model": "toy", "messages": []})),
        ("200".into(), String::new())
    );
    let last = proxied.setting.upstream.seen().pop().unwrap();
    let sent: Value = serde_json::from_slice(&last.body).unwrap();
    assert_eq!(sent["max_completion_tokens"], 500);
    assert_eq!(ask(&chat("hides")).0, "200");
    assert_eq!(ask(&chat("x")), ("403".into(), "budget_exceeded".into()));
    assert_eq!(
        proxied.setting.events("credential.close", 7)[0]["credential"]["cost"],
        40
    );
}
