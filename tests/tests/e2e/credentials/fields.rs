//! Credentials that stand in the body.

use std::process::Command;

use harness::services::{PLACEHOLDER, SECRET, With};

use super::clients::said;
use super::ingress::{HTTPS_PROXY, Proxied};
use super::setting::Setting;
use super::upstream::{Upstream, answer};

const RULES: &str = "{ name = \"post\", methods = [\"POST\"], paths = [\"/echo\", \"/ask\"], identities = [\"crew\"] }";
const JSON: &str = "content-type: application/json\r\n";
const FORM: &str = "content-type: application/x-www-form-urlencoded\r\n";

fn start(inject: &str) -> Setting {
    let upstream = Upstream::start(|request, tls| {
        let back: &[u8] = match request.line.contains("/echo") {
            true => &request.body,
            false => b"taken",
        };
        answer(tls, 200, "", back)
    });
    let with = With {
        inject,
        rules: RULES,
        bundle: HTTPS_PROXY,
        ..With::default()
    };
    let setting = Setting::with(upstream, &with);
    setting.put_well("crew", SECRET);
    setting
}

/// Status and code of the answer to a POST.
fn post(setting: &Setting, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let got = setting.ask(&format!("POST /api{path}"), headers, body);
    let code = got.header("x-anchorhold-error").unwrap_or_default();
    (got.status, code)
}

#[test]
fn a_credential_stands_in_a_member_of_a_json_body_and_nowhere_else() {
    let setting = start("{ field = \"/auth/key\" }");
    let body = r#"{ "q": "hello", "auth": {"key": "mine", "n": 1.50}, "key": "other" }"#;
    let placed = body.replace("mine", SECRET);
    assert_eq!(
        post(&setting, "/ask", JSON, body.as_bytes()),
        (200, String::new())
    );
    // Of unknown length: the service is told how long it is.
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let mut connection = harness::Connection::open(&setting.socket).unwrap();
    let head =
        format!("POST /api/ask HTTP/1.1\r\nhost: x\r\n{JSON}transfer-encoding: chunked\r\n\r\n");
    connection
        .send(&[head.as_bytes(), chunked.as_bytes()].concat())
        .unwrap();
    assert_eq!(connection.read().unwrap().status, 200);
    for asked in setting.upstream.seen() {
        assert_eq!(String::from_utf8(asked.body.clone()).unwrap(), placed);
        assert_eq!(
            asked.header("content-length"),
            Some(placed.len().to_string().as_str())
        );
        assert!(
            !asked
                .headers
                .iter()
                .any(|(_, value)| value.contains(SECRET))
        );
    }
    let closed = setting.events("credential.close", 2);
    for event in closed {
        assert_eq!(event["credential"]["sent"], body.len());
        let digest = identity::sha256(body.as_bytes()).to_string();
        assert_eq!(event["credential"]["sent_digest"], digest);
    }
    assert_eq!(
        post(&setting, "/echo", JSON, body.as_bytes()),
        (502, "credential_reflected".into())
    );
    let before = setting.upstream.seen().len();
    let misplaced = (422, "placeholder_misplaced".to_owned());
    for body in [
        "",
        "{}",
        r#"{"auth":"key"}"#,
        r#"{"auth":{"key":null}}"#,
        r#"{"auth":{"key":"a"},"auth":{"key":"b"}}"#,
        r#"{"auth":{"key":"a","\u006bey":"b"}}"#,
        r#"{"auth":{"key":"a"}"#,
    ] {
        assert_eq!(
            post(&setting, "/ask", JSON, body.as_bytes()),
            misplaced,
            "{body}"
        );
    }
    for headers in [
        "",
        FORM,
        "content-type: application/json\r\ncontent-encoding: gzip\r\n",
    ] {
        assert_eq!(
            post(&setting, "/ask", headers, body.as_bytes()),
            misplaced,
            "{headers}"
        );
    }
    let long = format!(
        "{{\"auth\":{{\"key\":\"a\"}},\"x\":\"{}\"}}",
        "y".repeat(2 << 20)
    );
    assert_eq!(post(&setting, "/ask", JSON, long.as_bytes()).0, 413);
    assert_eq!(
        setting.upstream.seen().len(),
        before,
        "nothing of these left"
    );
}

#[test]
fn a_credential_stands_in_a_field_of_a_form_for_curl_by_both_ways() {
    let proxied = Proxied::of(start("{ field = \"token\" }"));
    let setting = &proxied.setting;
    let fields = [
        "--data-urlencode",
        "text=a&b=c é",
        "--data-urlencode",
        "token=mine",
    ];
    let placed = format!(
        "text=a%26b%3Dc%20%C3%A9&token={}",
        SECRET
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D")
    );
    let by_url = format!("http://127.0.0.1:{}/api/ask", setting.port);
    let bearer = format!("authorization: Bearer {PLACEHOLDER}");
    let mut plain = Command::new("curl");
    plain.args(["--silent", "--max-time", "30", "--header", &bearer, &by_url]);
    let mut through = proxied.command("curl");
    through.args(["--silent", "--max-time", "30", "https://api.example/v1/ask"]);
    for mut command in [plain, through] {
        let output = command.args(fields).output().unwrap();
        assert_eq!(output.stdout, b"taken", "{}", said(&output));
        let asked = setting.upstream.seen().pop().unwrap();
        assert_eq!(
            String::from_utf8(asked.body).unwrap().replace('+', "%20"),
            placed
        );
    }
    let misplaced = (422, "placeholder_misplaced".to_owned());
    for body in ["", "text=a", "token=a&token=b", "token=a&t%6fken=b"] {
        assert_eq!(
            post(setting, "/ask", FORM, body.as_bytes()),
            misplaced,
            "{body}"
        );
    }
    // What is longer is refused before anything is decided, also where nobody outside can see it.
    let long = format!("text={}&token=a", "x".repeat(2 << 20));
    let file = setting.running.folder().join("long");
    std::fs::write(&file, long).unwrap();
    let data = format!("@{}", file.display());
    let through = proxied.curl(&["--data", &data, "https://api.example/v1/ask"]);
    assert!(
        said(&through).contains("placeholder_misplaced"),
        "{}",
        said(&through)
    );
    assert_eq!(setting.upstream.seen().len(), 2);
}
