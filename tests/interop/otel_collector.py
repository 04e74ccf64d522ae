"""A collector of others': oteltap. Prints its port, then each span that it gets."""

import asyncio
import json
import socket
import sys

from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings


def value(attribute):
    kind = attribute.value.WhichOneof("value")
    return getattr(attribute.value, kind)


async def show(receiver):
    async for span in receiver.stream_traces():
        print(json.dumps({
            "name": span.name,
            "trace": span.trace_id.hex(),
            "span": span.span_id.hex(),
            "parent": span.parent_span_id.hex(),
            "kind": span.kind,
            "status": span.status.code,
            "begin": span.start_time_unix_nano,
            "end": span.end_time_unix_nano,
            "attributes": {attribute.key: value(attribute) for attribute in span.attributes},
        }), flush=True)


async def main():
    # It takes no port by itself; below those that the system gives to connections.
    for port in range(21000, 32000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
        try:
            receiver = await OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)).start()
            break
        except Exception:
            continue
    print(port, flush=True)
    shown = asyncio.create_task(show(receiver))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    shown.cancel()
    await receiver.stop()


asyncio.run(main())
