#!/usr/bin/env python3
"""An agent asks its sidecar for a signature, with Python's standard library alone.

    python3 examples/agent.py

Asks at ANCHORHOLD_ENDPOINT_SOCKET (on localhost with the token in ANCHORHOLD_TOKEN_FILE), which `anchorhold env` sets, or where a sidecar listens by default. Prints the DID that signed and the
token. Ends with 1 and says why if it is refused, with 2 if it waits for an approval. `Sidecar` and its three errors are there to be copied.
"""

import http.client
import json
import os
import socket
import sys
import time


class Refused(Exception):
    """The sidecar refused: an HTTP status, a stable code, and why."""

    def __init__(self, status, code, detail):
        super().__init__(f"{status} {code}: {detail}")
        self.status, self.code = status, code


class TryLater(Refused):
    """Refused for now, and again after all tries: a limit is used up, or the enclave is away."""


class Waits(Exception):
    """Nothing is signed yet: somebody must approve it. Then ask the same again, with `approval=id`."""

    def __init__(self, approval):
        super().__init__(f"{approval['id']} waits for {' or '.join(approval['approvers'])} until {approval['expires_at']}")
        self.id = approval["id"]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=15)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Sidecar:
    """A sidecar at unix:///path, or at http://127.0.0.1:port with this caller's token."""

    def __init__(self, endpoint, token=None, tries=5):
        self.endpoint, self.tries = endpoint, tries
        self.headers = {"host": "localhost", "content-type": "application/json"}
        if endpoint.startswith("http://"):
            self.headers["host"] = endpoint.removeprefix("http://")
            self.headers["authorization"] = f"Bearer {token}"

    def sign(self, payload, **more):
        """Asks for a signature; `more` are members of the request, such as intent, identity, audience, approval."""
        return self.ask("POST", "/sign", {"payload": payload} | more)

    def wait(self, id, seconds=600):
        """Waits until somebody has approved it; Refused 404: it waited too long. Then ask the same with `approval=id`."""
        for _ in range(seconds // 2):
            if self.ask("GET", f"/approvals/{id}")["approval"]["approved"]:
                return
            time.sleep(2)
        raise TimeoutError(id)

    def ask(self, method, path, body=None):
        """The JSON of an answer. What may be tried again is, after as long as the sidecar says; OSError: no sidecar is there."""
        for left in reversed(range(self.tries)):
            status, retry_after, answer = self.once(method, path, body)
            if status == 202:
                raise Waits(answer["approval"])
            if status == 200:
                return answer
            code, detail = answer.get("code", "unknown"), answer.get("detail", answer.get("error_description"))
            if status == 504:
                raise TryLater(status, code, detail)  # it may have been signed, and counted: not asked again by itself
            if status not in (429, 503) or retry_after is None:
                raise Refused(status, code, detail)
            if not left or int(retry_after) > 60:
                raise TryLater(status, code, f"{detail}; again in {retry_after} s")
            time.sleep(int(retry_after))

    def once(self, method, path, body):
        if self.endpoint.startswith("http://"):
            connection = http.client.HTTPConnection(self.headers["host"], timeout=15)
        else:
            connection = UnixConnection(self.endpoint.removeprefix("unix://"))
        connection.request(method, path, None if body is None else json.dumps(body), self.headers)
        response = connection.getresponse()
        return response.status, response.headers["retry-after"], json.load(response)


def endpoint():
    folder = os.environ.get("XDG_RUNTIME_DIR") or "/run"
    return os.environ.get("ANCHORHOLD_ENDPOINT_SOCKET", f"unix://{folder}/anchorhold/sidecar.sock")


def main():
    token = os.environ.get("ANCHORHOLD_TOKEN_FILE")
    sidecar = Sidecar(endpoint(), open(token).read().strip() if token else None)
    try:
        answer = sidecar.sign({"amount": 100, "recipient": "account_123"}, intent={"action": "transfer", "target": "account_123"})
    except OSError as error:
        sys.exit(f"{sidecar.endpoint}: {error.strerror}; is a sidecar running? anchorhold-dev up starts one")
    except Refused as error:
        sys.exit(str(error))
    except Waits as error:
        print(f"{error}: anchorhold approve {error.id} shows it", file=sys.stderr)
        sys.exit(2)
    print(answer["did"], answer["vouch_token"])


if __name__ == "__main__":
    main()
