//! `POST /verify`.

use std::sync::Arc;

use attestation::archive::{TimeAnchor, TimeStamp};
use attestation::results::{self, About};
use attestation::{
    AppraisalPolicy, Expectations, KnownIssuers, Measurements, MockRoot, Subject, Verifier,
};
use axum::Json;
use axum::extract::State;
use policy::Bundle;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use identity::{UnixSeconds, did};
use serde::Deserialize;
use serde_json::Value;
use state::StateId;
use utoipa::ToSchema;

use super::body::Strict;
use super::{Admitted, App, Problem};

const MAX_BODY: usize = 256 * 1024;
/// Verifications at one time, bodies that still arrive included.
pub(crate) const MAX_VERIFYING: usize = 4;

/// What is to be verified, and what is expected. Give a `document` alone, or `evidence` and perhaps a `token` or a `credential`
/// with it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyRequest {
    /// Evidence file, base64url.
    #[serde(default)]
    evidence: Option<String>,
    /// Attestation document, base64url.
    #[serde(default)]
    document: Option<String>,
    /// Vouch token.
    #[serde(default)]
    token: Option<String>,
    /// Vouch credential.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    credential: Option<Value>,
    /// The challenge with which the evidence was asked for, hex.
    #[serde(default)]
    nonce: Option<String>,
    /// Accepted images, each as `nitro-cli describe-eif` prints them.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    measurements: Vec<Value>,
    /// Accepted policy bundles, TOML or canonical JSON text.
    #[serde(default)]
    #[serde(alias = "policies")]
    bundles: Vec<String>,
    /// The greatest accepted age of the document in seconds.
    #[serde(default)]
    max_age_seconds: Option<u32>,
    /// The audience that you are.
    #[serde(default)]
    audience: Option<String>,
    /// The DID document that you pinned; did:web needs it.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    did_document: Option<Value>,
    /// The DID that must have signed; any of the accepted bundles if left out.
    #[serde(default)]
    did: Option<String>,
    /// Name of the identity that must have signed; any of the accepted bundles if left out.
    #[serde(default)]
    identity: Option<String>,
    /// Id of the state that the key must be kept in, hex; any, or none, if left out.
    #[serde(default)]
    state: Option<String>,
    /// Your verifier policy: its TOML text.
    #[serde(default)]
    #[serde(alias = "appraisal_policy")]
    verifier_policy: Option<String>,
    /// RFC 3161 time-stamp over SHA-256(document || token), base64url: then something old is judged at its own time.
    #[serde(default)]
    timestamp: Option<String>,
    /// Roots that the time-stamping authority may chain to, PEM.
    #[serde(default)]
    timestamp_roots: Vec<String>,
    /// The form of the answer: a verdict, the claims of an EAR, or a TRACE trust record of what was accepted.
    #[serde(default)]
    form: Form,
    /// Time of verification, RFC 3339. Left out: now, by this host's clock.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<UnixSeconds>,
    /// Accept an enclave in debug mode too.
    #[serde(default)]
    allow_debug: bool,
    /// Accept a mock of this root too, PEM.
    #[serde(default)]
    mock_root: Option<String>,
    /// Accept although nonce, measurements or bundles were not given.
    #[serde(default)]
    inspect: bool,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// What `anchorhold-verify --json` prints.
    #[default]
    Verdict,
    /// What `anchorhold-verify --ear` prints.
    Ear,
    /// What `anchorhold-verify --trace` prints; a verdict where it was refused.
    Trace,
}

/// Verify a token, credential, evidence or document
///
/// The same verdict as `anchorhold-verify --json`, accepted or refused, with status 200. It is this host's word; who trusts
/// nobody here runs `anchorhold-verify`.
#[utoipa::path(post, path = "/verify", request_body = VerifyRequest, responses(
    (status = 200, body = Object),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn verify(
    State(app): State<Arc<App>>,
    Admitted(caller): Admitted,
    Strict(request): Strict<VerifyRequest, MAX_BODY>,
) -> Result<Json<Value>, Problem> {
    let slot = app.slot(&app.verifying, &caller.quota).await?;
    // A millisecond of arithmetic, during which other callers shall not wait.
    let verdict = tokio::task::spawn_blocking(move || {
        let verdict = answer(request, &app.issuers);
        drop(slot);
        verdict
    })
    .await;
    verdict
        .unwrap_or_else(|error| Err(Problem::new(500, "verifier_failed", error.to_string())))
        .map(Json)
}

