"""Verifies a token with PyJWT, audience and required claims included, and changed copies of it."""

import json
import sys

import changed
import jwt

given = json.loads(sys.argv[1])
key = jwt.PyJWK(given["jwk"], algorithm=given["algorithm"]).key


def accepts(token, audience="https://bank.example"):
    try:
        required = ["iss", "sub", "aud", "iat", "nbf", "exp", "jti"]
        return jwt.decode(token, key, algorithms=[given["algorithm"]], audience=audience, options={"require": required})
    except jwt.InvalidTokenError:
        return None


claims = accepts(given["vouch_token"])
copies = list(changed.tokens(given["vouch_token"]))
header = jwt.get_unverified_header(given["vouch_token"])
assert header["typ"] == "vouch+jwt" and header["kid"].startswith(given["did"] + "#")
accepted = [copy for copy in copies if accepts(copy) is not None]
if accepts(given["vouch_token"], audience="https://other.example") is not None:
    accepted.append("another audience")
print(json.dumps({"accepted": claims is not None and claims["iss"] == given["did"], "changed": len(copies), "changed_accepted": accepted}))
