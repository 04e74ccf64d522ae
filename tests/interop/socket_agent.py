"""An agent that talks by WebSockets: the server of `websockets`. Prints its port, then what it is told."""

import asyncio
import json
import sys

from websockets.asyncio.server import serve


def tell(**what):
    print(json.dumps(what), flush=True)


async def talk(socket):
    tell(headers={name.lower(): value for name, value in socket.request.headers.raw_items()}, path=socket.request.path)
    if socket.request.path == "/flood":
        for _ in range(2000):
            await socket.send("x" * 10_000)
    try:
        async for message in socket:
            tell(message=message if isinstance(message, str) else message.hex())
            if message == "bye":
                await socket.close(4001, "as you say")
            elif message == "card":
                await socket.send('{"note": "pay with \\u0034532-0151-1283-0366"}')
            elif message == "bytes":
                await socket.send(b"\x00\xff")
            elif message == "ping":
                await (await socket.ping())
                await socket.send("pong")
            elif message == "close card":
                await socket.close(4002, "4532015112830366")
            else:
                await socket.send(message if isinstance(message, bytes) else "to " + message)
    finally:
        tell(closed=socket.close_code, reason=socket.close_reason)


def refuse(connection, request):
    if request.path == "/no":
        return connection.respond(401, "not you\n")


async def main():
    async with serve(talk, "127.0.0.1", 0, subprotocols=["chat"], select_subprotocol=lambda _, offered: "chat" if "chat" in offered else None, process_request=refuse, max_size=20_000_000) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
