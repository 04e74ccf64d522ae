//! A verifier's own policy, archives, and verdicts in other forms.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use attestation::archive::{Anchored, TimeAnchor, anchored_digest};
use attestation::results::{About, NoRecord, ear, trace};
use attestation::{AppraisalPolicy, Evidence, Expectations, Outcome, Step, Subject, Verifier};
use harness::program;
use identity::{Digest, PublicKey, UnixSeconds};
use serde_json::{Value, json};

use crate::commands::Files;

/// The measured registers of the mock, the policy's digest and the DID, for templates.
struct Facts {
    pcrs: [String; 3],
    pcr16: String,
    digest: String,
    did: String,
    certificate: (String, String),
}

fn facts(files: &Files) -> Facts {
    let (code, verdict) = files.verify(
        "token",
        &[&strs(&files.everything())[..], &["--inspect"]].concat(),
    );
    assert_eq!(code, 0, "{verdict}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let certificate = &verdict["certificates"][3];
    Facts {
        pcrs: ["0", "1", "2"].map(|index| text(&verdict["pcrs"][index])),
        pcr16: text(&verdict["pcrs"]["16"]),
        digest: text(&verdict["key"]["policy"]),
        did: text(&verdict["key"]["did"]),
        certificate: (text(&certificate["issuer"]), text(&certificate["serial"])),
    }
}

fn strs(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

fn policy(facts: &Facts) -> String {
    let [pcr0, pcr1, pcr2] = &facts.pcrs;
    let (digest, did) = (&facts.digest, &facts.did);
    format!(
        "version = 1\nmax_age = \"10m\"\ndids = [\"{did}\"]\nissuers = [\"{did}\"]\n\
         [[images]]\nlabel = \"signer 0.1.0\"\nregisters = {{ PCR0 = \"{pcr0}\", PCR1 = \"{pcr1}\", PCR2 = \"{pcr2}\" }}\n\
         [[bundles]]\nlabel = \"production\"\ndigest = \"{digest}\"\n"
    )
}

#[test]
fn a_verifiers_policy_decides_what_is_accepted() {
    let files = Files::make();
    let facts = facts(&files);
    let good = policy(&facts);
    let root = files.running.state.root();
    let judged = |policy: &str, what: &str, more: &[&str]| {
        let file = files.path("verifier.toml");
        std::fs::write(&file, policy).unwrap();
        let base = [
            "--verifier-policy",
            file.to_str().unwrap(),
            "--allow-mock",
            "--root",
            root.to_str().unwrap(),
        ];
        let (code, verdict) = files.verify(what, &[&base[..], more].concat());
        let said = if code == 0 {
            &verdict["verdict"]
        } else {
            &verdict["error"]["code"]
        };
        said.as_str().unwrap().to_owned()
    };
    let nonce = ["--nonce", &files.nonce];
    for what in ["evidence", "token", "credential"] {
        assert_eq!(judged(&good, what, &nonce), "mock", "{what}");
    }
    assert_eq!(
        judged(&good, "document", &nonce),
        "unchecked",
        "it names identities, and a document alone has none"
    );
    let anybody = good.replace(&format!("dids = [\"{}\"]\n", facts.did), "");
    assert_eq!(judged(&anybody, "document", &nonce), "mock");
    assert_eq!(
        judged(&good, "token", &[]),
        "unchecked",
        "a nonce is required where the policy does not say otherwise"
    );
    assert_eq!(
        judged(&format!("nonce = \"optional\"\n{good}"), "token", &[]),
        "mock"
    );
    assert_eq!(
        judged(&good, "token", &["--nonce", &"cd".repeat(32)]),
        "nonce_mismatch"
    );
    let [pcr0, ..] = &facts.pcrs;
    let other = "ab".repeat(48);
    let other_did = "did:web:somebody.example.com";
    let pcr3 = |value: &str| good.replace("PCR0 =", &format!("PCR3 = \"{value}\", PCR0 ="));
    for (changed, expected) in [
        (good.replace(pcr0, &other), "measurement_mismatch"),
        (pcr3(&"00".repeat(48)), "mock"),
        (pcr3(&other), "measurement_mismatch"),
        (
            good.replace("PCR0 =", &format!("PCR4 = \"{other}\", PCR0 =")),
            "measurement_mismatch",
        ),
        (
            good.replace("PCR0 =", &format!("PCR8 = \"{other}\", PCR0 =")),
            "measurement_mismatch",
        ),
        (good.replace(&facts.digest, &other), "policy_mismatch"),
        (
            good.replace(
                &format!("digest = \"{}\"", facts.digest),
                &format!("PCR16 = \"{}\"", facts.pcr16),
            ),
            "mock",
        ),
        (
            good.replace(
                &format!("digest = \"{}\"", facts.digest),
                &format!("PCR16 = \"{other}\""),
            ),
            "policy_mismatch",
        ),
        (
            good.replace(
                &format!("dids = [\"{}\"]", facts.did),
                &format!("dids = [\"{other_did}\"]"),
            ),
            "did_not_accepted",
        ),
        (
            good.replace(
                &format!("issuers = [\"{}\"]", facts.did),
                &format!("issuers = [\"{other_did}\"]"),
            ),
            "issuer_not_accepted",
        ),
        (
            format!("audience = \"https://tool.example\"\n{good}"),
            "audience_mismatch",
        ),
        (format!("lowest_epoch = 1\n{good}"), "epoch_absent"),
        (good.replace("version = 1", "version = 2"), ""),
    ] {
        if !expected.is_empty() {
            assert_eq!(judged(&changed, "token", &nonce), expected, "{changed}");
        }
    }
    let later = harness::now().plus(601).to_string();
    assert_eq!(
        judged(&good, "document", &[&nonce[..], &["--at", &later]].concat()),
        "too_old"
    );
    assert_eq!(
        judged(
            &good,
            "document",
            &[&nonce[..], &["--at", &later, "--max-age", "1h"]].concat()
        ),
        "too_old",
        "the lesser age"
    );
    // What the command line names must hold besides.
    let measurements = files.running.state.measurements();
    let with = |name: &str| {
        [&nonce[..], &["--measurements", name]]
            .concat()
            .iter()
            .map(|s| (*s).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        judged(&good, "token", &strs(&with(measurements.to_str().unwrap()))),
        "mock"
    );
    let text = std::fs::read_to_string(&measurements)
        .unwrap()
        .replace(pcr0, &other);
    std::fs::write(files.path("other.json"), text).unwrap();
    assert_eq!(
        judged(
            &good,
            "token",
            &strs(&with(files.path("other.json").to_str().unwrap()))
        ),
        "measurement_mismatch"
    );
    // Deny lists win over everything that is accepted.
    let (issuer, serial) = &facts.certificate;
    let denied = |list: &str| format!("{good}[[deny.{list}\n");
    for (list, expected) in [
        (
            format!("images]]\nreason = \"a leak\"\nregisters = {{ PCR0 = \"{pcr0}\" }}"),
            "measurement_denied",
        ),
        (
            format!(
                "images]]\nreason = \"a leak\"\nregisters = {{ PCR2 = \"{}\" }}",
                facts.pcrs[2]
            ),
            "measurement_denied",
        ),
        (
            format!(
                "images]]\nreason = \"a leak\"\nregisters = {{ PCR2 = \"{}\", PCR0 = \"{other}\" }}",
                facts.pcrs[2]
            ),
            "mock",
        ),
        (
            format!(
                "certificates]]\nreason = \"stolen\"\nissuer = \"{issuer}\"\nserial = \"{serial}\""
            ),
            "certificate_denied",
        ),
        (
            format!(
                "certificates]]\nreason = \"stolen\"\nissuer = \"{issuer}\"\nserial = \"01{serial}\""
            ),
            "mock",
        ),
        (
            format!(
                "certificates]]\nreason = \"stolen\"\nissuer = \"CN=else\"\nserial = \"{serial}\""
            ),
            "mock",
        ),
    ] {
        assert_eq!(judged(&denied(&list), "token", &nonce), expected, "{list}");
    }
}

#[test]
fn mistakes_in_a_verifiers_policy_are_named() {
    let digest = "ab".repeat(48);
    let registers =
        format!("registers = {{ PCR0 = \"{digest}\", PCR1 = \"{digest}\", PCR2 = \"{digest}\" }}");
    let image = format!("version = 1\n[[images]]\nlabel = \"a\"\n{registers}\n");
    assert!(AppraisalPolicy::from_toml(image.as_bytes()).is_ok());
    for (text, says) in [
        (String::new(), "version"),
        ("version = 2".into(), "version"),
        ("version = 1\ncolour = \"red\"".into(), "colour"),
        ("version = 1\nnonce = \"perhaps\"".into(), "perhaps"),
        ("version = 1\nmax_age = \"soon\"".into(), "max_age"),
        ("version = 1\nmax_age = \"-1m\"".into(), "negative"),
        ("version = 1\ndids = []".into(), "empty"),
        ("version = 1\ndids = [\"did:ion:x\"]".into(), "did"),
        ("version = 1\nissuers = []".into(), "empty"),
        ("version = 1\nlowest_epoch = -1".into(), "lowest_epoch"),
        (image.replace(&format!("PCR2 = \"{digest}\""), ""), "PCR0"),
        (image.replacen(&digest, &"00".repeat(48), 1), "zero"),
        (image.replacen(&digest, "ab", 1), "48"),
        (image.replace("PCR0", "PCR5"), "PCR5"),
        ("version = 1\n[[bundles]]\nlabel = \"a\"".into(), "either"),
        (format!("version = 1\n[[bundles]]\nlabel = \"a\"\ndigest = \"{digest}\"\nPCR16 = \"{digest}\""), "either"),
        ("version = 1\n[[deny.images]]\nreason = \"a\"\nregisters = {}".into(), "no register"),
        ("version = 1\n[[deny.certificates]]\nreason = \"a\"\nissuer = \"=\"\nserial = \"01\"".into(), "distinguished name"),
        ("version = 1\n[[deny.certificates]]\nreason = \"a\"\nissuer = \"CN=a\"\nserial = \"0X\"".into(), "hex"),
        ("version = 1\n[[deny.certificates]]\nreason = \"a\"\nissuer = \"CN=a\"\nserial = \"\"".into(), "hex"),
    ] {
        let refused = AppraisalPolicy::from_toml(text.as_bytes()).unwrap_err();
        assert_eq!(refused.code(), "appraisal_policy_malformed");
        assert!(refused.to_string().contains(says), "{text}: {refused}");
    }
    assert!(AppraisalPolicy::from_toml(&[0xff]).is_err());
    assert!(AppraisalPolicy::from_toml(&vec![b'#'; 300_000]).is_err());
}

/// A time-stamping authority that OpenSSL plays.
struct Authority {
    folder: tempfile::TempDir,
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl")
        .current_dir(folder)
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Authority {
    /// `key` is what `openssl genpkey` takes; `usage` the extended key usage of the authority.
    fn new(key: &[&str], usage: &str) -> Self {
        let folder = harness::private_folder();
        let config = format!(
            "[req]\ndistinguished_name = dn\n[dn]\n\
             [ca]\nbasicConstraints = critical,CA:true\nkeyUsage = critical,keyCertSign\nsubjectKeyIdentifier = hash\n\
             [tsa_cert]\nextendedKeyUsage = {usage}\nkeyUsage = critical,digitalSignature\n\
             [tsa]\ndefault_tsa = t\n[t]\nserial = serial\nsigner_digest = sha256\ndefault_policy = 1.2.3.4\n\
             digests = sha256, sha512\naccuracy = secs:1, millisecs:500\ness_cert_id_alg = sha256\n"
        );
        std::fs::write(folder.path().join("c.cnf"), config).unwrap();
        let at = |arguments: &[&str]| openssl(folder.path(), arguments);
        at(&[&["genpkey", "-out", "ca.key"], key].concat());
        at(&[
            "req",
            "-x509",
            "-config",
            "c.cnf",
            "-extensions",
            "ca",
            "-key",
            "ca.key",
            "-subj",
            "/CN=root of time",
            "-days",
            "2",
            "-out",
            "ca.pem",
        ]);
        at(&[&["genpkey", "-out", "tsa.key"], key].concat());
        at(&[
            "req",
            "-new",
            "-config",
            "c.cnf",
            "-key",
            "tsa.key",
            "-subj",
            "/CN=clock of the town hall",
            "-out",
            "tsa.csr",
        ]);
        #[rustfmt::skip]
        at(&["x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "c.cnf",
            "-extensions", "tsa_cert", "-out", "tsa.pem"]);
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A time-stamp over these bytes, made now.
    fn stamp(&self, bytes: &[u8], digest: &str) -> PathBuf {
        std::fs::write(self.file("data"), bytes).unwrap();
        let at = |arguments: &[&str]| openssl(self.folder.path(), arguments);
        at(&[
            "ts", "-query", "-data", "data", digest, "-cert", "-out", "q.tsq",
        ]);
        #[rustfmt::skip]
        at(&["ts", "-reply", "-config", "c.cnf", "-section", "t", "-queryfile", "q.tsq", "-signer", "tsa.pem", "-inkey", "tsa.key",
            "-out", "r.tsr"]);
        self.file("r.tsr")
    }

    /// The statement of another authority's time-stamp, signed by this one: a TimeStampToken.
    fn sign_again(&self, stamp: &Path, more: &[&str]) -> PathBuf {
        let at = |arguments: &[&str]| openssl(self.folder.path(), arguments);
        at(&[
            "ts",
            "-reply",
            "-in",
            stamp.to_str().unwrap(),
            "-token_out",
            "-out",
            "theirs",
        ]);
        at(&[
            "cms",
            "-verify",
            "-noverify",
            "-binary",
            "-inform",
            "DER",
            "-in",
            "theirs",
            "-out",
            "statement",
        ]);
        #[rustfmt::skip]
        let sign = ["cms", "-sign", "-binary", "-nodetach", "-in", "statement", "-econtent_type", "1.2.840.113549.1.9.16.1.4",
            "-signer", "tsa.pem", "-inkey", "tsa.key", "-outform", "DER", "-out", "ours"];
        at(&[&sign[..], more].concat());
        self.file("ours")
    }
}

#[test]
fn what_is_older_than_its_leaf_needs_a_witness_of_its_time() {
    let files = Files::make();
    let document = std::fs::read(files.path("document")).unwrap();
    let token = std::fs::read_to_string(files.path("token")).unwrap();
    let bytes = [&document[..], token.trim_end().as_bytes()].concat();
    let later = harness::now().plus(30 * 86_400).to_string();
    let everything = files.everything();
    let judged = |what: &str, stamp: Option<(&Path, &Path)>, at: &str| {
        let mut arguments = strs(&everything);
        arguments.extend(["--at", at]);
        if let Some((stamp, root)) = stamp {
            arguments.extend([
                "--timestamp",
                stamp.to_str().unwrap(),
                "--timestamp-root",
                root.to_str().unwrap(),
            ]);
        }
        files.verify(what, &arguments).1
    };
    assert_eq!(
        judged("token", None, &later)["error"]["code"],
        "certificate_expired"
    );
    for (key, usage) in [
        (
            &["-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048"][..],
            "critical,timeStamping",
        ),
        (
            &["-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            "critical,timeStamping",
        ),
    ] {
        let authority = Authority::new(key, usage);
        let (stamp, root) = (authority.stamp(&bytes, "-sha256"), authority.file("ca.pem"));
        let verdict = judged("token", Some((&stamp, &root)), &later);
        assert_eq!(verdict["verdict"], "mock", "{verdict}");
        assert_eq!(verdict["archive"]["anchor"], "rfc3161");
        assert_eq!(
            verdict["anchor_digest"],
            identity::sha256(&bytes).to_string()
        );
        assert_eq!(verdict["archive"]["witness"], "CN=clock of the town hall");
        assert_eq!(
            judged("token", Some((&stamp, &root)), "2020-01-01T00:00:00Z")["error"]["code"],
            "anchor_from_future"
        );
        assert_eq!(
            judged("credential", Some((&stamp, &root)), &later)["error"]["code"],
            "timestamp_imprint",
            "of other bytes"
        );
        let other = Authority::new(key, usage);
        assert_eq!(
            judged("token", Some((&stamp, &other.file("ca.pem"))), &later)["error"]["code"],
            "timestamp_untrusted"
        );
        // One bit anywhere: refused, and never as anything but a typed error.
        let good = std::fs::read(&stamp).unwrap();
        let (mut refused, mut all) = (0, 0);
        for at in (0..good.len()).step_by(7) {
            all += 1;
            let mut flipped = good.clone();
            flipped[at] ^= 4;
            let judged =
                attestation::archive::TimeStamp::new(&flipped, &[std::fs::read(&root).unwrap()])
                    .and_then(|stamp| {
                        stamp.prove(&anchored_digest(&document, token.trim_end().as_bytes()))
                    });
            // Bits that no signature covers: what the response says around the token, or
            // certificates that nobody needs.
            match judged {
                Ok(anchored) => {
                    assert_eq!(anchored.witness, "CN=clock of the town hall", "byte {at}")
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused * 10 > all * 9, "{refused} of {all}");
    }
    let ec = ["-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let good = Authority::new(&ec, "critical,timeStamping");
    // The same statement signed again as CMS by others, who may or may not make time-stamps.
    for (usage, more, expected) in [
        ("critical,timeStamping", &["-cades"][..], None),
        ("timeStamping", &["-cades"], Some("timestamp_untrusted")),
        (
            "critical,timeStamping,codeSigning",
            &["-cades"],
            Some("timestamp_untrusted"),
        ),
        (
            "critical,codeSigning",
            &["-cades"],
            Some("timestamp_untrusted"),
        ),
        ("critical,timeStamping", &[], Some("timestamp_signature")),
        (
            "critical,timeStamping",
            &["-noattr"],
            Some("timestamp_signature"),
        ),
        (
            "critical,timeStamping",
            &["-cades", "-md", "sha1"],
            Some("timestamp_signature"),
        ),
    ] {
        let authority = Authority::new(&ec, usage);
        let token = authority.sign_again(&good.stamp(&bytes, "-sha256"), more);
        let verdict = judged("token", Some((&token, &authority.file("ca.pem"))), &later);
        assert_eq!(
            verdict["error"]["code"].as_str(),
            expected,
            "{usage} {more:?}: {verdict}"
        );
    }
    let authority = Authority::new(
        &["-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "critical,timeStamping",
    );
    let stamp = authority.stamp(&bytes, "-sha512");
    assert_eq!(
        judged("token", Some((&stamp, &authority.file("ca.pem"))), &later)["error"]["code"],
        "timestamp_imprint"
    );
}

/// A witness that says what a test wants, as the checkpoint of a log might.
#[derive(Debug)]
struct Checkpoint(UnixSeconds);

impl TimeAnchor for Checkpoint {
    fn kind(&self) -> &'static str {
        "checkpoint"
    }

    fn prove(&self, _: &Digest<32>) -> Result<Anchored, attestation::Error> {
        Ok(Anchored {
            time: self.0,
            witness: "a log".into(),
        })
    }
}

#[test]
fn a_witness_counts_only_within_the_leafs_validity() {
    let files = Files::make();
    let evidence = std::fs::read(files.path("evidence")).unwrap();
    let token = std::fs::read_to_string(files.path("token")).unwrap();
    let nonce = data_encoding::HEXLOWER
        .decode(files.nonce.as_bytes())
        .unwrap();
    let verifier = files.running.verifier();
    let subject = Subject::Token {
        token: token.trim_end(),
        evidence: &evidence,
    };
    let made =
        attestation::unverified_time(Evidence::parse(&evidence).unwrap().document()).unwrap();
    let judged = |seen: i64| {
        let (anchor, at) = (
            Some(Arc::new(Checkpoint(made.plus(seen))) as _),
            made.plus(100 * 86_400),
        );
        let judged = Verifier {
            anchor,
            at,
            ..verifier.expecting(&nonce)
        }
        .judge(subject);
        judged
            .map(|verdict| verdict.archive.unwrap().anchor)
            .map_err(|refusal| refusal.code())
    };
    // The mock's leaf may have been made a little before the document.
    assert_eq!(judged(0), Ok("checkpoint"));
    assert_eq!(judged(3 * 3600 - 60), Ok("checkpoint"));
    assert_eq!(judged(3 * 3600 + 4), Err("anchor_outside_leaf"));
    assert_eq!(judged(-6), Err("anchor_too_early"));
    assert_eq!(judged(200 * 86_400), Err("anchor_from_future"));
    // An age is that of the document when it was seen.
    let (anchor, at) = (
        Some(Arc::new(Checkpoint(made.plus(700))) as _),
        made.plus(800),
    );
    let expectations = Expectations {
        max_age_seconds: Some(600),
        ..verifier.expectations(&nonce)
    };
    let verifier = Verifier {
        anchor,
        at,
        expectations,
        ..verifier.expecting(&nonce)
    };
    assert_eq!(verifier.judge(subject).unwrap_err().code(), "too_old");
}

#[test]
fn every_step_is_listed_with_what_became_of_it() {
    let files = Files::make();
    let everything = files.everything();
    let outcomes = |verdict: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        verdict["checks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| (text(&c["step"]), text(&c["outcome"])))
            .collect()
    };
    let (_, good) = files.verify("token", &strs(&everything));
    let all = outcomes(&good);
    let find = |all: &[(String, String)], step: &str| {
        all.iter().find(|(name, _)| name == step).unwrap().1.clone()
    };
    for step in [
        "root",
        "chain",
        "document_signature",
        "nonce",
        "measurements",
        "policy",
        "binding",
        "possession",
        "signature",
        "validity",
    ] {
        assert_eq!(find(&all, step), "passed", "{step}");
    }
    for step in ["mode", "deny_lists", "age", "identity", "replay"] {
        assert_eq!(find(&all, step), "not_checked", "{step}");
    }
    let steps: Vec<Step> = <Step as strum::IntoEnumIterator>::iter().collect();
    let place = |name: &str| steps.iter().position(|step| step.as_str() == name).unwrap();
    assert!(
        all.windows(2)
            .all(|pair| place(&pair[0].0) < place(&pair[1].0)),
        "in their order: {all:?}"
    );
    assert_eq!(all.len(), steps.len() - 1, "each but the witness of time");
    // A refusal says how far it came.
    let wrong: Vec<String> = everything
        .iter()
        .map(|a| {
            if *a == files.nonce {
                "cd".repeat(32)
            } else {
                a.clone()
            }
        })
        .collect();
    let (code, refused) = files.verify("token", &strs(&wrong));
    let refused = outcomes(&refused);
    assert_eq!(code, 1);
    assert_eq!(
        (find(&refused, "document_time"), find(&refused, "nonce")),
        ("passed".into(), "failed".into())
    );
    assert_eq!(
        (find(&refused, "measurements"), find(&refused, "signature")),
        ("not_reached".into(), "not_reached".into())
    );
    assert_eq!(
        refused
            .iter()
            .filter(|(_, outcome)| outcome == "failed")
            .count(),
        1
    );
    // And to a person.
    let mut command = Command::new(program("anchorhold-verify"));
    command
        .arg("token")
        .arg(files.path("token"))
        .arg("--evidence")
        .arg(files.path("evidence"))
        .args(&everything);
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    for says in [
        "ACCEPTED as mock: made by a MOCK",
        "passed       nonce",
        "NOT CHECKED  replay",
        "What it does not say",
        "no copy of an old one",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    assert!(!text.contains('\x1b'), "colours are for terminals");
}

/// The verdict over good evidence, as a library gives it.
fn verdict(files: &Files) -> (attestation::Verdict, Vec<u8>) {
    let evidence = std::fs::read(files.path("evidence")).unwrap();
    let nonce = data_encoding::HEXLOWER
        .decode(files.nonce.as_bytes())
        .unwrap();
    let verifier = files.running.verifier();
    (
        verifier
            .expecting(&nonce)
            .judge(Subject::Evidence(&evidence))
            .unwrap(),
        evidence,
    )
}

#[test]
fn an_ear_never_affirms_a_mock_debug_mode_or_what_was_only_looked_at() {
    let files = Files::make();
    let (mut verdict, evidence) = verdict(&files);
    let claims = ear(
        &Ok(verdict.clone()),
        harness::now(),
        About::Evidence(&evidence),
    );
    assert_eq!(claims["eat_profile"], "tag:ietf.org,2026:rats/ear#04");
    let said = |claims: &Value| {
        let submodule = &claims["submods"]["nitro-enclave"];
        (
            submodule["ear_status"].as_str().unwrap().to_owned(),
            submodule["ear_trustworthiness_vector"].clone(),
        )
    };
    // What a mock says of itself means nothing.
    assert_eq!(
        said(&claims),
        ("contraindicated".into(), json!({"hardware": 97}))
    );
    let vector =
        json!({"hardware": 2, "executables": 3, "configuration": 2, "instance-identity": 2});
    // What the same verdict would say of hardware: no hardware made it, the test changes the word.
    verdict.verdict = "genuine";
    assert_eq!(
        said(&ear(
            &Ok(verdict.clone()),
            harness::now(),
            About::Evidence(&evidence)
        )),
        ("affirming".into(), vector.clone())
    );
    let mut looked = verdict.clone();
    looked.unchecked.push(attestation::Unchecked::Nonce);
    assert_eq!(
        said(&ear(
            &Ok(looked),
            harness::now(),
            About::Evidence(&evidence)
        ))
        .0,
        "none"
    );
    // What is from an archive was trusted then; what answered no challenge of the verifier may be a
    // copy.
    let mut old = verdict.clone();
    let archive = attestation::Archive {
        anchor: "rfc3161",
        time: harness::now(),
        witness: "a clock".into(),
    };
    old.archive = Some(archive);
    assert_eq!(
        said(&ear(
            &Ok(old.clone()),
            harness::now(),
            About::Evidence(&evidence)
        )),
        ("none".into(), vector)
    );
    assert_eq!(trace(&old, harness::now()), Err(NoRecord::Archive));
    let mut copy = verdict.clone();
    copy.checks.retain(|check| check.step != Step::Nonce);
    assert_eq!(
        said(&ear(&Ok(copy), harness::now(), About::Evidence(&evidence))).0,
        "none"
    );
    let alone = ear(&Ok(verdict.clone()), harness::now(), About::Document(b"x"));
    assert_eq!(
        alone["ear_raw_evidence"],
        json!(["application/cose; cose-type=\"cose-sign1\"", "eA"])
    );
    verdict.verdict = "debug";
    let debug = said(&ear(
        &Ok(verdict),
        harness::now(),
        About::Evidence(&evidence),
    ));
    assert_eq!(
        (debug.0.as_str(), &debug.1["runtime-opaque"]),
        ("contraindicated", &json!(96))
    );
    // Refusals, each in its place of the vector.
    let everything = files.everything();
    let ear_of = |arguments: &[&str]| -> (Option<i32>, Value) {
        let mut command = Command::new(program("anchorhold-verify"));
        command
            .arg("evidence")
            .arg(files.path("evidence"))
            .arg("--ear")
            .args(arguments);
        let output = command.output().unwrap();
        (
            output.status.code(),
            serde_json::from_slice(&output.stdout).unwrap(),
        )
    };
    let (code, claims) = ear_of(&strs(&everything));
    assert_eq!(
        (code, said(&claims).0.as_str()),
        (Some(0), "contraindicated")
    );
    let (code, claims) = ear_of(&["--nonce", &files.nonce]);
    assert_eq!(
        (code, said(&claims)),
        (Some(1), ("contraindicated".into(), json!({"hardware": 99})))
    );
    let wrong: Vec<String> = everything
        .iter()
        .map(|a| {
            if *a == files.nonce {
                "cd".repeat(32)
            } else {
                a.clone()
            }
        })
        .collect();
    // An old challenge says nothing of the enclave.
    assert_eq!(said(&ear_of(&strs(&wrong)).1), ("none".into(), Value::Null));
    let without: Vec<&str> = strs(&everything).into_iter().skip(2).collect();
    let (code, claims) = ear_of(&without);
    assert_eq!(
        (code, said(&claims)),
        (Some(1), ("none".into(), Value::Null))
    );
}

#[test]
fn an_ear_can_be_signed_with_the_verifiers_own_key() {
    let files = Files::make();
    let key = files.path("verifier.key");
    openssl(
        files.running.folder(),
        &[
            "genpkey",
            "-algorithm",
            "ed25519",
            "-out",
            key.to_str().unwrap(),
        ],
    );
    openssl(
        files.running.folder(),
        &[
            "pkey",
            "-in",
            "verifier.key",
            "-pubout",
            "-outform",
            "DER",
            "-out",
            "verifier.pub",
        ],
    );
    let public = PublicKey::from_spki(&std::fs::read(files.path("verifier.pub")).unwrap()).unwrap();
    let mut command = Command::new(program("anchorhold-verify"));
    command
        .arg("evidence")
        .arg(files.path("evidence"))
        .arg("--ear")
        .arg("--sign-with")
        .arg(&key)
        .args(files.everything());
    let output = command.output().unwrap();
    let jwt = String::from_utf8(output.stdout).unwrap();
    let (signed, signature) = jwt.trim_end().rsplit_once('.').unwrap();
    let decode = |part: &str| {
        data_encoding::BASE64URL_NOPAD
            .decode(part.as_bytes())
            .unwrap()
    };
    public
        .verify_bytes(signed.as_bytes(), &decode(signature))
        .unwrap();
    let header: Value = serde_json::from_slice(&decode(signed.split('.').next().unwrap())).unwrap();
    assert_eq!(
        header,
        json!({"alg": "EdDSA", "typ": "eat+jwt", "kid": public.thumbprint()})
    );
    for (name, arguments) in [
        ("not a key", &["--ear", "--sign-with", "/dev/null"][..]),
        ("no ear", &["--sign-with", "x"]),
    ] {
        let mut command = Command::new(program("anchorhold-verify"));
        command
            .arg("evidence")
            .arg(files.path("evidence"))
            .args(arguments);
        assert_eq!(command.output().unwrap().status.code(), Some(64), "{name}");
    }
}

/// Findings of PyPI `agentrust-trace-tests`, of those that fail: `(exit code, failed codes)`.
fn conformance(
    python: &Path,
    record: &Value,
    level: u8,
    nonce: &str,
) -> (Option<i32>, Vec<String>) {
    let folder = harness::private_folder();
    let file = folder.path().join("record.json");
    std::fs::write(&file, record.to_string()).unwrap();
    let suite = python.with_file_name("trace-tests");
    let mut command = Command::new(suite);
    command
        .args([
            "verify",
            "--level",
            &level.to_string(),
            "--expected-nonce",
            nonce,
            "--record",
        ])
        .arg(&file);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = text
        .lines()
        .filter(|line| line.contains("  FAIL "))
        .filter_map(|line| line.split(": ").next());
    let codes = failed
        .map(|line| {
            line.split_whitespace()
                .last()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    (output.status.code(), codes)
}

#[test]
fn trust_records_pass_the_conformance_suite_and_mock_evidence_is_software_only() {
    let Some(python) = crate::interop::python("trace-0.6.0") else {
        return;
    };
    let files = Files::make();
    let (mut verdict, _) = verdict(&files);
    let nonce = data_encoding::BASE64URL_NOPAD.encode(
        &data_encoding::HEXLOWER
            .decode(files.nonce.as_bytes())
            .unwrap(),
    );
    let record = trace(&verdict, harness::now()).unwrap();
    assert_eq!(record["runtime"]["platform"], "software-only");
    assert_ne!(record["appraisal"]["status"], "affirming");
    assert_eq!(conformance(&python, &record, 0, &nonce), (Some(0), vec![]));
    let unsigned = "TR-SIG-005".to_owned();
    let (code, failed) = conformance(&python, &record, 1, &nonce);
    assert_eq!(code, Some(1));
    assert_eq!(failed, ["TR-SIG-005", "TR-APR-005", "TR-RTE-001"]);
    // What the same verdict would say of hardware: no hardware made it, the test changes the word.
    // The attested key signs no bytes of others' choosing, so a signature is all that is missing.
    verdict.verdict = "genuine";
    let record = trace(&verdict, harness::now()).unwrap();
    assert_eq!(record["runtime"]["platform"], "aws-nitro");
    assert_eq!(conformance(&python, &record, 0, &nonce), (Some(0), vec![]));
    assert_eq!(
        conformance(&python, &record, 1, &nonce),
        (Some(1), vec![unsigned])
    );
    // A document alone names no identity.
    verdict.key = None;
    assert!(trace(&verdict, harness::now()).is_err());
    let mut command = Command::new(program("anchorhold-verify"));
    command.arg("document").arg(files.path("document")).args([
        "--trace",
        "--inspect",
        "--allow-mock",
        "--root",
    ]);
    let output = command.arg(files.running.state.root()).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(64),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn nothing_that_fails_is_ever_called_passed() {
    let files = Files::make();
    let (verdict, _) = verdict(&files);
    assert!(
        verdict
            .checks
            .iter()
            .all(|check| check.outcome != Outcome::Failed && check.outcome != Outcome::NotReached)
    );
    assert!(
        verdict
            .checks
            .iter()
            .all(|check| check.meaning.is_some() == (check.outcome == Outcome::Passed))
    );
}
