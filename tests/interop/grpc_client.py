"""What grpcio's client gets through a gateway: calls of every kind, their metadata and statuses."""

import json
import queue
import sys
import time

import grpc

given = json.loads(sys.argv[1])
if "authority" in given:
    with open(given["authority"], "rb") as file:
        channel = grpc.secure_channel(given["address"], grpc.ssl_channel_credentials(file.read()))
else:
    channel = grpc.insecure_channel(given["address"])
metadata = tuple(given.get("metadata", {}).items())
said = {}


def refused(name, call):
    try:
        call()
        said[name] = "OK"
    except grpc.RpcError as error:
        said[name] = {"code": error.code().name, "details": error.details(), "trailers": {k: v for k, v in error.trailing_metadata() if isinstance(v, str)}}


one = channel.unary_unary(given.get("path", "/an.Agent/One"))
if given.get("one"):
    refused("one", lambda: one(b"abc", metadata=metadata, timeout=20))
    print(json.dumps(said))
    sys.exit()

if given.get("quiet"):
    begun = time.monotonic()
    refused("slow", lambda: channel.unary_unary("/an.Agent/Slow")(b"", timeout=20))
    said["slow_after"] = time.monotonic() - begun

    def drip():
        for _ in range(4):
            yield b"x"
            time.sleep(0.75)

    said["dripped"] = channel.stream_unary("/an.Agent/Total")(drip(), timeout=20).decode()
    # The answer begins at once, and goes on when all was sent.
    said["late"] = [answer.decode() for answer in channel.stream_stream("/an.Agent/Late")(drip(), timeout=20)]
    begun = time.monotonic()
    refused("stalled", lambda: list(channel.unary_stream("/an.Agent/Stall")(b"", timeout=20)))
    said["stalled_after"] = time.monotonic() - begun
    print(json.dumps(said))
    sys.exit()

answer, call = one.with_call(b"abc", metadata=metadata, timeout=20)
said["one"] = answer.decode()
said["first"] = {key: value for key, value in call.initial_metadata()}
said["last"] = {key: value if isinstance(value, str) else list(value) for key, value in call.trailing_metadata()}
said["large"] = len(one(b"x" * 4_000_000, timeout=20))
refused("fail", lambda: channel.unary_unary("/an.Agent/Fail")(b"", timeout=20))
refused("missing", lambda: channel.unary_unary("/an.Agent/Missing")(b"", timeout=20))
refused("closed", lambda: channel.unary_unary("/another.Agent/One")(b"", timeout=20))
said["count"] = [answer.decode() for answer in channel.unary_stream("/an.Agent/Count")(b"300", timeout=20)][-1]
said["total"] = channel.stream_unary("/an.Agent/Total")((b"x" * 1000 for _ in range(20_000)), timeout=20).decode()
# Each message goes out only when the answer to the one before is there.
sent = queue.Queue()
talk = channel.stream_stream("/an.Agent/Talk")(iter(sent.get, None), timeout=20)
heard = []
for word in (b"you", b"me", b"us"):
    sent.put(word)
    heard.append(next(talk).decode())
sent.put(None)
said["talk"] = heard + [answer.decode() for answer in talk]
refused("slow", lambda: channel.unary_unary("/an.Agent/Slow")(b"", timeout=0.3))
print(json.dumps(said))
