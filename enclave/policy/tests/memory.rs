//! Alone in its process: the limit is for all that a process allocates.

use attestation::policy::Bundle;
use identity::caller::Seen;
use identity::{Caller, Intent, Payload, PublicKey};
use policy::{Asked, Rego, accept};

/// Nearly 16 MiB of what the caller sends, twice.
const MODULE: &str = r#"package large
default allow = false
first := replace(input.payload.x, "a", concat("", [input.payload.y, "1"]))
second := replace(input.payload.x, "a", concat("", [input.payload.y, "2"]))
allow if { count(first) + count(second) == 1 }
"#;

#[test]
fn rego_has_sixteen_mebibytes() {
    let key = |from: u8| (from..).find_map(|byte| PublicKey::ed25519(&[byte; 32]).ok()).unwrap().to_multikey();
    let text = format!(
        "version = 1\nmode = \"production\"\nproxy_key = \"{}\"\noperator_key = \"{}\"\n\
         [rego]\nentrypoint = \"data.large\"\nmodule = '''\n{MODULE}'''\n\
         [[identities]]\nname = \"a\"\nenvironment = \"test\"\ndid = \"did:key\"\nalgorithm = \"EdDSA\"\nmax_validity_seconds = 300\n\
         callers = {{ uids = [1] }}\n[[identities.rules]]\nname = \"any\"\nactions = [\"*\"]\ntargets = [\"*\"]\nresources = [\"*\"]\n",
        key(1),
        key(100)
    );
    let bundle = Bundle::from_toml(&text).unwrap();
    let rego = Rego::load(&bundle).unwrap();
    let ask = |payload: String| {
        let intent = Intent::new("a".into(), String::new(), String::new()).unwrap();
        let payload = Payload::parse(payload.as_bytes()).unwrap();
        let asked = Asked {
            intent: &intent,
            payload: &payload,
            audience: None,
            validity_seconds: None,
            delegated: false,
            envelope: false,
        };
        let caller = Caller::Asserted(Seen::ids(1, 1));
        accept(&bundle, rego.as_ref(), &bundle.identities[0], None, &caller, &asked).map(|_| ()).unwrap_err()
    };
    let large = || format!("{{\"x\":\"{}\",\"y\":\"{}\"}}", "a".repeat(3500), "b".repeat(4400));
    // On a busy machine its time may be over before its memory is.
    let denied = (0..50).map(|_| ask(large())).inspect(|denied| assert_eq!(denied.code(), "policy_timeout", "{denied}"));
    assert!(denied.map(|denied| denied.to_string()).any(|says| says.contains("exceeded memory limit")));
    assert_eq!(ask("{\"x\":\"a\",\"y\":\"b\"}".into()).code(), "policy_denied", "what was taken is given back");
}
