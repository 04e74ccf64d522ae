"""Verifies a token with PyPI vouch-protocol 1.6.2, and changed copies of it."""

import json
import sys

import changed
import vouch

given = json.loads(sys.argv[1])
key = json.dumps(given["jwk"])


def accepts(token):
    good, passport = vouch.Verifier.verify(token, public_key_jwk=key)
    return passport if good else None


passport = accepts(given["vouch_token"])
copies = list(changed.tokens(given["vouch_token"]))
assert passport is None or passport.iss == given["did"] == passport.sub
print(json.dumps({
    "accepted": passport is not None,
    "payload": passport.payload if passport else None,
    "changed": len(copies),
    "changed_accepted": [copy for copy in copies if accepts(copy) is not None],
}))
