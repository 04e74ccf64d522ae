//! Whom the policy names at all, and who may see how the sidecar does.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use identity::caller::ObservedCaller;
use identity::request::CallerProof;
use policy::{Annex, Bundle, Callers, IdentityPolicy};
use protocol::PresentedProof;
use rustix::process::geteuid;

/// Who may see how the sidecar does.
#[derive(Debug, Default)]
pub struct Operators {
    /// Beside root and the sidecar's own user.
    pub uids: Vec<u32>,
    /// On localhost.
    pub names: Vec<String>,
}

impl Operators {
    /// Whoever comes through a socket of its own is the agent that it is for, and no operator,
    /// though it may run as the same user.
    pub(crate) fn include(&self, seen: &ObservedCaller) -> bool {
        if seen.socket.is_some() {
            return false;
        }
        let may = |uid| is_root_or(geteuid().as_raw(), uid) || self.uids.contains(&uid);
        seen.uid.is_some_and(may)
            || seen
                .name
                .as_ref()
                .is_some_and(|name| self.names.contains(name))
    }
}

fn is_root_or(own: u32, uid: u32) -> bool {
    uid == 0 || uid == own
}

/// Whom the policy, and the annex of the moment, name at all. The enclave decides for itself; this
/// keeps strangers from taking the callers' places.
pub struct Admission {
    policy: Bundle,
    annex: RwLock<Option<Arc<Annex>>>,
    /// Thumbprints of the keys that the policy names, of callers and of approvers (RFC 7638).
    caller_keys: BTreeSet<String>,
    approver_keys: BTreeSet<String>,
}

impl Admission {
    /// Of a policy, until an annex comes.
    pub fn new(policy: Bundle) -> Self {
        let caller_keys = policy
            .callers
            .iter()
            .filter_map(|caller| caller.key.as_ref())
            .map(|key| key.0.thumbprint())
            .collect();
        let approver_keys = policy
            .approvers
            .iter()
            .map(|approver| approver.key.0.thumbprint())
            .collect();
        Self {
            policy,
            annex: RwLock::new(None),
            caller_keys,
            approver_keys,
        }
    }

    /// Whom this annex names, and no longer the one before.
    pub fn set_annex(&self, annex: Annex) {
        *self.annex.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(annex));
    }

    fn annex(&self) -> Option<Arc<Annex>> {
        self.annex
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The policy.
    pub fn policy(&self) -> &Bundle {
        &self.policy
    }

    pub(crate) fn admits(&self, seen: &ObservedCaller) -> bool {
        let annex = self.annex();
        all_callers(&self.policy).any(|callers| callers.admit(seen, annex.as_deref()))
    }

    /// The identities that the policy lets a caller use, as far as this process can see.
    pub fn usable(&self, seen: &ObservedCaller) -> Vec<&IdentityPolicy> {
        let annex = self.annex();
        let usable = |identity: &&IdentityPolicy| identity.callers.admit(seen, annex.as_deref());
        self.policy.identities.iter().filter(usable).collect()
    }

    /// Whether somebody with these ids might be named, whatever else is to be seen of it.
    pub fn may_admit(&self, uid: u32, gid: u32) -> bool {
        let fits = |wanted: Option<u32>, id: u32| wanted.is_none_or(|wanted| wanted == id);
        let described = |annex: Arc<Annex>| {
            annex
                .callers
                .iter()
                .any(|caller| fits(caller.uid, uid) && fits(caller.gid, gid))
        };
        is_root_or(geteuid().as_raw(), uid)
            || self.admits(&ObservedCaller::ids(uid, gid))
            || self.annex().is_some_and(described)
    }

    /// Whether callers of some identity prove themselves.
    pub fn expects_proofs(&self) -> bool {
        !self.policy.callers.is_empty()
    }

    /// Whether a proof could be of a caller whom the policy names: by its key, or by an enclave
    /// that has a document. Nothing is verified; the enclave does not learn of others.
    pub fn expects_proof(&self, proof: &PresentedProof) -> bool {
        match &proof.document {
            Some(_) => self
                .policy
                .callers
                .iter()
                .any(|caller| caller.enclave.is_some()),
            None => CallerProof::unverified_kid(&proof.jws)
                .is_ok_and(|kid| self.caller_keys.contains(&kid)),
        }
    }

    /// The same, of a proof for a rotation: of those callers alone that may rotate some key.
    pub fn expects_rotation(&self, proof: &PresentedProof) -> bool {
        let rotating = |name: &String| {
            let identities = self.policy.identities.iter();
            let mut callers = identities.filter_map(|identity| identity.rotation_callers.as_ref());
            callers.any(|callers| callers.proven.contains(name))
        };
        let mut callers = self.policy.callers.iter();
        match &proof.document {
            Some(_) => callers.any(|caller| caller.enclave.is_some() && rotating(&caller.name)),
            None => CallerProof::unverified_kid(&proof.jws).is_ok_and(|kid| {
                callers.any(|caller| {
                    let key = caller.key.as_ref();
                    key.is_some_and(|key| key.0.thumbprint() == kid) && rotating(&caller.name)
                })
            }),
        }
    }

    /// Whether an approval names the key of an approver. Nothing is verified.
    pub fn expects_approval(&self, jws: &str) -> bool {
        CallerProof::unverified_kid(jws).is_ok_and(|kid| self.approver_keys.contains(&kid))
    }

    /// Whether anybody is named by executable.
    pub fn measures(&self) -> bool {
        self.annex().is_some_and(|annex| {
            annex
                .callers
                .iter()
                .any(|caller| !caller.executables.is_empty())
        })
    }
}

