#!/usr/bin/env python3
"""An agent asks its sidecar for a signature, with Python's standard library alone.

    python3 examples/agent.py

Asks at ANCHORHOLD_ENDPOINT_SOCKET, which `anchorhold env` sets, or where a sidecar listens by default. Prints the DID that signed and the token. Ends with 1 if the policy refuses, and says why.
"""

import http.client
import json
import os
import socket
import sys


class Sidecar(http.client.HTTPConnection):
    """HTTP over the sidecar's Unix socket."""

    def __init__(self, endpoint):
        super().__init__("localhost", timeout=15)
        self.path = endpoint.removeprefix("unix://")

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def ask(self, path, body):
        """The status and the JSON of an answer."""
        self.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = self.getresponse()
        return response.status, json.load(response)


def endpoint():
    folder = os.environ.get("XDG_RUNTIME_DIR", "/run")
    return os.environ.get("ANCHORHOLD_ENDPOINT_SOCKET", f"unix://{folder}/anchorhold/sidecar.sock")


def main():
    sidecar = Sidecar(endpoint())
    try:
        status, answer = sidecar.ask("/sign", {
            "payload": {"amount": 100, "recipient": "account_123"},
            "intent": {"action": "transfer", "target": "account_123"},
        })
    except OSError as error:
        sys.exit(f"{sidecar.path}: {error.strerror}; is a sidecar running? anchorhold-dev up starts one")
    if status == 202:
        sys.exit(f"{answer['approval']['id']} waits for an approval: anchorhold approve shows it")
    if status != 200:
        sys.exit(f"{status} {answer['code']}: {answer['detail']}")
    print(answer["did"], answer["vouch_token"])


if __name__ == "__main__":
    main()
