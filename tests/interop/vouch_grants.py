"""Grants with PyPI vouch-protocol 2.2.1: makes a root, lets it grant, verifies chains with fleet.verify_delegated_chain."""

import copy
import json
import sys

from vouch import fleet, generate_did_key_identity
from vouch.signer import Signer
from vouch.status_list import build_status_list_entry

given = json.loads(sys.argv[1])


def verify(credentials, **more):
    roots = {given["root"]["did"]: given["root"]["public"]}
    result = fleet.verify_delegated_chain(credentials, trusted_roots=roots, allow_did_resolution=False, **more)
    return result.ok, result.reason


if given["do"] == "root":
    identity = generate_did_key_identity()
    print(json.dumps({"did": identity.did, "private": identity.private_key_jwk, "public": identity.public_key_jwk}))
elif given["do"] == "grant":
    signer = Signer(given["root"]["private"], given["root"]["did"])
    intent = {"action": given["action"], "target": "logs", "resource": given["resource"], "delegatee": given["to"]}
    status = None
    if "status" in given:
        status = build_status_list_entry(
            status_list_credential=given["status"]["list"], status_list_index=given["status"]["index"]
        )
    print(json.dumps(signer.sign(intent, valid_seconds=600, credential_status=status)))
else:
    chain = given["chain"]
    ok, reason = verify(chain, require_action="read")
    refused = []
    for index, credential in enumerate(chain):
        for change in [
            lambda c: c["credentialSubject"]["intent"].update(resource="https://x"),
            lambda c: c["credentialSubject"]["intent"].update(delegatee="did:key:z6Mk"),
            lambda c: c.update(validUntil="2040-01-01T00:00:00Z"),
        ]:
            other = copy.deepcopy(chain)
            change(other[index])
            refused.append(not verify(other)[0])
        refused.append(not verify(chain, revoked=[credential["id"]])[0])
        refused.append(not verify(chain, revoked=[credential["issuer"]])[0])
    for at in range(len(chain) - 1):
        refused.append(not verify(chain[:at] + chain[at + 1:])[0])
    print(json.dumps({"ok": ok, "reason": reason, "refused": refused}))
