"""Open-loop load in a process of its own: calls leave when they are due, answered or not."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import grpc
from google.rpc import error_details_pb2, status_pb2

SEARCH = "/lookalike.v1.SearchService/Search"
HEALTH = "/grpc.health.v1.Health/Check"
CHANNELS = 16
TIMEOUT_S = 5.0
_DETAILS = "grpc-status-details-bin"


@dataclass
class Seen:
    """What became of the calls of a run; times in milliseconds."""

    seconds: float = 0.0
    late_ms: float = 0.0
    """How late the load left at worst: more than some ms and it was not the load that was meant."""
    codes: Counter[str] = field(default_factory=Counter)
    answered_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    retry_ms: list[float] = field(default_factory=list)
    """What refusals gave as the time to try again."""
    said: Counter[str] = field(default_factory=Counter)
    """Words of failures that are no refusals."""
    cpu_s: float = 0.0
    """Of the process that made the load."""


def load(
    address: str,
    messages: Sequence[bytes],
    rate: float,
    seconds: float,
    core: int | None = None,
) -> Seen:
    """Call Search `rate` times a second, evenly, and the health service ten times."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(False)
    args = (address, list(messages), rate, seconds, core, theirs)
    process = context.Process(target=_main, args=args)
    process.start()
    theirs.close()
    seen: Seen = ours.recv()
    process.join()
    return seen


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so many are not above; 0.0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def _main(
    address: str,
    messages: list[bytes],
    rate: float,
    seconds: float,
    core: int | None,
    pipe: Connection,
) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    pipe.send(asyncio.run(_run(address, messages, rate, seconds)))


async def _run(address: str, messages: list[bytes], rate: float, seconds: float) -> Seen:
    seen = Seen()
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
    calls = [channel.unary_unary(SEARCH) for channel in channels]
    health = channels[0].unary_unary(HEALTH)
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    under_way: set[asyncio.Task[None]] = set()

    def begin(work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[arg-type]
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    began = time.perf_counter()
    sent = checked = 0
    while (spent := time.perf_counter() - began) < seconds:
        seen.late_ms = max(seen.late_ms, (spent - sent / rate) * 1e3) if sent else 0.0
        while sent <= spent * rate:
            begin(_ask(calls[sent % CHANNELS], messages[sent % len(messages)], seen))
            sent += 1
        if checked <= spent * 10:
            begin(_check(health, seen))
            checked += 1
        await asyncio.sleep(min(0.001, 1 / rate))
    seen.seconds = time.perf_counter() - began
    if under_way:
        await asyncio.gather(*under_way)
    for channel in channels:
        await channel.close()
    seen.cpu_s = time.process_time()
    return seen


async def _ask(call: grpc.aio.UnaryUnaryMultiCallable, message: bytes, seen: Seen) -> None:
    began = time.perf_counter()
    try:
        await call(message, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        seen.refused_ms.append((time.perf_counter() - began) * 1e3)
        seen.codes[error.code().name] += 1
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            seen.said[str(error.details())[:200]] += 1
        elif len(seen.retry_ms) < 2000:
            seen.retry_ms.append(_retry_ms(error))
        return
    seen.answered_ms.append((time.perf_counter() - began) * 1e3)
    seen.codes["OK"] += 1


async def _check(call: grpc.aio.UnaryUnaryMultiCallable, seen: Seen) -> None:
    began = time.perf_counter()
    try:
        await call(b"", timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        seen.codes[f"health {error.code().name}"] += 1
    seen.health_ms.append((time.perf_counter() - began) * 1e3)


def _retry_ms(error: grpc.aio.AioRpcError) -> float:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            for detail in status_pb2.Status.FromString(value).details:
                retry = error_details_pb2.RetryInfo()
                if detail.Unpack(retry):
                    return retry.retry_delay.ToTimedelta().total_seconds() * 1e3
    return -1.0
