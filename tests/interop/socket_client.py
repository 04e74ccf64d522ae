"""What the client of `websockets` gets through a gateway: what it is answered, and how it ends."""

import json
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

given = json.loads(sys.argv[1])
said = {"heard": []}
try:
    with connect(given["url"], subprotocols=given.get("subprotocols"), additional_headers=given.get("headers"), open_timeout=20, max_size=20_000_000) as socket:
        said["headers"] = {name.lower(): value for name, value in socket.response.headers.raw_items()}
        said["subprotocol"] = socket.subprotocol
        try:
            for _ in range(given.get("first", 0)):
                socket.recv(timeout=20)
            for message in given.get("say", []):
                if isinstance(message, dict):
                    message = bytes.fromhex(message["hex"]) if "hex" in message else "x" * message["long"]
                socket.send(message)
                answer = socket.recv(timeout=20)
                said["heard"].append({"hex": answer.hex()} if isinstance(answer, bytes) else answer if len(answer) < 1000 else len(answer))
            if given.get("ping"):
                said["pong"] = socket.ping("are you there").wait(20)
            if given.get("wait"):
                socket.recv(timeout=20)
        except ConnectionClosed as closed:
            said["closed"] = {"code": closed.rcvd.code, "reason": closed.rcvd.reason} if closed.rcvd else None
except InvalidStatus as refused:
    said["status"] = refused.response.status_code
    said["body"] = refused.response.body.decode()
print(json.dumps(said))
