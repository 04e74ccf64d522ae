"""An agent that is called by gRPC: grpcio's server, with methods of every kind, health and reflection. Prints its port, and the metadata of each call."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection


def told(context):
    print(json.dumps({name: value for name, value in context.invocation_metadata() if isinstance(value, str)}), flush=True)


def one(request, context):
    told(context)
    context.send_initial_metadata((("x-first", "1"),))
    context.set_trailing_metadata((("x-last", "2"), ("x-last-bin", b"\x00\xff")))
    return request[::-1]


def fail(request, context):
    context.set_trailing_metadata((("x-last", "3"),))
    context.abort(grpc.StatusCode.OUT_OF_RANGE, "too far: 100 % é")


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def fill(request, context):
    for _ in range(int(request)):
        yield b"x" * 1000


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def talk(requests, context):
    for request in requests:
        yield b"to " + request


def late(requests, context):
    yield b"begun"
    yield str(sum(len(request) for request in requests)).encode()


def slow(request, context):
    while context.is_active():
        time.sleep(0.05)
    print(json.dumps({"cancelled": True}), flush=True)
    return b""


def stall(request, context):
    yield b"begun"
    while context.is_active():
        time.sleep(0.05)


methods = {
    "One": grpc.unary_unary_rpc_method_handler(one),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Fill": grpc.unary_stream_rpc_method_handler(fill),
    "Total": grpc.stream_unary_rpc_method_handler(total),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
    "Stall": grpc.unary_stream_rpc_method_handler(stall),
    "Late": grpc.stream_stream_rpc_method_handler(late),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
}
server = grpc.server(ThreadPoolExecutor(160))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("an.Agent", methods),))
checks = health.HealthServicer()
checks.set("an.Agent", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(checks, server)
reflection.enable_server_reflection((health.SERVICE_NAME, reflection.SERVICE_NAME), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
sys.stdin.read()
server.stop(None)
