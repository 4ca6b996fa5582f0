"""A gRPC server that does nothing: the rate that Python and gRPC leave to a search server.

    python bench/_empty.py UNARY_BYTES BATCH_BYTES

Answers the methods of SearchService with so many bytes; prints its address.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc


class Empty(grpc.GenericRpcHandler):
    """Neither reads what it gets nor makes what it sends."""

    def __init__(self, unary: bytes, batch: bytes) -> None:
        self._handlers = {
            "Search": grpc.unary_unary_rpc_method_handler(_answer(unary)),
            "BatchSearch": grpc.unary_unary_rpc_method_handler(_answer(batch)),
            "StreamSearch": grpc.stream_stream_rpc_method_handler(_answers(unary)),
        }

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method."""
        return self._handlers.get(call.method.rpartition("/")[2])


def _answer(data: bytes) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    return lambda request, context: data


def _answers(data: bytes) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
    def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for _ in requests:
            yield data

    return answer


def main() -> None:
    server = grpc.server(
        ThreadPoolExecutor(48),
        options=[
            ("grpc.max_receive_message_length", 64 << 20),
            ("grpc.max_send_message_length", 64 << 20),
        ],
    )
    server.add_generic_rpc_handlers((Empty(bytes(int(sys.argv[1])), bytes(int(sys.argv[2]))),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
