"""Closed-loop callers: each asks again as soon as it has its answer.

gRPC callers live in a process of their own and use grpc.aio, the cheapest client that
Python has, so that a server is measured and not its caller.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import grpc
from _loops import Figures

from lookalike.v1 import search_service_pb2 as pb

SEARCH = "/lookalike.v1.SearchService/Search"
BATCH = "/lookalike.v1.SearchService/BatchSearch"
STREAM = "/lookalike.v1.SearchService/StreamSearch"
_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),
]


def calls(
    address: str,
    method: str,
    messages: Sequence[bytes],
    clients: int,
    seconds: float,
    each: int = 1,
) -> Figures:
    """Have `clients` callers call a method for some seconds; `each` answers count per call."""
    return _elsewhere(_call_loop, (address, method, list(messages), clients, seconds, each))


def streams(
    address: str, method: str, messages: Sequence[bytes], clients: int, seconds: float
) -> Figures:
    """Have `clients` callers play ping-pong, each on a stream of its own."""
    return _elsewhere(_stream_loop, (address, method, list(messages), clients, seconds))


def _elsewhere(loop: Callable[..., Figures], args: tuple[object, ...]) -> Figures:
    """Run a loop in a process of its own: no fork, gRPC does not survive it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(False)
    process = context.Process(target=_send, args=(loop, args, theirs))
    process.start()
    theirs.close()
    figures: Figures = ours.recv()
    process.join()
    return figures


def _send(loop: Callable[..., Figures], args: tuple[object, ...], pipe: Connection) -> None:
    pipe.send(loop(*args))


def _call_loop(
    address: str, method: str, messages: list[bytes], clients: int, seconds: float, each: int
) -> Figures:
    times: list[float] = []

    async def one(call: grpc.aio.UnaryUnaryMultiCallable, number: int, end: float) -> None:
        i = number * 97
        while (now := time.perf_counter()) < end:
            await call(messages[i % len(messages)])
            times.append(time.perf_counter() - now)
            i += 1

    async def main() -> float:
        channels = _channels(address, clients)
        asks = [channel.unary_unary(method) for channel in channels]
        await asyncio.gather(*(ask(messages[0]) for ask in asks))
        started = time.perf_counter()
        await asyncio.gather(
            *(one(asks[n % len(asks)], n, started + seconds) for n in range(clients))
        )
        spent = time.perf_counter() - started
        await asyncio.gather(*(channel.close() for channel in channels))
        return spent

    spent = asyncio.run(main())
    return Figures.of(times, spent, each)


def _stream_loop(
    address: str, method: str, messages: list[bytes], clients: int, seconds: float
) -> Figures:
    times: list[float] = []

    async def one(call: grpc.aio.StreamStreamMultiCallable, number: int, end: float) -> None:
        stream = call()
        i = number * 97
        while (now := time.perf_counter()) < end:
            await stream.write(messages[i % len(messages)])
            await stream.read()
            times.append(time.perf_counter() - now)
            i += 1
        await stream.done_writing()

    async def main() -> float:
        channels = _channels(address, clients)
        asks = [channel.stream_stream(method) for channel in channels]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        started = time.perf_counter()
        await asyncio.gather(
            *(one(asks[n % len(asks)], n, started + seconds) for n in range(clients))
        )
        spent = time.perf_counter() - started
        await asyncio.gather(*(channel.close() for channel in channels))
        return spent

    spent = asyncio.run(main())
    return Figures.of(times, spent)


def _channels(address: str, clients: int) -> list[grpc.aio.Channel]:
    return [grpc.aio.insecure_channel(address, options=_OPTIONS) for _ in range(min(clients, 4))]


def search_message(
    vector: list[float], collection: str, limit: int = 10, **more: object
) -> pb.SearchRequest:
    """Return a query by vector that wants ids and scores only."""
    request = pb.SearchRequest(collection=collection, limit=limit, view=1, **more)
    request.vector.values.extend(vector)
    return request
