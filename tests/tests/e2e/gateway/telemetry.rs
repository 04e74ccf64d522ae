//! Spans, at a collector of others' (PyPI `oteltap`); metrics, by Prometheus' own parser.

use std::collections::BTreeMap;

use super::calls::Called;
use super::*;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_sampled_request_has_spans_and_its_agent_is_told() {
    let Some(collector) = Called::that("otel_collector.py") else {
        return;
    };
    let agent = Agent::start(OK);
    let settings = format!(
        "telemetry: {{otel_endpoint: 'http://{}', otel_sample_ratio: 0}}\n\
         policy: {{block_rules: [{{name: cards, condition: has_credit_card, action: block}}]}}\n",
        collector.agent.address
    );
    let gateway = Gateway::configured(&agent, &settings);
    let parent = format!("Traceparent: {PARENT}\r\nTracestate: a=b\r\n");
    let (status, head, _) = gateway.post(&parent, "{}");
    assert_eq!(status, 200);
    // Without a parent, or with one that is not sampled, there are none.
    let not_sampled = PARENT.replace("-01", "-00");
    assert_eq!(
        gateway
            .post(&format!("Traceparent: {not_sampled}\r\n"), "{}")
            .0,
        200
    );
    assert_eq!(gateway.post("", "{}").0, 200);
    assert_eq!(gateway.post(&parent, CARD).0, 403);
    wait_for(|| {
        collector
            .seen()
            .iter()
            .filter(|span| span["name"] == "iatp.proxy")
            .count()
            == 2
    });
    let spans = collector.seen();
    let of = |name: &str, status: u16| {
        let root = spans.iter().find(|span| {
            span["name"] == "iatp.proxy"
                && span["attributes"]["http.response.status_code"] == status
        });
        let root = root.unwrap();
        if name == "iatp.proxy" {
            return Some(root.clone());
        }
        // Those of the other request are below the other root.
        let below = |span: &&Value| {
            let parent = spans.iter().find(|other| other["span"] == span["parent"]);
            span["parent"] == root["span"]
                || parent.is_some_and(|parent| parent["parent"] == root["span"])
        };
        spans
            .iter()
            .filter(below)
            .find(|span| span["name"] == name)
            .cloned()
    };
    let root = of("iatp.proxy", 200).unwrap();
    assert_eq!(
        (&root["trace"], &root["parent"]),
        (
            &json!("4bf92f3577b34da6a3ce929d0e0e4736"),
            &json!("00f067aa0ba902b7")
        )
    );
    let attributes = &root["attributes"];
    assert_eq!(
        (
            &attributes["http.request.method"],
            &attributes["url.path"],
            &attributes["iatp.trust_score"]
        ),
        (&json!("POST"), &json!("/proxy"), &json!(10))
    );
    assert_eq!(
        attributes["iatp.trace_id"],
        header(&head, "x-agent-trace-id").unwrap()
    );
    let evaluate = of("iatp.policy.evaluate", 200).unwrap();
    for (name, parent) in [
        ("iatp.policy.evaluate", &root),
        ("iatp.policy.detect_sensitive_data", &evaluate),
        ("iatp.policy.calculate_trust_score", &evaluate),
        ("iatp.telemetry.log_request", &root),
        ("iatp.proxy.forward", &root),
    ] {
        let span = of(name, 200).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(
            (&span["trace"], &span["parent"]),
            (&root["trace"], &parent["span"]),
            "{name}"
        );
        let time = |span: &Value, at: &str| span[at].as_u64().unwrap();
        let is_within = time(parent, "begin") <= time(&span, "begin")
            && time(&span, "end") <= time(parent, "end");
        assert!(
            is_within && time(&span, "begin") <= time(&span, "end"),
            "{name}"
        );
    }
    // What is blocked is decided on, and not forwarded.
    assert!(of("iatp.policy.evaluate", 403).is_some());
    assert!(of("iatp.proxy.forward", 403).is_none());
    assert_eq!(spans.len(), 6 + 4);

    let forward = of("iatp.proxy.forward", 200).unwrap();
    let seen = agent.seen();
    let told = format!(
        "00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01",
        forward["span"].as_str().unwrap()
    );
    assert_eq!(header(&seen[0], "traceparent").unwrap(), told);
    assert_eq!(header(&seen[0], "tracestate").unwrap(), "a=b");
    assert_eq!(header(&seen[1], "traceparent").unwrap(), not_sampled);
    assert_eq!(header(&seen[2], "traceparent"), None);
}