/// All that the policy says of callers.
pub(crate) fn all_callers(policy: &Bundle) -> impl Iterator<Item = &Callers> {
    policy
        .identities
        .iter()
        .flat_map(|identity| [Some(&identity.callers), identity.rotation_callers.as_ref()])
        .flatten()
}

#[cfg(test)]
mod tests {
    use identity::{BootId, Digest, PublicKey, Signature, Signer};

    use super::*;

    const POLICY: &str = "
version = 1
mode = 'development'
proxy_key = 'z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK'
operator_key = 'z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp'
";
    /// Keys that the policies below name, and one that they do not.
    const ROBOT: &str = "z6MkkgmuCCiYtMnMp5d9Zq7p6Bsy71Nxk4ddnfywzeGnFNeF";
    const ALICE: &str = "z6MktULudTtAsAhRegYPiZ6631RV3viv12qd4GQF8z1xB22S";
    const OTHER: &str = "z6Mko9hTggMwjSTEaJaPUfE6tqcy2xvU6BnNq3e3o8qVBiyH";

    /// A policy with this before its identities, which admit these callers, and have this besides.
    fn policy(before: &str, identities: &[(&str, &str)]) -> Bundle {
        let mut text = format!("{POLICY}{before}\n");
        for (index, (callers, rest)) in identities.iter().enumerate() {
            text += &format!(
                "[[identities]]\nname = 'agent{index}'\nenvironment = 'test'\ndid = 'did:key'\n\
                 algorithm = 'EdDSA'\nmax_validity_seconds = 600\ncallers = {callers}\n{rest}\n\
                 rules = [{{ name = 'any', actions = ['*'], targets = ['*'], resources = ['*'] }}]\n"
            );
        }
        Bundle::from_toml(&text).unwrap()
    }

    fn admission(callers: &str, annex: Option<&str>) -> Admission {
        let admission = Admission::new(policy("", &[(callers, "")]));
        if let Some(annex) = annex {
            admission.set_annex(described(annex));
        }
        admission
    }

    /// An annex that describes these callers.
    fn described(callers: &str) -> Annex {
        Annex::from_toml(&format!("version = 1\ncallers = [{callers}]")).unwrap()
    }

    fn own() -> u32 {
        geteuid().as_raw()
    }

    /// A user who is neither root nor ourselves.
    fn stranger() -> u32 {
        own() + 7
    }

