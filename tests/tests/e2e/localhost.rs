use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use harness::Running;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A sidecar that also listens on localhost, for a caller named `crew`; gives the port.
fn start() -> (Running, u16) {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let policy = |state: &qemu_dev::State| {
        let token = state.folder().join("crew.token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = state
            .development_policy(&[("agent", "did:key", "EdDSA")])
            .unwrap();
        text.replacen("callers = { ", "callers = { names = [\"crew\"], ", 1)
    };
    let config = format!(
        "[localhost]\nlisten = \"127.0.0.1:{port}\"\n[[localhost.callers]]\nname = \"crew\"\ntoken_file = \"crew.token\"\n"
    );
    (Running::prepared(policy, &config, &[]), port)
}

fn sign(port: u16, headers: &str) -> String {
    let body = "{\"payload\":{},\"intent\":\"a\"}";
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST /sign HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn on_localhost_a_token_is_shown_and_browsers_are_kept_out() {
    let (_running, port) = start();
    let host = format!("host: localhost:{port}\r\n");
    let token = format!("authorization: Bearer {TOKEN}\r\n");
    let good = sign(port, &format!("{host}{token}"));
    assert!(good.starts_with("HTTP/1.0 200"), "{good}");
    let good = sign(port, &format!("host: 127.0.0.1:{port}\r\n{token}"));
    assert!(good.starts_with("HTTP/1.0 200"), "{good}");
    for (headers, status, code) in [
        (host.clone(), 401, "token_invalid"),
        (
            format!("{host}authorization: Bearer {}\r\n", TOKEN.to_uppercase()),
            401,
            "token_invalid",
        ),
        (
            format!("{host}authorization: Basic {TOKEN}\r\n"),
            401,
            "token_invalid",
        ),
        (token.clone(), 403, "foreign_host"),
        (
            format!("host: evil.example:{port}\r\n{token}"),
            403,
            "foreign_host",
        ),
        (format!("host: localhost\r\n{token}"), 403, "foreign_host"),
        (format!("{host}{host}{token}"), 403, "foreign_host"),
        (
            format!("{host}{token}origin: https://evil.example\r\n"),
            403,
            "foreign_origin",
        ),
        (
            format!("{host}{token}origin: http://localhost:{port}\r\n"),
            403,
            "foreign_origin",
        ),
        (
            format!("{host}{token}origin: null\r\n"),
            403,
            "foreign_origin",
        ),
    ] {
        let answer = sign(port, &headers);
        assert!(
            answer.starts_with(&format!("HTTP/1.0 {status}")) && answer.contains(code),
            "{headers}{answer}"
        );
    }
}

#[test]
fn the_commands_reach_localhost_too() {
    let (running, port) = start();
    let output = std::process::Command::new(harness::program("anchorhold"))
        .args([
            "sign",
            "--action",
            "a",
            "--payload",
            "{}",
            "--endpoint",
            &format!("http://127.0.0.1:{port}"),
            "--token-file",
        ])
        .arg(running.folder().join("crew.token"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().split('.').count(),
        3
    );
}
