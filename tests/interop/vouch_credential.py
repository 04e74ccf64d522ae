"""Verifies a credential with PyPI vouch-protocol 2.2.1, and changed copies of it."""

import copy
import json
import sys

import vouch

given = json.loads(sys.argv[1])
multikey = given["did_document"]["verificationMethod"][-1]["publicKeyMultibase"]


def accepts(credential):
    # did:key is resolved from itself; a did:web is verified with the key of its pinned document.
    if credential["issuer"].startswith("did:key:"):
        return vouch.verify(credential, allow_did_resolution=False)[0]
    return vouch.verify(credential, public_key=multikey, allow_did_resolution=False)[0]


def changed(credential):
    def with_change(change):
        other = copy.deepcopy(credential)
        change(other)
        return other

    yield with_change(lambda c: c["credentialSubject"]["intent"].update(target="account_666"))
    yield with_change(lambda c: c["credentialSubject"]["payload"].update(amount=1000000))
    yield with_change(lambda c: c.update(validUntil="2040-01-01T00:00:00Z"))
    yield with_change(lambda c: c["proof"].update(domain="https://other.example"))
    yield with_change(lambda c: c["credentialSubject"]["provenance"]["runtimeAttestation"].update(tee="aws-nitro"))
    yield with_change(lambda c: c["proof"].update(proofPurpose="authentication"))


credential = given["credential"]
copies = list(changed(credential))
print(json.dumps({
    "accepted": accepts(credential),
    "changed": len(copies),
    "changed_accepted": [other for other in copies if accepts(other)],
}))
