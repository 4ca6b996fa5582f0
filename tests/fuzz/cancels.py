"""Calls of all kinds that their callers give up at any moment."""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import grpc
import numpy as np

from lookalike.client import Client, NewItem
from lookalike.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    embed_service_pb2,
    embed_service_pb2_grpc,
    index_service_pb2,
    index_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
    types_pb2,
)
from made_pictures import encoded, jpeg

DIM = 64
BATCH = 48
CALL_S = 60.0
LONGEST_S = 0.3


class Callers:
    """Begins calls on one channel. `pictures` never come twice, so that no cache helps."""

    def __init__(self, address: str, seed: str) -> None:
        self.rng = random.Random(seed)
        self.channel = grpc.insecure_channel(
            address,
            [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 2**27)],
        )
        self.index = index_service_pb2_grpc.IndexServiceStub(self.channel)
        self.search = search_service_pb2_grpc.SearchServiceStub(self.channel)
        self.embed = embed_service_pb2_grpc.EmbedServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)

    def picture(self) -> types_pb2.Image:
        return types_pb2.Image(data=self.rng.choice(PICTURES) + self.rng.randbytes(8))

    def item(self) -> index_service_pb2.ItemInput:
        return index_service_pb2.ItemInput(id=f"i{self.rng.randrange(200)}", image=self.picture())

    def give_up(self, kind: str) -> None:
        """Begin a call, let it go on for a while, cancel it, and wait for that."""
        call = KINDS[kind](self)
        time.sleep(0.0 if self.rng.random() < 0.1 else self.rng.uniform(0, LONGEST_S))
        call.cancel()
        with suppress(grpc.RpcError, grpc.FutureCancelledError):
            call.result(CALL_S) if hasattr(call, "result") else list(call)


PICTURES = [jpeg(1000 + i) for i in range(16)]


def prepare(address: str) -> None:
    """Store what the calls read: vectors, pictures, one of many megabytes."""
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 256, (1800, 1800, 3), np.uint8)
    with Client(address) as client:
        client.wait_ready()
        client.create_collection("large", image_retention="original")
        client.upsert([NewItem(id="large", image=encoded(noise, "PNG", compress_level=0))],
                      collection="large")  # fmt: skip
        client.upsert([NewItem(id=f"i{i}", image=jpeg(1000 + i % 16)) for i in range(200)])
        client.create_collection("numbers", dimension=DIM, model="none", index="exact")
        rows = rng.normal(size=(5000, DIM)).astype(np.float32)
        client.upload((NewItem(id=f"n{i}", vector=row) for i, row in enumerate(rows)),
                      collection="numbers")  # fmt: skip


def _search(to: Callers) -> Any:
    return to.search.Search.future(
        search_service_pb2.SearchRequest(image=to.picture(), limit=5), timeout=CALL_S
    )


def _batch_search(to: Callers) -> Any:
    queries = [search_service_pb2.SearchRequest(image=to.picture()) for _ in range(BATCH)]
    return to.search.BatchSearch.future(
        search_service_pb2.BatchSearchRequest(queries=queries), timeout=CALL_S
    )


def _embed(to: Callers) -> Any:
    inputs = [embed_service_pb2.EmbedInput(image=to.picture()) for _ in range(BATCH)]
    return to.embed.Embed.future(embed_service_pb2.EmbedRequest(inputs=inputs), timeout=CALL_S)


def _upsert(to: Callers) -> Any:
    items = [to.item() for _ in range(BATCH)]
    return to.index.UpsertItems.future(
        index_service_pb2.UpsertItemsRequest(items=items), timeout=CALL_S
    )


def _upload(to: Callers) -> Any:
    """Batches of pictures, and then nothing more."""
    pb = index_service_pb2
    items = [pb.UploadItem(seq=i + 1, item=to.item()) for i in range(BATCH * 2)]
    batches = [items[i : i + 8] for i in range(0, len(items), 8)]
    messages = [pb.UploadItemsRequest(batch=pb.UploadBatch(items=batch)) for batch in batches]
    return to.index.UploadItems(_stay([_start(), *messages]), timeout=CALL_S)


def _half_a_picture(to: Callers) -> Any:
    """A picture in pieces, of which some never come."""
    pb = index_service_pb2
    data = to.rng.randbytes(2**20)
    item = pb.UploadItem(seq=1, chunked=True, item=pb.ItemInput(id="half"))
    messages = [_start(), pb.UploadItemsRequest(batch=pb.UploadBatch(items=[item]))]
    for offset in range(0, len(data), 2**17):
        chunk = pb.UploadChunk(seq=1, offset=offset, data=data[offset : offset + 2**17])
        messages.append(pb.UploadItemsRequest(chunk=chunk))
    return to.index.UploadItems(_stay(messages), timeout=CALL_S)


def _stream_search(to: Callers) -> Any:
    pb = search_service_pb2
    queries = [
        pb.StreamSearchRequest(tag=i, search=pb.SearchRequest(image=to.picture()))
        for i in range(BATCH)
    ]
    return to.search.StreamSearch(_stay(queries), timeout=CALL_S)


def _download(to: Callers) -> Any:
    pb = index_service_pb2
    request = pb.GetItemImageRequest(collection="large", id="large", original=True)
    call = to.index.GetItemImage(request, timeout=CALL_S)
    if to.rng.random() < 0.7:
        next(call)
    return call


def _export(to: Callers) -> Any:
    pb = index_service_pb2
    name = to.rng.choice(["numbers", "large", ""])
    return to.index.ExportItems(pb.ExportItemsRequest(collection=name), timeout=CALL_S)


def _backup(to: Callers) -> Any:
    return to.admin.Backup(admin_service_pb2.BackupRequest(), timeout=CALL_S)


def _verify(to: Callers) -> Any:
    return to.admin.Verify(admin_service_pb2.VerifyRequest(probe_count=1000), timeout=CALL_S)


def _duplicates(to: Callers) -> Any:
    pb = search_service_pb2
    kind = to.rng.choice([pb.DUPLICATE_KIND_EXACT, pb.DUPLICATE_KIND_SAME_PICTURE])
    return to.search.FindDuplicates(pb.FindDuplicatesRequest(kind=kind), timeout=CALL_S)


def _recall(to: Callers) -> Any:
    request = search_service_pb2.MeasureRecallRequest(collection="numbers", query_count=1000)
    return to.search.MeasureRecall.future(request, timeout=CALL_S)


def _list(to: Callers) -> Any:
    request = index_service_pb2.ListItemsRequest(collection="numbers", page_size=1000, view=3)  # type: ignore[arg-type]
    return to.index.ListItems.future(request, timeout=CALL_S)


def _start() -> index_service_pb2.UploadItemsRequest:
    return index_service_pb2.UploadItemsRequest(start=index_service_pb2.UploadStart())


def _stay(messages: list[Any]) -> Iterator[Any]:
    """Yield messages, then stay as long as the call is there."""
    yield from messages
    with suppress(queue.Empty):
        queue.SimpleQueue[None]().get(timeout=LONGEST_S * 2)


KINDS: Mapping[str, Callable[[Callers], Any]] = MappingProxyType(
    {
        "search": _search, "batch": _batch_search, "embed": _embed, "upsert": _upsert,
        "upload": _upload, "half a picture": _half_a_picture, "stream": _stream_search,
        "download": _download, "export": _export, "backup": _backup, "verify": _verify,
        "duplicates": _duplicates, "recall": _recall, "list": _list,
    }
)  # fmt: skip
