"""What the client of `websockets`, unchanged, gets from a service: by base URL, over the Unix socket, or as to a proxy that the environment names."""

import json
import sys

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect, unix_connect

given = json.loads(sys.argv[1])
said = {"heard": []}
options = {
    "subprotocols": given.get("subprotocols"),
    "additional_headers": given.get("headers"),
    "open_timeout": 20,
    "max_size": 20_000_000,
}
try:
    connecting = unix_connect(given["unix"], given["url"], **options) if "unix" in given else connect(given["url"], **options)
    with connecting as socket:
        said["headers"] = {name.lower(): value for name, value in socket.response.headers.raw_items()}
        said["subprotocol"] = socket.subprotocol
        try:
            for message in given.get("say", []):
                if isinstance(message, dict):
                    message = bytes(message["long"]) if "long" in message else iter(message["pieces"])
                socket.send(message)
                answer = socket.recv(timeout=20)
                said["heard"].append(answer if isinstance(answer, str) else len(answer))
            if given.get("ping"):
                said["pong"] = socket.ping("are you there").wait(20)
            if given.get("wait"):
                socket.recv(timeout=20)
            socket.close(4000, "enough")
        except ConnectionClosed:
            pass
        said["closed"] = [socket.close_code, socket.close_reason]
except InvalidStatus as refused:
    said["status"] = refused.response.status_code
    said["code"] = refused.response.headers.get("x-anchorhold-error")
    said["body"] = refused.response.body.decode()
print(json.dumps(said))
