//! Alone in its process: nothing else has limits of memory meanwhile.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::Duration;

use common::{ask, bundle};
use policy_engine::{Denied, Rego};
use regorus::{Engine, Value};
use rustix::time::{ClockId, clock_gettime};

/// Steps as many as the payload has members, to the third power, and then yes. It keeps nothing.
const MODULE: &str = r#"package long
allow if { count([1 | some a in input.payload.xs; some b in input.payload.xs; some c in input.payload.xs; a + b + c < 0]) == 0 }
"#;
const LIMIT: Duration = Duration::from_millis(10);

fn payload(members: usize) -> String {
    format!("{{\"xs\":[{}]}}", vec!["1"; members].join(","))
}

/// What this thread was on a processor.
fn worked() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.try_into().unwrap(),
        now.tv_nsec.try_into().unwrap(),
    )
}

/// The work of one decision without any limit.
fn work(members: usize) -> Duration {
    let mut engine = Engine::new();
    engine.set_rego_v0(false);
    engine
        .add_policy("policy.rego".into(), MODULE.into())
        .unwrap();
    engine
        .set_input(Value::from_json_str(&format!("{{\"payload\":{}}}", payload(members))).unwrap());
    let begin = worked();
    assert_eq!(
        engine.eval_rule("data.long.allow".into()).unwrap(),
        Value::Bool(true)
    );
    worked() - begin
}

/// `execution exceeded time limit (elapsed=10000001ns, limit=9999999ns)`, as regorus says it.
fn limit(denied: &Denied) -> Option<Duration> {
    let Denied::PolicyTimeout(says) = denied else {
        return None;
    };
    let nanos = says
        .strip_prefix("execution exceeded time limit (")?
        .split("limit=")
        .nth(1)?
        .strip_suffix("ns)")?;
    Some(Duration::from_nanos(nanos.parse().unwrap()))
}

#[test]
fn rego_has_ten_milliseconds() {
    // Work of more than ten times the limit, by what a processor needs for it, on whatever machine.
    let members = (4..)
        .map(|n| 1 << n)
        .find(|members| work(*members) > 10 * LIMIT)
        .unwrap();
    let bundle = bundle(MODULE);
    let rego = Rego::load(&bundle).unwrap().unwrap();
    // The limit is what is left of ten milliseconds when regorus begins: never more, and nearly all
    // unless the machine is busy.
    let mut largest = Duration::ZERO;
    for _ in 0..100 {
        let denied = ask(&bundle, &rego, &payload(members)).expect_err("it is much work");
        let limit = limit(&denied).unwrap_or_else(|| panic!("{denied}"));
        assert!(limit <= LIMIT, "{denied}");
        largest = largest.max(limit);
        if largest > LIMIT * 9 / 10 {
            break;
        }
    }
    assert!(largest > LIMIT * 9 / 10, "at most {largest:?} were given");
    // Little work is done, sooner or later, however busy the machine is.
    assert!((0..100).any(|_| ask(&bundle, &rego, &payload(2)).is_ok()));
}