    #[test]
    fn whoever_any_identity_names_is_admitted_and_nobody_else() {
        let ids = ObservedCaller::ids;
        let named = |name: &str| ObservedCaller::named(name);
        let at = |socket: &str| ObservedCaller {
            socket: Some(socket.into()),
            ..ids(7, 8)
        };
        let both = |name: &str, uid| ObservedCaller {
            name: Some(name.into()),
            ..ids(uid, 9)
        };
        let crew = Some("{ name = 'crew', uid = 7, socket = 'a' }");
        for (callers, annex, seen, admitted) in [
            ("{ uids = [1, 2] }", None, ids(2, 9), true),
            ("{ uids = [1, 2] }", None, ids(9, 2), false),
            ("{ uids = [1, 2] }", None, named("2"), false),
            ("{ gids = [2] }", None, ids(9, 2), true),
            ("{ gids = [2] }", None, ids(2, 9), false),
            ("{ names = ['crew'] }", None, named("crew"), true),
            ("{ names = ['crew'] }", None, named("crew2"), false),
            ("{ names = ['crew'] }", None, named(""), false),
            ("{ names = ['crew'] }", None, ids(7, 8), false),
            ("{ uids = [1], gids = [2] }", None, ids(1, 9), true),
            ("{ uids = [1], names = ['crew'] }", None, both("x", 1), true),
            (
                "{ uids = [1], names = ['crew'] }",
                None,
                both("x", 2),
                false,
            ),
            // Somebody of whom the annex says by what the name is known.
            ("{ names = ['crew'] }", crew, at("a"), true),
            ("{ names = ['crew'] }", crew, at("b"), false),
            ("{ names = ['crew'] }", crew, ids(7, 8), false),
            ("{ names = ['other'] }", crew, at("a"), false),
            ("{ uids = [1] }", crew, at("a"), false),
            // Nothing is known of it.
            ("{ uids = [1] }", crew, ObservedCaller::default(), false),
            // Root and our own user are operators, and callers only if named.
            ("{ uids = [1] }", None, ids(0, 0), false),
        ] {
            let admission = admission(callers, annex);
            assert_eq!(admission.admits(&seen), admitted, "{callers} {seen:?}");
        }
        let second = [
            ("{ uids = [1] }", "rotation_callers = { uids = [2] }"),
            ("{ uids = [3] }", "rotation_callers = { gids = [4] }"),
        ];
        let admission = Admission::new(policy("", &second));
        for (seen, admitted) in [
            (ids(1, 9), true),
            (ids(2, 9), true),
            (ids(3, 9), true),
            (ids(9, 4), true),
            (ids(4, 9), false),
            (ids(9, 3), false),
        ] {
            assert_eq!(admission.admits(&seen), admitted, "{seen:?}");
        }
    }

    #[test]
    fn a_later_annex_takes_the_place_of_the_one_before() {
        let admission = admission("{ names = ['crew', 'watch'] }", None);
        let seen = ObservedCaller::ids(stranger(), 8);
        assert!(!admission.admits(&seen));
        let with = |name: &str| format!("{{ name = '{name}', uid = {} }}", stranger());
        for (annex, admitted) in [
            (with("crew"), true),
            (String::new(), false),
            (with("watch"), true),
            (with("other"), false),
        ] {
            admission.set_annex(described(&annex));
            assert_eq!(admission.admits(&seen), admitted, "{annex}");
        }
    }

    #[test]
    fn nobody_who_would_be_admitted_is_refused_before_all_of_it_is_seen() {
        let executable = Digest([7; 32]);
        let by_executable = format!(
            "{{ name = 'crew', socket = 'a', executables = ['{}'] }}",
            "07".repeat(32)
        );
        let (unit, socket) = ("agent.service", "a");
        let annexes = [
            None,
            Some(""),
            Some("{ name = 'crew', uid = 1 }"),
            Some("{ name = 'crew', gid = 2 }"),
            Some("{ name = 'crew', uid = 1, gid = 2, unit = 'agent.service' }"),
            Some("{ name = 'crew', unit = 'agent.service' }, { name = 'x', uid = 3 }"),
            Some(by_executable.as_str()),
            Some("{ name = 'crew', uid = 3, socket = 'a' }, { name = 'crew', gid = 1 }"),
        ];
        let mut admitted = 0;
        for callers in [
            "{ uids = [1] }",
            "{ gids = [1] }",
            "{ names = ['crew'] }",
            "{ uids = [2], names = ['crew'] }",
        ] {
            for annex in annexes {
                let admission = admission(callers, annex);
                for (uid, gid) in (0..4).flat_map(|uid| (0..4).map(move |gid| (uid, gid))) {
                    for more in 0..8 {
                        let seen = ObservedCaller {
                            unit: (more & 1 != 0).then(|| unit.into()),
                            socket: (more & 2 != 0).then(|| socket.into()),
                            executable: (more & 4 != 0).then_some(executable),
                            ..ObservedCaller::ids(uid, gid)
                        };
                        if admission.admits(&seen) {
                            admitted += 1;
                            let may = admission.may_admit(uid, gid);
                            assert!(may, "{callers} {annex:?} {seen:?}");
                        }
                    }
                }
            }
        }
        assert!(admitted > 100, "{admitted}");
    }

