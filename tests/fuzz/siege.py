"""Sends hostile calls to a real server, several at once, and judges every answer."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from fuzz.messages import DIM, Call, Hostile
from fuzz.outside import MIB, Outside
from lookalike.client import Client, NewItem
from lookalike.v1 import index_service_pb2 as pb
from lookalike.v1 import index_service_pb2_grpc
from made_pictures import jpeg

IN_FLIGHT = 8
CALL_S = 120.0
"""A call that hangs does so for ever. One that costs a millisecond may take 9 s where ten times
as many threads as there are cores want them, so the clock says little of what it costs."""
FEW = {"Watch": 1, "WatchJob": 2}
"""Answers that are waited for, of calls that would go on for ever."""
FILES = {"Backup", "ExportItems", "GetItemImage"}
"""Methods that answer with what was stored, in which any word may stand."""
NEVER = {"UNKNOWN", "INTERNAL", "DATA_LOSS", "ABORTED", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"}
LEAKS = re.compile(
    rb"Traceback|File \"|site-packages|\.py\b|/work|/tmp/|/home|/root|INTERNAL|<class '"
)
NOT_OFFERED = "/grpc.health.v1.Health/List", "UNIMPLEMENTED"
OURS = "/lookalike.v1."
SERVER_GIVES_UP = ("message larger than max", "metadata size", "Received message larger")
"""Words of gRPC's own refusals, which come before our code and have no reason."""
SHOWN = 10


class Siege:
    """Sends the calls of one seed. `wrong` says what no server may do, with the call's number."""

    def __init__(self, outside: Outside, seed: int) -> None:
        self.outside = outside
        self.answers: Counter[str] = Counter()
        self.messages = 0
        self.wrong: list[str] = []
        self.most_rss = 0
        self._lock = threading.Lock()
        self._hostile = Hostile(seed, prepare(outside.address))

    def run(self, first: int, count: int, in_flight: int = IN_FLIGHT) -> None:
        """Send `count` messages or a few more, beginning with the call of number `first`."""
        self._numbers = itertools.count(first)
        self._end = self.messages + count
        threads = [threading.Thread(target=self._work) for _ in range(in_flight)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self.most_rss = max(self.most_rss, self.outside.process.rss)
            time.sleep(0.2)
        for thread in threads:
            thread.join()
        self.next = next(self._numbers)

    def _work(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.outside.address, options) as channel:
            while self.messages < self._end and len(self.wrong) < SHOWN:
                number = next(self._numbers)
                call = self._hostile.call(number)
                code, why = self.send(channel, call)
                with self._lock:
                    self.messages += max(1, len(call.payloads))
                    self.answers[code] += 1
                    if why:
                        self._blame(number, call, f"{code}: {why}")

    def alone(self, first: int, count: int) -> list[tuple[float, int, str]]:
        """Send calls one by one; return the processor seconds, number and method of each."""
        spent = []
        with grpc.insecure_channel(self.outside.address) as channel:
            for number in range(first, first + count):
                call = self._hostile.call(number)
                before = self.outside.process.cpu_s
                code, why = self.send(channel, call)
                spent.append((self.outside.process.cpu_s - before, number, call.method.path))
                if why:
                    self._blame(number, call, f"{code}: {why}")
        return spent

    def _blame(self, number: int, call: Call, why: str) -> None:
        sent = " ".join(payload[:300].hex() for payload in call.payloads[:4])
        what = f"PROVE_SEED={self._hostile.seed} number {number} {call.method.path}"
        self.wrong.append(f"{what}: {why}; {dict(call.metadata)} {sent}")

    def send(self, channel: grpc.Channel, call: Call) -> tuple[str, str]:
        """Make a call; return the name of its code, and what is wrong with the answer."""
        method = call.method
        kinds = ("unary", "stream")
        kind = f"{kinds[method.streams_in]}_{kinds[method.streams_out]}"
        invoke: Any = getattr(channel, kind)(method.path)
        given: Any = iter(call.payloads) if method.streams_in else call.payloads[0]
        try:
            answer = invoke(given, timeout=CALL_S, metadata=call.metadata)
            for data in _some(answer, method.name) if method.streams_out else [answer]:
                if method.name not in FILES and (found := LEAKS.search(data)):
                    return (
                        "OK",
                        f"the answer has {data[max(0, found.start() - 80) : found.end() + 80]!r}",
                    )
            return "OK", ""
        except grpc.RpcError as error:
            return error.code().name, judged(error, method.path)


def _some(answers: Any, name: str) -> Iterator[bytes]:
    yield from itertools.islice(answers, FEW.get(name))
    answers.cancel()


def judged(error: Any, path: str) -> str:
    """Return what is wrong with a refusal, "" if nothing is."""
    code, message = error.code().name, error.details() or ""
    trailers = dict(error.trailing_metadata() or ())
    details = trailers.get("grpc-status-details-bin", b"")
    for data in (message.encode(), details):
        if LEAKS.search(data):
            return message or repr(data)
    if code in NEVER and (path, code) != NOT_OFFERED:
        return message
    if not path.startswith(OURS):
        return ""
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    found = [detail for detail in status.details if detail.Unpack(info)]
    if not found or not info.reason:
        own = any(words in message for words in SERVER_GIVES_UP)
        return "" if own and code == "RESOURCE_EXHAUSTED" else f"no reason: {message}"
    return "" if "x-request-id" in trailers else f"no request id: {message}"


def prepare(address: str) -> list[str]:
    """Make the collections that hostile calls know of; return tokens of pages of their lists."""
    with Client(address) as client:
        client.wait_ready()
        client.create_collection("zoo", image_retention="original", indexed_fields=["year"])
        client.create_collection("vectors", dimension=DIM, model="none", index="exact")
        pictures = [NewItem(id=f"p-{i}", image=jpeg(i), metadata={"year": 1999 + i, "tags": ["a"]})
                    for i in range(6)]  # fmt: skip
        client.upsert(pictures)
        client.upsert(pictures, collection="zoo")
        rows = np.random.default_rng(1).normal(size=(40, DIM)).astype(np.float32)
        vectors = [NewItem(id=f"v-{i}", vector=row, metadata={"a": {"b": i}})
                   for i, row in enumerate(rows)]  # fmt: skip
        client.upsert(vectors, collection="vectors")
    return _tokens(address)


def _tokens(address: str) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        stub = index_service_pb2_grpc.IndexServiceStub(channel)
        pages: list[Any] = [
            stub.ListItems(pb.ListItemsRequest(collection=name, page_size=2), timeout=CALL_S)
            for name in ("", "zoo", "vectors")
        ]
        pages.append(stub.ListCollections(pb.ListCollectionsRequest(page_size=1), timeout=CALL_S))
    tokens = [page.next_page_token for page in pages]
    assert all(tokens)
    return [*tokens, tokens[0][:-1], "A" * 10_000, "é", "AAAA"]


def growth(before: int, after: int) -> str:
    """Say how much memory grew."""
    return f"{before / MIB:.1f} -> {after / MIB:.1f} MiB"
