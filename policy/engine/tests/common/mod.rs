//! A bundle with a module, and what it decides.

use identity::caller::ObservedCaller;
use identity::{Caller, Intent, Payload, PublicKey};
use policy::Bundle;
use policy_engine::{Denied, PolicyInput, Rego, accept};

/// One identity that may do anything, if this module allows it. The module's first line is its
/// package.
pub(crate) fn bundle(module: &str) -> Bundle {
    let key = |from: u8| {
        (from..)
            .find_map(|byte| PublicKey::ed25519(&[byte; 32]).ok())
            .unwrap()
            .to_multikey()
    };
    let entrypoint = module.lines().next().unwrap().replace("package ", "data.");
    let text = format!(
        "version = 1\nmode = \"production\"\nproxy_key = \"{}\"\noperator_key = \"{}\"\n\
         [rego]\nentrypoint = \"{entrypoint}\"\nmodule = '''\n{module}'''\n\
         [[identities]]\nname = \"a\"\nenvironment = \"test\"\ndid = \"did:key\"\nalgorithm = \"EdDSA\"\nmax_validity_seconds = 300\n\
         callers = {{ uids = [1] }}\n[[identities.rules]]\nname = \"any\"\nactions = [\"*\"]\ntargets = [\"*\"]\nresources = [\"*\"]\n",
        key(1),
        key(100)
    );
    Bundle::from_toml(&text).unwrap()
}

/// Whether this payload may be signed.
pub(crate) fn ask(bundle: &Bundle, rego: &Rego, payload: &str) -> Result<(), Denied> {
    let intent = Intent::new("a".into(), String::new(), String::new()).unwrap();
    let payload = Payload::parse(payload.as_bytes()).unwrap();
    let asked = PolicyInput {
        intent: &intent,
        payload: &payload,
        audience: None,
        validity_seconds: None,
        delegated: false,
        envelope: false,
    };
    let caller = Caller::Asserted(ObservedCaller::ids(1, 1));
    accept(
        bundle,
        Some(rego),
        &bundle.identities[0],
        None,
        &caller,
        &asked,
    )
    .map(|_| ())
}
