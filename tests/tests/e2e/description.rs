//! The description of the API, held against what is served, by a client that we did not write.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use harness::Lasting;
use harness::services::{With, bundle, config, free_port, put_at};

use crate::credentials::ingress::HTTPS_PROXY;
use crate::credentials::upstream::{Upstream, answer};

const TOKEN: &str = "an-operators-token-of-this-test-0123456789";
/// Requests of each operation that are made up, beside those that try each bound of the description.
const MADE_UP: &str = "20";

/// What takes what nobody can make up: an approver's signature, the operator's, a token to exchange; or was not asked.
const NOT_DONE: [&str; 5] = [
    "/approvals/{id}",
    "/credentials/epochs",
    "/credentials/lease",
    "/placeholder",
    "/token",
];

/// Requests as described have answers as described; others are refused, with nothing but what is described. What is
/// well-formed and means nothing (a signature of nobody, say) is refused too, which no description can say: whether everything that fits
/// is taken (`positive_data_acceptance`) is not asked. `GET /placeholder` has no end: it is left out.
#[test]
fn what_is_served_is_what_the_description_says_and_nothing_else_is_taken() {
    let upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"ok"));
    let (proxy, port) = (free_port(), free_port());
    let with = With {
        bundle: HTTPS_PROXY,
        ..With::default()
    };
    let lines = config(upstream.address, proxy, "")
        + &format!(
            "[localhost]\nlisten = \"127.0.0.1:{port}\"\n[[localhost.callers]]\nname = \"desk\"\n\
             token_file = \"desk.token\"\noperator = true\n"
        );
    let policy = |state: &qemu_dev::State| {
        let token = state.folder().join("desk.token");
        std::fs::write(&token, TOKEN).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = bundle(state, &upstream.root, &with);
        text.replace("names = [\"crew\"]", "names = [\"crew\", \"desk\"]")
    };
    let lasting = Lasting::prepared(policy, &lines);
    put_at(&lasting.state, &lasting.socket, harness::now().0);
    let program = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("interop/.venv-schemathesis-4.32.5/bin/schemathesis");
    let output = Command::new(program)
        .current_dir(lasting.folder())
        .args(["run", &format!("http://127.0.0.1:{port}/openapi.json")])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .args(["--phases", "examples,coverage,fuzzing", "--mode", "all"])
        .args(["--exclude-path", "/placeholder"])
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(["--max-examples", MADE_UP, "--seed", "1"])
        .args(["--request-timeout", "30", "--continue-on-failure"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{output:?}");
    // It did ask: all but the one without an end, and the description itself.
    let described: serde_json::Value = serde_json::from_str(&parent_proxy::openapi()).unwrap();
    let paths = described["paths"].as_object().unwrap().values();
    let methods = ["get", "post", "put", "delete"];
    let of = |path: &serde_json::Value| {
        methods
            .iter()
            .filter(|method| path.get(**method).is_some())
            .count()
    };
    let operations: usize = paths.map(of).sum();
    let tested = format!("Tested: {}\n", operations - 2);
    assert!(said.contains(&tested), "{tested}\n{said}");
    // And some of what it asked was done, so that the answers of success were seen, too.
    let metrics = harness::get(&lasting.socket, "/metrics").unwrap();
    let metrics = String::from_utf8(metrics.body).unwrap();
    let is_done = |path: &&String| {
        let begin = format!("anchorhold_requests_total{{route=\"{path}\",status=\"2");
        metrics.lines().any(|line| line.starts_with(&begin))
    };
    let paths = described["paths"].as_object().unwrap().keys();
    let refused: Vec<&String> = paths.filter(|path| !is_done(path)).collect();
    assert_eq!(refused, NOT_DONE, "{metrics}");
    lasting.wait_until_ready();
}