    #[test]
    fn who_cannot_be_named_by_its_ids_is_refused_at_once_but_never_an_operator() {
        let (a, b, c) = (stranger(), stranger() + 1, stranger() + 2);
        let named = "{ names = ['crew'] }";
        let by = |rest: &str| Some(format!("{{ name = 'crew', {rest} }}"));
        for (callers, annex, ids, may) in [
            (format!("{{ uids = [{a}] }}"), None, (a, c), true),
            (format!("{{ uids = [{a}] }}"), None, (b, a), false),
            (format!("{{ gids = [{a}] }}"), None, (c, a), true),
            (format!("{{ gids = [{a}] }}"), None, (a, c), false),
            (named.into(), None, (a, a), false),
            (named.into(), by(&format!("uid = {a}")), (a, c), true),
            (named.into(), by(&format!("uid = {a}")), (b, a), false),
            (named.into(), by(&format!("gid = {a}")), (c, a), true),
            (named.into(), by(&format!("gid = {a}")), (a, c), false),
            (
                named.into(),
                by(&format!("uid = {a}, gid = {b}")),
                (a, b),
                true,
            ),
            (
                named.into(),
                by(&format!("uid = {a}, gid = {b}")),
                (a, c),
                false,
            ),
            (
                named.into(),
                by(&format!("uid = {a}, gid = {b}")),
                (c, b),
                false,
            ),
            // By something else alone: anybody might be it.
            (named.into(), by("unit = 'agent.service'"), (c, c), true),
            (named.into(), by("socket = 'a'"), (c, c), true),
        ] {
            let admission = admission(&callers, annex.as_deref());
            let (uid, gid) = ids;
            assert_eq!(
                admission.may_admit(uid, gid),
                may,
                "{callers} {annex:?} {ids:?}"
            );
            for operator in [0, own()] {
                assert!(admission.may_admit(operator, c), "{operator}");
            }
        }
    }

    #[test]
    fn operators_are_root_and_ourselves_and_whom_the_configuration_names() {
        let operators = Operators {
            uids: vec![stranger()],
            names: vec!["prometheus".into()],
        };
        let ids = |uid| ObservedCaller::ids(uid, 0);
        let named = ObservedCaller::named;
        for (seen, included) in [
            (ids(0), true),
            (ids(own()), true),
            (ids(stranger()), true),
            (ids(stranger() + 1), false),
            (named("prometheus"), true),
            (named("crew"), false),
            (named("0"), false),
            // Who has a socket of its own is the agent that it is for.
            (
                ObservedCaller {
                    socket: Some("agent".into()),
                    ..ids(0)
                },
                false,
            ),
            // A group makes no operator.
            (
                ObservedCaller {
                    uid: None,
                    ..ids(0)
                },
                false,
            ),
            (ObservedCaller::default(), false),
        ] {
            assert_eq!(operators.include(&seen), included, "{seen:?}");
        }
        let nobody_named = Operators::default();
        assert!(!nobody_named.include(&ids(stranger())));
        assert!(!nobody_named.include(&named("prometheus")));
        assert!(nobody_named.include(&ids(0)));
    }

    /// A key of which only the public half is known: its signatures do not verify.
    struct Pretended(PublicKey);

    impl Signer for Pretended {
        type Error = identity::Error;

        fn public_key(&self) -> &PublicKey {
            &self.0
        }

        fn sign(&self, _: &identity::Message) -> Result<Signature, Self::Error> {
            Ok([0; 64])
        }
    }

    /// A proof that names the key, by which it is not signed.
    fn jws(key: &str) -> String {
        let proof = CallerProof {
            boot_id: BootId::new([1; 16]),
            exp: 0,
            jti: Default::default(),
            key_version: 1,
            request: Digest([2; 32]),
        };
        let key = PublicKey::from_multikey(key).unwrap();
        proof.sign(&Pretended(key)).unwrap()
    }

    #[test]
    fn of_proofs_for_a_rotation_only_those_of_callers_that_may_rotate_go_on() {
        let zeros = "0".repeat(96);
        let pcrs = format!("pcr0 = '{zeros}', pcr1 = '{zeros}', pcr2 = '{zeros}'");
        let callers = format!(
            "callers = [{{ name = 'robot', key = '{ROBOT}' }}, {{ name = 'peer', enclave = {{ {pcrs} }} }}]"
        );
        for (rotating, by_key, by_document) in [
            ("", false, false),
            ("rotation_callers = { uids = [2] }", false, false),
            ("rotation_callers = { proven = ['robot'] }", true, false),
            ("rotation_callers = { proven = ['peer'] }", false, true),
        ] {
            let identities = [("{ uids = [1], proven = ['robot', 'peer'] }", rotating)];
            let admission = Admission::new(policy(&callers, &identities));
            let expects = |key, document: Option<&[u8]>| {
                admission.expects_rotation(&PresentedProof {
                    jws: jws(key),
                    document: document.map(Into::into),
                })
            };
            assert_eq!(expects(ROBOT, None), by_key, "{rotating}");
            assert!(!expects(OTHER, None), "{rotating}");
            assert_eq!(expects(OTHER, Some(b"any")), by_document, "{rotating}");
        }
    }

