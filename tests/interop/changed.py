"""Copies of a token that were decoded, changed and encoded again."""

import base64
import json


def decode(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def tokens(token):
    header, claims, signature = (decode(part) for part in token.split("."))

    def with_claims(change):
        changed = json.loads(claims)
        change(changed)
        return ".".join([encode(header), encode(json.dumps(changed).encode()), encode(signature)])

    yield with_claims(lambda c: c["vouch"]["payload"].update(amount=1000000))
    yield with_claims(lambda c: c["vouch"]["intent"].update(action="other"))
    yield with_claims(lambda c: c.update(exp=c["exp"] + 3600))
    yield with_claims(lambda c: c.update(iss="did:web:victim.example", sub="did:web:victim.example"))
    yield with_claims(lambda c: c.update(tee="aws-nitro"))
    other = bytearray(signature)
    other[10] ^= 1
    yield ".".join([encode(header), encode(claims), encode(bytes(other))])