#[test]
fn spans_are_sent_at_the_end_and_counted_where_they_are_lost() {
    let Some(collector) = Called::that("otel_collector.py") else {
        return;
    };
    let agent = Agent::start(OK);
    let settings = |address: SocketAddr| {
        format!("telemetry: {{otel_endpoint: 'http://{address}', otel_sample_ratio: 1}}\n")
    };
    let mut gateway = Gateway::configured(&agent, &settings(collector.agent.address));
    for _ in 0..20 {
        assert_eq!(gateway.post("", "{}").0, 200);
    }
    gateway.signal(Signal::TERM);
    assert!(gateway.process.wait().unwrap().success());
    wait_for(|| collector.seen().len() == 120);
    // Paths are masked as they are read, and who is not known makes no spans.
    let folder = private_folder();
    let keys = folder.path().join("keys");
    fs::write(&keys, format!("ci {}\n", identity::sha256(b"key"))).unwrap();
    let asking = format!(
        "{}authentication: {{api_keys: {{file: {}}}}}\n",
        settings(collector.agent.address),
        keys.display()
    );
    let gateway = Gateway::configured(&agent, &asking);
    let get = |key: &str| {
        let request = format!(
            "GET /proxy/cards/%34532-0151-1283-0366 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTraceparent: {PARENT}\r\nX-API-Key: {key}\r\n\r\n"
        );
        gateway.send(request.as_bytes()).0
    };
    assert_eq!((get("another"), get("key")), (401, 200));
    wait_for(|| collector.seen().len() > 120);
    std::thread::sleep(Duration::from_millis(1500));
    let roots: Vec<Value> = collector.seen()[120..]
        .iter()
        .filter(|span| span["name"] == "iatp.proxy")
        .map(|span| span["attributes"].clone())
        .collect();
    assert_eq!(roots.len(), 1);
    assert_eq!(roots[0]["url.path"], "/proxy/cards/[CREDIT_CARD_REDACTED]");
    // Nobody takes them: requests go on.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let gateway = Gateway::configured(&agent, &settings(address));
    assert_eq!(gateway.post("", "{}").0, 200);
    wait_for(|| {
        gateway
            .ask("/metrics")
            .1
            .contains("anchorhold_gateway_spans_lost_total 6\n")
    });
}

#[test]
fn prometheus_understands_every_metric() {
    let Some(python) = crate::interop::python("protocols") else {
        return;
    };
    let agent = Agent::start(OK);
    let gateway = Gateway::trusted(&agent);
    assert_eq!(gateway.post("", "{}").0, 200);
    assert_eq!(gateway.post("", "{").0, 400);
    let (_, text) = gateway.ask("/metrics");
    let read = crate::interop::ask(&python, "metrics_reader.py", &json!({"text": text}));
    let types: BTreeMap<String, String> = read
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, family)| {
            assert!(!family["help"].as_str().unwrap().is_empty(), "{name}");
            (name.clone(), family["type"].as_str().unwrap().to_owned())
        })
        .collect();
    let wanted = [
        ("anchorhold_gateway_lines_lost", "counter"),
        ("anchorhold_gateway_lines_sealed", "counter"),
        ("anchorhold_gateway_spans_lost", "counter"),
        ("anchorhold_gateway_spans_sent", "counter"),
        ("iatp_logs_written", "counter"),
        ("iatp_policy_evaluations", "counter"),
        ("iatp_request_duration_seconds", "histogram"),
        ("iatp_requests", "counter"),
        ("iatp_trace_storage_bytes", "gauge"),
        ("iatp_trust_score_distribution", "histogram"),
    ];
    let wanted = wanted.map(|(name, kind)| (name.to_owned(), kind.to_owned()));
    assert_eq!(types, BTreeMap::from(wanted));
}