    #[test]
    fn only_proofs_and_approvals_that_name_what_the_policy_names_go_on_to_the_enclave() {
        let robot = format!("{{ name = 'robot', key = '{ROBOT}' }}");
        let zeros = "0".repeat(96);
        let pcrs = format!("pcr0 = '{zeros}', pcr1 = '{zeros}', pcr2 = '{zeros}'");
        let peer = format!("{{ name = 'peer', enclave = {{ {pcrs} }} }}");
        let alice = format!("approvers = [{{ name = 'alice', key = '{ALICE}' }}]");
        let nobody = [("{ uids = [1] }", "")];
        let keys = [ROBOT, ALICE, OTHER];
        for (before, proofs, documents, approvals) in [
            (String::new(), [false; 3], false, [false; 3]),
            (
                format!("callers = [{robot}]"),
                [true, false, false],
                false,
                [false; 3],
            ),
            (format!("callers = [{peer}]"), [false; 3], true, [false; 3]),
            (
                format!("callers = [{peer}, {robot}]\n{alice}"),
                [true, false, false],
                true,
                [false, true, false],
            ),
            (alice.clone(), [false; 3], false, [false, true, false]),
        ] {
            let admission = Admission::new(policy(&before, &nobody));
            let expects = |document: Option<&[u8]>| {
                keys.map(|key| {
                    admission.expects_proof(&PresentedProof {
                        jws: jws(key),
                        document: document.map(Into::into),
                    })
                })
            };
            assert_eq!(expects(None), proofs, "{before}");
            // Whose key it is, only the enclave can tell of a document.
            assert_eq!(expects(Some(b"any")), [documents; 3], "{before}");
            let approved = keys.map(|key| admission.expects_approval(&jws(key)));
            assert_eq!(approved, approvals, "{before}");
            let any = before.contains("callers");
            assert_eq!(admission.expects_proofs(), any, "{before}");
            for bad in ["", "a.b.c", "e30.e30.", &jws(ROBOT)[1..]] {
                assert!(!admission.expects_approval(bad), "{bad}");
                let proof = PresentedProof {
                    jws: bad.into(),
                    document: None,
                };
                assert!(!admission.expects_proof(&proof), "{bad}");
            }
        }
    }

    #[test]
    fn executables_are_measured_only_where_somebody_is_named_by_one() {
        let digest = "07".repeat(32);
        let crew = "{ name = 'crew', uid = 1 }";
        for (annex, measures) in [
            (None, false),
            (Some(String::new()), false),
            (Some(crew.to_owned()), false),
            (
                Some(format!(
                    "{crew}, {{ name = 'x', uid = 2, executables = ['{digest}'] }}"
                )),
                true,
            ),
        ] {
            let admission = admission("{ names = ['crew'] }", annex.as_deref());
            assert_eq!(admission.measures(), measures, "{annex:?}");
        }
    }

    #[test]
    fn root_and_ourselves_are_no_strangers_whoever_we_are() {
        for (own, uid, is) in [
            (0, 0, true),
            (0, 7, false),
            (7, 0, true),
            (7, 7, true),
            (7, 8, false),
        ] {
            assert_eq!(is_root_or(own, uid), is, "{own} {uid}");
        }
    }

    #[test]
    fn the_identities_that_somebody_may_use_are_those_that_name_them() {
        let identities = [
            ("{ uids = [1, 2] }", ""),
            ("{ uids = [2] }", "rotation_callers = { uids = [1] }"),
            ("{ names = ['crew'] }", ""),
        ];
        let admission = Admission::new(policy("", &identities));
        let usable = |uid| {
            let usable = admission.usable(&ObservedCaller::ids(uid, 9));
            let names = usable.iter().map(|identity| identity.name.clone());
            names.collect::<Vec<_>>()
        };
        assert_eq!(usable(1), ["agent0"]);
        assert_eq!(usable(2), ["agent0", "agent1"]);
        assert_eq!(usable(3), [""; 0]);
        admission.set_annex(described("{ name = 'crew', uid = 3 }"));
        assert_eq!(usable(3), ["agent2"]);
    }
}