fn answer(request: VerifyRequest, issuers: &Arc<KnownIssuers>) -> Result<Value, Problem> {
    let credential = request
        .credential
        .as_ref()
        .map(|credential| credential.to_string().into_bytes());
    let token = request.token.clone();
    let document = decode(&request.document, "the document")?;
    let evidence = decode(&request.evidence, "the evidence")?;
    let (about, subject) = match (&evidence, &document) {
        (Some(evidence), None) => (
            About::Evidence(evidence),
            of_evidence(evidence, &token, &credential)?,
        ),
        (None, Some(document)) if token.is_none() && credential.is_none() => {
            (About::Document(document), Subject::Document(document))
        }
        (None, Some(_)) => {
            let why = "what was signed needs evidence; a document alone names no key";
            return Err(invalid("document", why));
        }
        _ => return Err(invalid("evidence", "give either evidence or a document")),
    };
    let form = request.form;
    let verifier = Verifier {
        issuers: Some(Arc::clone(issuers)),
        ..verifier(request)?
    };
    let outcome = verifier.judge(subject);
    Ok(match (form, &outcome) {
        (Form::Ear, _) => results::ear(&outcome, verifier.at, about),
        (Form::Trace, Ok(verdict)) => {
            results::trace(verdict, verifier.at).map_err(|error| invalid("form", error))?
        }
        (_, Ok(verdict)) => serde_json::to_value(verdict).unwrap_or_default(),
        (_, Err(refusal)) => refusal.to_json(),
    })
}

fn of_evidence<'a>(
    evidence: &'a [u8],
    token: &'a Option<String>,
    credential: &'a Option<Vec<u8>>,
) -> Result<Subject<'a>, Problem> {
    match (token, credential) {
        (Some(_), Some(_)) => Err(invalid("token", "give a token or a credential, not both")),
        (Some(token), None) => Ok(Subject::Token { token, evidence }),
        (None, Some(credential)) => Ok(Subject::Credential {
            credential,
            evidence,
        }),
        (None, None) => Ok(Subject::Evidence(evidence)),
    }
}

/// The verifier that a request describes.
fn verifier(request: VerifyRequest) -> Result<Verifier, Problem> {
    let root = request
        .mock_root
        .as_ref()
        .map(|pem| MockRoot::from_pem(pem.as_bytes()))
        .transpose();
    let stamp = decode(&request.timestamp, "the time-stamp")?;
    let stamp = stamp
        .map(|der| TimeStamp::new(&der, &request.timestamp_roots))
        .transpose();
    let stamp = stamp.map_err(|error| invalid("timestamp", error))?;
    Ok(Verifier {
        at: request.at.unwrap_or_else(now),
        anchor: stamp.map(|stamp| Arc::new(stamp) as Arc<dyn TimeAnchor>),
        allow_debug: request.allow_debug,
        allow_mock: root.map_err(|error| invalid("mock_root", error))?,
        inspect: request.inspect,
        issuers: None,
        expectations: expectations(request)?,
    })
}

fn expectations(request: VerifyRequest) -> Result<Expectations, Problem> {
    let nonce = request
        .nonce
        .map(|nonce| HEXLOWER_PERMISSIVE.decode(nonce.as_bytes()))
        .transpose();
    let image = |value: &Value| Measurements::parse(value.to_string().as_bytes());
    let measurements = request
        .measurements
        .iter()
        .map(image)
        .collect::<Result<_, _>>();
    let digest = |text: &String| Bundle::from_either(text.as_bytes()).map(|bundle| bundle.digest());
    let bundles = request.bundles.iter().map(digest).collect::<Result<_, _>>();
    let did_document = request
        .did_document
        .map(|value| did::Document::parse(value.to_string().as_bytes()))
        .transpose();
    let appraisal = request
        .verifier_policy
        .map(|text| AppraisalPolicy::from_toml(text.as_bytes()))
        .transpose();
    let state = request.state.as_deref().map(StateId::from_hex).transpose();
    Ok(Expectations {
        state: state.map_err(|error| invalid("state", error))?,
        nonce: nonce.map_err(|_| invalid("nonce", "not hex"))?,
        measurements: measurements.map_err(|error| invalid("measurements", error))?,
        policies: bundles.map_err(|error| invalid("bundles", error))?,
        max_age_seconds: request.max_age_seconds.map(i64::from),
        audience: request.audience,
        did: request.did,
        identity: request.identity,
        did_document: did_document.map_err(|error| invalid("did_document", error))?,
        appraisal: appraisal.map_err(|error| invalid("verifier_policy", error))?,
    })
}

