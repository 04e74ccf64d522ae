//! With others' programs that are too large for every change: `tests/large` installs them and runs
//! these, and where they are not there they are left out.

use std::fs::File;

use super::*;

/// A program, if it is installed.
fn installed(name: &str) -> bool {
    let is_there = Command::new("which")
        .arg(name)
        .output()
        .unwrap()
        .status
        .success();
    if !is_there {
        harness::skipped(&format!("{name} is not there; tests/large installs it"));
    }
    is_there
}

const PAGE: &str = r#"<!doctype html><script>
(async () => {
  const gateway = GATEWAY, told = {};
  const ask = async (name, path, init) => {
    try {
      const answer = await fetch(gateway + path, init);
      told[name] = [answer.status, answer.headers.get("x-agent-trust-score")];
    } catch (error) { told[name] = "refused"; }
  };
  await ask("simple", "/proxy/a");
  await ask("preflighted", "/proxy/b", {method: "PUT", headers: {"content-type": "application/json", "x-mine": "1"}, body: "{}"});
  await ask("credentials", "/proxy/c", {credentials: "include"});
  await ask("beside", "/health");
  await new Promise(done => {
    const socket = new WebSocket(gateway.replace("http", "ws") + "/proxy/d");
    socket.onopen = socket.onerror = socket.onclose = done;
  });
  await fetch("/told", {method: "POST", body: JSON.stringify(told)});
})();
</script>"#;

/// A page of an origin that is listed reads what it asked for, with its headers; one of another origin
/// has nothing sent to the agent, by whatever it asks.
#[test]
fn a_page_in_a_browser_may_ask_if_its_origin_is_listed() {
    if !installed("chromium") {
        return;
    }
    let agent = Agent::start(OK);
    let page = Arc::new(Mutex::new(String::new()));
    let served = Arc::clone(&page);
    let site = Agent::that(move |stream, request| {
        let body = if request.starts_with("GET") {
            served.lock().unwrap().clone()
        } else {
            String::new()
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).is_ok()
    });
    let settings = format!(
        "cors: {{allowed_origins: ['http://127.0.0.1:{}']}}\n",
        site.address.port()
    );
    let gateway = Gateway::configured(&agent, &settings);
    *page.lock().unwrap() = PAGE.replace(
        "GATEWAY",
        &json!(format!("http://{}", gateway.address)).to_string(),
    );
    let told = |host: &str| {
        let folder = private_folder();
        let mut browser = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg(format!("http://{host}:{}/", site.address.port()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let post = || {
            site.seen()
                .into_iter()
                .find(|request| request.starts_with("POST /told"))
        };
        wait_for(|| post().is_some());
        let told = post().unwrap();
        site.seen.lock().unwrap().clear();
        browser.kill().unwrap();
        browser.wait().unwrap();
        serde_json::from_str::<Value>(told.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    let read = json!([200, "10"]);
    assert_eq!(
        told("127.0.0.1"),
        json!({"simple": read, "preflighted": read, "credentials": read, "beside": read})
    );
    let paths: Vec<String> = agent
        .seen()
        .iter()
        .map(|request| request.split(' ').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(paths, ["/a", "/b", "/c", "/d"]);
    // The same page by another name is another origin.
    let refused = json!("refused");
    assert_eq!(
        told("localhost"),
        json!({"simple": refused, "preflighted": refused, "credentials": refused, "beside": refused})
    );
    assert_eq!(agent.seen().len(), 4);
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    if !installed("promtool") {
        return;
    }
    let agent = Agent::start(OK);
    let gateway = Gateway::trusted(&agent);
    assert_eq!(gateway.post("", "{}").0, 200);
    let file = gateway.folder.path().join("metrics");
    // It reads the older format, which knows no end, and in which a counter is described by its whole name.
    let mut text = gateway.ask("/metrics").1.replace("# EOF\n", "");
    let counters: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .map(str::to_owned)
        .collect();
    for name in counters {
        for what in ["HELP", "TYPE"] {
            text = text.replace(
                &format!("# {what} {name} "),
                &format!("# {what} {name}_total "),
            );
        }
    }
    fs::write(&file, text).unwrap();
    let output = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(File::open(&file).unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
}
