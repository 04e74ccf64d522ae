//! Clients of others, unchanged: they know of a base URL and of a placeholder.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use harness::program;
use serde_json::{Value, json};

use super::seaweed::Seaweed;
use super::setting::Setting;
use super::upstream::{Request, Tls, Upstream, answer};
use harness::services::{PLACEHOLDER, SECRET, With};

/// What both clients ask for, and nothing else.
pub(super) const RULES: &str = "{ name = \"ask\", methods = [\"POST\"], paths = [\"/v1/chat/completions\", \"/v1/messages\"], identities = [\"crew\"] },
    { name = \"list\", methods = [\"GET\"], paths = [\"/v1/models\"], identities = [\"crew\"] }";

fn sse(tls: &mut Tls, events: &[String]) -> io::Result<bool> {
    write!(
        tls,
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )?;
    for event in events {
        write!(tls, "{:x}\r\n{event}\r\n", event.len())?;
        tls.flush()?;
    }
    tls.write_all(b"0\r\n\r\n")?;
    Ok(true)
}

/// A toy of both APIs, by their published forms.
pub(super) fn toy(request: &Request, tls: &mut Tls) -> io::Result<bool> {
    let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let json = "content-type: application/json\r\n";
    let path = request.line.split(' ').nth(1).unwrap();
    let streams = asked["stream"] == true;
    match path {
        "/v1/models" => {
            let models = json!({"object": "list", "data": [{"id": "toy", "object": "model", "created": 1, "owned_by": "us"}]});
            answer(tls, 200, json, models.to_string().as_bytes())
        }
        "/v1/chat/completions" if streams => {
            let chunk = |text: &str| {
                let delta = json!({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "toy",
                    "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]});
                format!("data: {delta}\n\n")
            };
            sse(
                tls,
                &[chunk("hel"), chunk("lo"), "data: [DONE]\n\n".to_owned()],
            )
        }
        "/v1/chat/completions" => {
            let all = json!({"id": "1", "object": "chat.completion", "created": 1, "model": "toy",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}]});
            answer(tls, 200, json, all.to_string().as_bytes())
        }
        _ if streams => {
            let event = |kind: &str, data: Value| format!("event: {kind}\ndata: {data}\n\n");
            let message = json!({"id": "m", "type": "message", "role": "assistant", "content": [], "model": "toy",
                "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1}});
            let text = |text: &str| {
                event(
                    "content_block_delta",
                    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}),
                )
            };
            sse(
                tls,
                &[
                    event(
                        "message_start",
                        json!({"type": "message_start", "message": message}),
                    ),
                    event(
                        "content_block_start",
                        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
                    ),
                    text("hel"),
                    text("lo"),
                    event(
                        "content_block_stop",
                        json!({"type": "content_block_stop", "index": 0}),
                    ),
                    event(
                        "message_delta",
                        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": 2}}),
                    ),
                    event("message_stop", json!({"type": "message_stop"})),
                ],
            )
        }
        _ => {
            let all = json!({"id": "m", "type": "message", "role": "assistant", "content": [{"type": "text", "text": "hello"}],
                "model": "toy", "stop_reason": "end_turn", "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1}});
            answer(tls, 200, json, all.to_string().as_bytes())
        }
    }
}

pub(super) fn interop(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("interop")
        .join(name)
}

pub(super) fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn openais_and_anthropics_own_clients_work_unchanged_and_say_why_they_are_refused() {
    let setting = Setting::with(
        Upstream::start(toy),
        &With {
            rules: RULES,
            base: "",
            ..With::default()
        },
    );
    setting.put_well("crew", SECRET);
    let output = Command::new(interop(".venv-clients/bin/python"))
        .arg(interop("api_client.py"))
        .arg(format!("http://127.0.0.1:{}/api", setting.port))
        .arg(PLACEHOLDER)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, wanted) in [
        ("openai", json!("hello")),
        ("openai_stream", json!(["hel", "lo"])),
        ("openai_models", json!(["toy"])),
        ("anthropic", json!("hello")),
        ("anthropic_stream", json!(["hel", "lo"])),
    ] {
        assert_eq!(told[name], wanted, "{told}");
    }
    for (name, class, status, code) in [
        (
            "openai_refused",
            "PermissionDeniedError",
            403,
            "service_request_not_allowed",
        ),
        (
            "openai_unknown",
            "AuthenticationError",
            401,
            "token_invalid",
        ),
        (
            "anthropic_refused",
            "PermissionDeniedError",
            403,
            "service_request_not_allowed",
        ),
        (
            "anthropic_unknown",
            "AuthenticationError",
            401,
            "token_invalid",
        ),
    ] {
        assert_eq!(
            (&told[name][0], &told[name][1]),
            (&json!(class), &json!(status)),
            "{told}"
        );
        let body = &told[name][2];
        assert!(
            body["code"] == code || body["error"]["code"] == code,
            "{told}"
        );
    }
    let seen = setting.upstream.seen();
    // Neither of them tried again what was refused for good.
    assert_eq!(seen.len(), 5);
    for request in seen {
        assert_eq!(
            request.header("authorization"),
            Some(&*format!("Bearer {SECRET}"))
        );
        assert!(!format!("{request:?}").contains(PLACEHOLDER));
    }
}

/// A toy of Telegram's bots and of Google Maps.
fn toy_of_urls(request: &Request, tls: &mut Tls) -> io::Result<bool> {
    let told = if request.line.contains("/getMe") {
        json!({"ok": true, "result": {"id": 1, "is_bot": true, "first_name": "toy", "username": "toy_bot"}})
    } else {
        json!({"status": "OK", "results": [{"place_id": "carfax"}]})
    };
    let json = "content-type: application/json\r\n";
    answer(tls, 200, json, told.to_string().as_bytes())
}

#[test]
fn clients_that_put_their_key_in_path_or_query_work_unchanged() {
    // Google's client takes no other key.
    let placeholder = "AIza-placeholder-with-no-real-secret";
    let encoded = "sk-live-9b2f6c1e0d8a4f7bA%2B%2F%3D";
    let path = format!("POST /bot{encoded}/getMe HTTP/1.1");
    let query =
        format!("GET /maps/api/geocode/json?address=Carfax%2C+Oxford&key={encoded} HTTP/1.1");
    for (place, inject, sent, answered, refused, unknown) in [
        (
            "path",
            "{ path = \"/bot{}\" }",
            path,
            "toy_bot",
            "Forbidden",
            "InvalidToken",
        ),
        (
            "query",
            "{ query = \"key\" }",
            query,
            "carfax",
            "HTTPError",
            "HTTPError",
        ),
    ] {
        let with = With {
            rules: "{ name = \"ask\", methods = [\"GET\", \"POST\"], paths = [\"/getMe\", \"/maps/api/geocode/json\"], identities = [\"crew\"] }",
            base: "",
            inject,
            placeholder,
            ..With::default()
        };
        let setting = Setting::with(Upstream::start(toy_of_urls), &with);
        setting.put_well("crew", SECRET);
        let output = Command::new(interop(".venv-clients/bin/python"))
            .arg(interop("url_client.py"))
            .arg(format!("http://127.0.0.1:{}/api", setting.port))
            .args([placeholder, place])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["asked"], answered, "{told}");
        let raised = [("refused", refused, "403"), ("unknown", unknown, "401")];
        for (name, class, status) in raised {
            assert_eq!(told[name][0], class, "{told}");
            let says = told[name][1].as_str().unwrap();
            assert!(class != "HTTPError" || says.contains(status), "{told}");
        }
        let seen = setting.upstream.seen();
        assert!(!seen.is_empty());
        for request in seen {
            assert!(!format!("{request:?}").contains(placeholder));
            assert_eq!(request.header("authorization"), None);
            if place == "query" || request.line.contains("getMe") {
                assert_eq!(request.line, sent);
            }
        }
        let opened = &setting.events("credential.open", if place == "path" { 4 } else { 2 })[0];
        assert!(!opened.to_string().contains(encoded), "{opened}");
    }
}

#[test]
fn curl_and_nodes_fetch_work_through_run_and_their_placeholder_ends_with_them() {
    let setting = Setting::with(
        Upstream::start(toy),
        &With {
            rules: RULES,
            base: "",
            ..With::default()
        },
    );
    setting.put_well("crew", SECRET);
    let run = |command: &[&str]| {
        Command::new(program("anchorhold"))
            .args(["run", "--endpoint"])
            .arg(format!("unix://{}", setting.running.socket.display()))
            .arg("--")
            .args(command)
            .output()
            .unwrap()
    };
    let curl = "curl -sS -f -H \"authorization: Bearer $API_API_KEY\" -d '{}' $API_BASE_URL/v1/chat/completions";
    let output = run(&["sh", "-c", curl]);
    assert!(
        output.status.success() && said(&output).contains("hello"),
        "{}",
        said(&output)
    );
    let fetch = "const headers = {'x-api-key': process.env.API_API_KEY, 'content-type': 'application/json'};
        fetch(process.env.API_BASE_URL + '/v1/messages', {method: 'POST', headers, body: '{}'})
            .then(answer => answer.json()).then(answer => console.log(answer.content[0].text))";
    let output = run(&["node", "-e", fetch]);
    assert!(
        output.status.success() && said(&output).contains("hello"),
        "{}",
        said(&output)
    );
    // Its exit code is that of the command.
    assert_eq!(run(&["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(run(&["/nowhere"]).status.code(), Some(64));
    // What it showed is good for nobody afterwards.
    let output = run(&["sh", "-c", "printf %s $API_API_KEY"]);
    let placeholder = String::from_utf8(output.stdout).unwrap();
    assert_eq!(placeholder.len(), 43);
    let got = setting.ask_tcp(
        "GET /api/v1/models",
        &format!("x-api-key: {placeholder}\r\n"),
        b"",
    );
    assert!(got.starts_with("HTTP/1.1 401"), "{got}");
}

#[test]
fn another_user_cannot_use_a_placeholder_that_it_found() {
    let setting = Setting::with(
        Upstream::start(toy),
        &With {
            rules: RULES,
            base: "",
            ..With::default()
        },
    );
    setting.put_well("crew", SECRET);
    if !rustix::process::geteuid().is_root() {
        harness::skipped("becoming another user needs root");
        return;
    }
    let asks = "curl -s -o /dev/null -w '%{http_code} ' -H \"x-api-key: $API_API_KEY\" $API_BASE_URL/v1/models";
    let script = format!(
        "{asks}; setpriv --reuid 65533 --clear-groups sh -c {}",
        quoted(asks)
    );
    let output = Command::new(program("anchorhold"))
        .args(["run", "--endpoint"])
        .arg(format!("unix://{}", setting.running.socket.display()))
        .args(["--", "sh", "-c", &script])
        .output()
        .unwrap();
    assert_eq!(said(&output), "200 401 ");
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A server of git's own, behind the upstream's TLS.
pub(super) fn git_http_backend(root: &Path, request: &Request, tls: &mut Tls) -> io::Result<bool> {
    let (method, rest) = request.line.split_once(' ').unwrap();
    let target = rest.split(' ').next().unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |name: &str| request.header(name).unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REMOTE_USER", "crew")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().unwrap().write_all(&request.body)?;
    let output = child.wait_with_output()?.stdout;
    let end = output
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let status = head
        .lines()
        .find_map(|line| line.strip_prefix("Status: ")?.get(..3)?.parse().ok());
    let headers: String = head
        .lines()
        .filter(|line| !line.starts_with("Status"))
        .map(|line| format!("{line}\r\n"))
        .collect();
    answer(tls, status.unwrap_or(200), &headers, &output[end + 4..])
}

#[test]
fn git_clones_and_pushes_through_its_own_server_with_a_placeholder_for_a_password() {
    let folder = harness::private_folder();
    let run = |arguments: &[&str]| {
        Command::new("git")
            .args([
                "-c",
                "user.name=crew",
                "-c",
                "user.email=crew@example",
                "-c",
                "protocol.version=2",
            ])
            .args(arguments)
            .current_dir(folder.path())
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", folder.path())
            .output()
            .unwrap()
    };
    let well = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    };
    well(&["init", "-q", "--bare", "-b", "main", "srv/repo.git"]);
    well(&["-C", "srv/repo.git", "config", "http.receivepack", "true"]);
    let root = folder.path().join("srv");
    let upstream = Upstream::start(move |request, tls| git_http_backend(&root, request, tls));
    let rules = "{ name = \"git\", methods = [\"GET\", \"POST\"], paths = [\"/repo.git/*\"], identities = [\"crew\"] }";
    let inject = "{ basic = \"x-access-token\" }";
    let setting = Setting::with(
        upstream,
        &With {
            rules,
            inject,
            base: "",
            ..With::default()
        },
    );
    setting.put_well("crew", SECRET);
    let url = |password: &str, repo: &str| {
        format!("http://x:{password}@127.0.0.1:{}/api/{repo}", setting.port)
    };
    well(&["clone", "-q", &url(PLACEHOLDER, "repo.git"), "work"]);
    fs::write(folder.path().join("work/file"), "x".repeat(200_000)).unwrap();
    well(&["-C", "work", "add", "file"]);
    well(&["-C", "work", "commit", "-q", "-m", "one"]);
    well(&["-C", "work", "push", "-q", "origin", "HEAD:main"]);
    well(&["clone", "-q", &url(PLACEHOLDER, "repo.git"), "again"]);
    assert!(folder.path().join("again/file").exists());
    let pair = data_encoding::BASE64.encode(format!("x-access-token:{SECRET}").as_bytes());
    for request in setting.upstream.seen() {
        assert_eq!(
            request.header("authorization"),
            Some(&*format!("Basic {pair}"))
        );
    }
    let before = setting.upstream.seen().len();
    let refused = run(&["clone", "-q", &url(PLACEHOLDER, "other.git"), "other"]);
    assert!(
        !refused.status.success() && said(&refused).contains("403"),
        "{}",
        said(&refused)
    );
    let refused = run(&["clone", "-q", &url(&"y".repeat(40), "repo.git"), "other"]);
    assert!(
        !refused.status.success() && said(&refused).contains("Authentication failed"),
        "{}",
        said(&refused)
    );
    assert_eq!(setting.upstream.seen().len(), before);
}

#[test]
fn the_environment_of_an_agent_is_written_for_its_shell() {
    let setting = Setting::with(
        Upstream::start(toy),
        &With {
            rules: RULES,
            base: "",
            ..With::default()
        },
    );
    setting.put_well("crew", SECRET);
    let home = harness::private_folder();
    let output = Command::new(program("anchorhold"))
        .args(["env", "--write", "--endpoint"])
        .arg(format!("unix://{}", setting.running.socket.display()))
        .arg("--token-file")
        .arg(setting.running.folder().join("crew.token"))
        .env("XDG_CONFIG_HOME", home.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let line = String::from_utf8(output.stdout).unwrap();
    let script =
        format!("{line}curl -sS -f -H \"x-api-key: $API_API_KEY\" $API_BASE_URL/v1/models");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(
        output.status.success() && said(&output).contains("toy"),
        "{}",
        said(&output)
    );
    use std::os::unix::fs::MetadataExt;
    let file = home.path().join("agentkeys/env");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let text = fs::read_to_string(file).unwrap();
    let wanted = format!(
        "export API_BASE_URL='http://127.0.0.1:{}/api'\nexport API_API_KEY='{PLACEHOLDER}'\n",
        setting.port
    );
    assert_eq!(text, wanted);
}

#[test]
fn boto3_works_unchanged_against_a_store_that_verifies_signatures() {
    let seaweed = Seaweed::start();
    let port = seaweed.port;
    let upstream = Upstream::start(move |request, tls| {
        let mut head = format!("{}\r\nconnection: close\r\n", request.line);
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let whole = [head.as_bytes(), b"\r\n", &request.body].concat();
        tls.write_all(&Seaweed::pass(port, &whole)?)?;
        Ok(false)
    });
    let with = With {
        rules: "{ name = \"toy\", methods = [\"GET\", \"HEAD\", \"PUT\", \"POST\", \"DELETE\"], paths = [\"/toy\", \"/toy/*\"], identities = [\"crew\"] }",
        base: "",
        inject: "{ sigv4 = { region = \"us-east-1\", service = \"s3\" } }",
        ..With::default()
    };
    let setting = Setting::with(upstream, &with);
    setting.put_well("crew", &format!("{}:{}", Seaweed::ID, Seaweed::KEY));
    let output = Command::new(interop(".venv-clients/bin/python"))
        .arg(interop("s3_client.py"))
        .arg(format!("http://127.0.0.1:{}/api", setting.port))
        .arg(PLACEHOLDER)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let key = "notes/a b+c=ü,(1).txt";
    let not_allowed = json!([403, "service_request_not_allowed"]);
    for (name, wanted) in [
        ("got", json!(["hello", "text/plain", {"by": "crew  one"}])),
        ("part", json!("ell")),
        ("listed", json!([key])),
        ("big", json!(true)),
        ("size", json!(12_582_912)),
        ("gone", json!([404, "404"])),
        ("elsewhere", not_allowed.clone()),
        ("acl", not_allowed.clone()),
        ("many", not_allowed),
        ("copy", json!([422, "header_invalid"])),
        ("unknown", json!([401, "token_invalid"])),
    ] {
        assert_eq!(told[name], wanted, "{name}: {told}");
    }
    for request in setting.upstream.seen() {
        let all = format!("{request:?}");
        assert!(
            !all.contains(PLACEHOLDER) && !all.contains(Seaweed::KEY),
            "{all}"
        );
        let signature = request.header("authorization").unwrap();
        let begins = format!("AWS4-HMAC-SHA256 Credential={}/", Seaweed::ID);
        assert!(signature.starts_with(&begins), "{signature}");
    }
}