fn decode(text: &Option<String>, what: &'static str) -> Result<Option<Vec<u8>>, Problem> {
    let bytes = text
        .as_ref()
        .map(|text| BASE64URL_NOPAD.decode(text.as_bytes()))
        .transpose();
    bytes.map_err(|_| identity::Error::Base64(what).into())
}

fn invalid(what: &str, why: impl std::fmt::Display) -> Problem {
    Problem::new(422, "verify_request_invalid", format!("{what}: {why}"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this host's clock: where the caller of a verifier gave no time, and how long an approval lasts"
)]
pub(crate) fn now() -> UnixSeconds {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    UnixSeconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use attestation::Evidence;
    use serde_json::json;

    use super::*;

    /// When the committed cases hold.
    const AT: &str = "2026-01-01T00:00:00Z";

    fn file(name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../attestation/tests/vectors");
        std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn text(name: &str) -> String {
        String::from_utf8(file(name)).unwrap()
    }

    fn parsed(name: &str) -> Value {
        serde_json::from_slice(&file(name)).unwrap()
    }

    fn base64(bytes: &[u8]) -> String {
        BASE64URL_NOPAD.encode(bytes)
    }

    fn evidence(name: &str) -> String {
        base64(&file(&format!("cases/evidence/{name}.cbor")))
    }

    fn document() -> String {
        let evidence = file("cases/evidence/good.cbor");
        base64(Evidence::parse(&evidence).unwrap().document())
    }

    /// Good evidence, and all that is to be expected of it.
    fn good() -> Value {
        json!({
            "evidence": evidence("good"),
            "nonce": "c4".repeat(32),
            "measurements": [parsed("cases/measurements.json")],
            "bundles": [text("cases/policy.toml")],
            "mock_root": text("cases/root.pem"),
            "at": AT,
        })
    }

    /// What is answered to the good request with these members in place of its own; null: left out.
    fn ask(changed: &Value) -> Result<Value, Problem> {
        let mut request = good();
        let members = request.as_object_mut().unwrap();
        for (name, value) in changed.as_object().unwrap() {
            members.insert(name.clone(), value.clone());
        }
        members.retain(|_, value| !value.is_null());
        answer(serde_json::from_value(request).unwrap(), &Arc::default())
    }

    /// Status, code and words of a request that cannot be understood.
    fn refused(changed: &Value) -> (Value, Value, String) {
        let problem = serde_json::to_value(ask(changed).expect_err(&changed.to_string())).unwrap();
        let detail = problem["detail"].as_str().unwrap().to_owned();
        (problem["status"].clone(), problem["code"].clone(), detail)
    }

    /// `mock` for what is accepted, or the code of the refusal.
    fn verdict(changed: &Value) -> String {
        let answer = ask(changed).unwrap();
        let code = match answer["verdict"].as_str() {
            Some("refused") => &answer["error"]["code"],
            _ => &answer["verdict"],
        };
        code.as_str().unwrap().to_owned()
    }

    #[test]
    fn evidence_alone_or_with_one_thing_that_was_signed_or_a_document_alone_is_judged() {
        const EITHER: &str = "evidence: give either evidence or a document";
        const ONE: &str = "token: give a token or a credential, not both";
        const NO_KEY: &str =
            "document: what was signed needs evidence; a document alone names no key";
        // Whether there is a key and whether there are claims, or why there is no verdict.
        for (given, expected) in [
            ("e", Ok((true, false))),
            ("et", Ok((true, true))),
            ("ec", Ok((true, true))),
            ("etc", Err(ONE)),
            ("d", Ok((false, false))),
            ("dt", Err(NO_KEY)),
            ("dc", Err(NO_KEY)),
            ("dtc", Err(NO_KEY)),
            ("", Err(EITHER)),
            ("t", Err(EITHER)),
            ("c", Err(EITHER)),
            ("tc", Err(EITHER)),
            ("ed", Err(EITHER)),
            ("edt", Err(EITHER)),
            ("edc", Err(EITHER)),
            ("edtc", Err(EITHER)),
        ] {
            let if_given = |letter, value: Value| {
                if given.contains(letter) {
                    value
                } else {
                    Value::Null
                }
            };
            let changed = json!({
                "evidence": if_given('e', evidence("good").into()),
                "document": if_given('d', document().into()),
                "token": if_given('t', text("cases/tokens/good.jwt").into()),
                "credential": if_given('c', parsed("cases/credentials/good.json")),
            });
            match expected {
                Ok((key, claims)) => {
                    let answer = ask(&changed).unwrap();
                    assert_eq!(answer["verdict"], "mock", "{given}");
                    let told = (answer["key"].is_object(), answer["claims"].is_object());
                    assert_eq!(told, (key, claims), "{given}");
                }
                Err(why) => {
                    let told = (json!(422), "verify_request_invalid".into(), why.to_owned());
                    assert_eq!(refused(&changed), told, "{given}");
                }
            }
        }
    }

    #[test]
    fn an_issuer_is_remembered_from_one_request_to_the_next() {
        let issuers = Arc::default();
        for _ in 0..2 {
            let request = serde_json::from_value(good()).unwrap();
            let verdict = answer(request, &issuers).unwrap();
            assert_eq!((&verdict["verdict"], issuers.count()), (&json!("mock"), 1));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_by_the_member_in_which_it_stands() {
        let (image, policy) = (parsed("cases/measurements.json"), text("cases/policy.toml"));
        let stamp = base64(&file("timestamps/good.tsr"));
        let roots = [text("timestamps/town.pem")];
        for (changed, words) in [
            (json!({"nonce": "c"}), "nonce: not hex"),
            (json!({"nonce": "0x"}), "nonce: not hex"),
            (json!({"nonce": " c4"}), "nonce: not hex"),
            (json!({"measurements": [{}]}), "measurements: "),
            (json!({"measurements": [image, "x"]}), "measurements: "),
            (json!({"bundles": [""]}), "bundles: "),
            (json!({"bundles": [policy, "{}"]}), "bundles: "),
            (json!({"did_document": {}}), "did_document: "),
            (json!({"did_document": "did:key:x"}), "did_document: "),
            (
                json!({"verifier_policy": "version = 2"}),
                "verifier_policy: ",
            ),
            (json!({"mock_root": ""}), "mock_root: "),
            (json!({"mock_root": "x"}), "mock_root: "),
            (
                json!({"timestamp": "AA", "timestamp_roots": roots}),
                "timestamp: ",
            ),
            (json!({"timestamp": stamp}), "timestamp: "),
            (
                json!({"timestamp": stamp, "timestamp_roots": ["x"]}),
                "timestamp: ",
            ),
        ] {
            let (status, code, detail) = refused(&changed);
            assert_eq!(
                (status, code),
                (json!(422), "verify_request_invalid".into())
            );
            assert!(detail.starts_with(words), "{changed}: {detail}");
        }
        for (changed, what) in [
            (json!({"evidence": "AA="}), "the evidence"),
            (json!({"evidence": "A"}), "the evidence"),
            (json!({"evidence": "+/+/"}), "the evidence"),
            (json!({"evidence": null, "document": "AB"}), "the document"),
            (json!({"timestamp": "A A="}), "the time-stamp"),
        ] {
            let words = format!("not strict base64url in {what}");
            let told = (json!(422), "base64".into(), words);
            assert_eq!(refused(&changed), told, "{changed}");
        }
    }

    #[test]
    fn each_thing_that_is_expected_is_asked_of_what_is_judged() {
        let domain = |pinned: Option<&str>| {
            let pinned = pinned.map(parsed);
            json!({"evidence": evidence("web"), "did_document": pinned})
        };
        let signed = |name: &str, audience: Option<&str>| {
            let token = text(&format!("cases/tokens/{name}.jwt"));
            json!({"token": token, "audience": audience})
        };
        let somebody = "https://tools.example";
        let stamp = |root: &str, at: &str| {
            json!({
                "timestamp": base64(&file("timestamps/good.tsr")),
                "timestamp_roots": [text(&format!("timestamps/{root}.pem"))],
                "token": text("cases/tokens/good.jwt"),
                "at": at,
            })
        };
        for (changed, expected) in [
            (json!({}), "mock"),
            (json!({"nonce": "C4".repeat(32)}), "mock"),
            (json!({"nonce": "c5".repeat(32)}), "nonce_mismatch"),
            (json!({"nonce": null}), "unchecked"),
            (json!({"nonce": null, "inspect": true}), "mock"),
            (json!({"measurements": []}), "unchecked"),
            (
                json!({"measurements": [parsed("cases/measurements-other.json")]}),
                "measurement_mismatch",
            ),
            (json!({"bundles": []}), "unchecked"),
            (
                json!({"bundles": [text("cases/policy-other.toml")]}),
                "policy_mismatch",
            ),
            (
                json!({"bundles": [text("cases/policy-other.toml"), text("cases/policy.toml")]}),
                "mock",
            ),
            (json!({"mock_root": null}), "root_untrusted"),
            (
                json!({"at": "2026-01-01T00:01:00Z", "max_age_seconds": 60}),
                "mock",
            ),
            (
                json!({"at": "2026-01-01T00:01:00Z", "max_age_seconds": 10}),
                "too_old",
            ),
            (json!({"at": "2027-01-01T00:00:00Z"}), "certificate_expired"),
            // Left out, it is now, long after the leaf.
            (json!({"at": null}), "certificate_expired"),
            (json!({"identity": "agent"}), "mock"),
            (json!({"identity": "web"}), "identity_mismatch"),
            (
                json!({"did": "did:web:agent.example.com"}),
                "identity_mismatch",
            ),
            (domain(None), "unchecked"),
            (domain(Some("cases/did.json")), "mock"),
            (
                domain(Some("cases/did-other.json")),
                "did_document_lacks_key",
            ),
            (signed("good", None), "mock"),
            (signed("good", Some(somebody)), "audience_mismatch"),
            (signed("for-somebody", None), "audience_mismatch"),
            (signed("for-somebody", Some(somebody)), "mock"),
            (
                json!({"verifier_policy": text("cases/verifier.toml"), "audience": null}),
                "mock",
            ),
            (stamp("town", "2030-01-01T00:00:00Z"), "mock"),
            (
                stamp("abbey", "2030-01-01T00:00:00Z"),
                "timestamp_untrusted",
            ),
        ] {
            assert_eq!(verdict(&changed), expected, "{:.100}", changed.to_string());
        }
    }

    #[test]
    fn debug_mode_is_accepted_only_where_it_was_asked_for() {
        // No document here is of hardware in debug mode, and no mock passes for one.
        for (text, allowed) in [
            ("{}", false),
            ("{\"inspect\":true}", false),
            ("{\"allow_debug\":false}", false),
            ("{\"allow_debug\":true}", true),
        ] {
            let request = serde_json::from_str(text).unwrap();
            assert_eq!(verifier(request).unwrap().allow_debug, allowed, "{text}");
        }
    }

    #[test]
    fn the_answer_has_the_form_that_was_asked_for() {
        let stamped = json!({
            "timestamp": base64(&file("timestamps/good.tsr")),
            "timestamp_roots": [text("timestamps/town.pem")],
            "token": text("cases/tokens/good.jwt"),
            "at": "2030-01-01T00:00:00Z",
        });
        let alone = json!({"evidence": null, "document": document()});
        let other = json!({"nonce": "c5".repeat(32)});
        // Which members are there: of a verdict, of an EAR, of a trust record.
        for (form, changed, expected) in [
            (None, json!({}), "verdict"),
            (Some("verdict"), json!({}), "verdict"),
            (Some("verdict"), other.clone(), "verdict"),
            (Some("ear"), json!({}), "submods"),
            (Some("ear"), alone.clone(), "submods"),
            // An EAR says too what was refused.
            (Some("ear"), other.clone(), "submods"),
            (Some("trace"), json!({}), "cnf"),
            (Some("trace"), other, "verdict"),
        ] {
            let mut request = changed;
            request["form"] = json!(form);
            let answer = ask(&request).unwrap();
            let there = |name: &&&str| answer.get(**name).is_some();
            let members = ["verdict", "submods", "cnf"];
            assert!(members.iter().filter(there).eq([&expected]), "{request}");
        }
        // Of a key that is not named, or of the past, there is no trust record.
        for changed in [alone, stamped] {
            let mut request = changed;
            request["form"] = json!("trace");
            let (status, code, detail) = refused(&request);
            assert_eq!(
                (status, code),
                (json!(422), "verify_request_invalid".into())
            );
            assert!(detail.starts_with("form: "), "{detail}");
        }
    }

    #[test]
    fn a_request_names_nothing_that_is_not_known_and_tells_numbers_and_times_in_one_way() {
        let read = |text: &str| identity::json::parse_as::<VerifyRequest>(text.as_bytes()).is_ok();
        for good in [
            "{}",
            "{\"max_age_seconds\":4294967295}",
            "{\"at\":\"2026-01-01T00:00:00Z\"}",
            "{\"form\":\"ear\"}",
            "{\"document\":null}",
        ] {
            assert!(read(good), "{good}");
        }
        for bad in [
            "{\"documents\":\"\"}",
            "{\"max_age_seconds\":4294967296}",
            "{\"max_age_seconds\":-1}",
            "{\"at\":1767225600}",
            "{\"at\":\"2026-01-01T01:00:00+01:00\"}",
            "{\"form\":\"EAR\"}",
            "{\"inspect\":\"true\"}",
            "{\"bundles\":\"\"}",
            "{\"bundles\":null}",
        ] {
            assert!(!read(bad), "{bad}");
        }
    }
}
