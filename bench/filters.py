"""What filters cost and what they lose: share of items that pass, kind of filter, over the wire.

    python bench/filters.py [--count 100000] [--rounds 3] [--queries 100] [--quick]
        [--index hnsw] [--folder DIR] [--json FILE] [--check]

One caller asks a real server, filtered and unfiltered turns interleaved; recall@10 is
against comparing with every item that passes. Kinds of filter: `equal` (one value of an
indexed field, the same each time), `range` (of a field without an index, another bound each
time), `composed` (and, or, not), and `clusters` (values that go with the vectors: what
passes lies together, near the query or far from it). Beside each is what the way of the
tutorials finds: ask for 100, drop what does not pass, keep ten. Server seconds are
processor time of the server.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _load
import grpc
import numpy as np
from _contenders import NAME, Lookalike
from _vectors import TOP, Dataset, clustered
from numpy.typing import NDArray

from lookalike.client import Client, F, Hnsw, IndexSpec, NewItem
from lookalike.client.filters import Where, compile_filter
from lookalike.v1 import search_service_pb2 as pb

SHARES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9)
KINDS = ("equal", "range", "composed", "clusters")
VALUES = {0.001: "a", 0.01: "b", 0.05: "c", 0.1: "d", 0.25: "e", 0.5: "f"}
"""Values of the field `kind`, by the share of items that have them; others have "g"."""
CLUSTERS = 400
BAR_RECALL = 0.98
BAR_RATIO = 4.0
AT_ONCE = 10
"""Queries of one kind before the other has its turn: a busy machine harms both alike."""
_LEARNED_S = 120.0

Mask = NDArray[np.bool_]


@dataclass
class Fields:
    """Metadata of all items, and filters that let a share of them through."""

    kind: NDArray[np.str_]
    u: NDArray[np.float64]
    v: NDArray[np.float64]
    cluster: NDArray[np.int64]
    order: list[int]
    """The clusters in the order in which filters take them."""

    @classmethod
    def over(cls, vectors: NDArray[np.float32], seed: int) -> Fields:
        rng = np.random.default_rng(seed)
        count = len(vectors)
        bounds = np.cumsum([*VALUES])
        names = np.array([*VALUES.values(), "g"])
        kind = names[np.searchsorted(bounds, rng.random(count), side="right")]
        centres = vectors[rng.choice(count, CLUSTERS, replace=False)]
        cluster = np.concatenate(
            [(vectors[i : i + 8192] @ centres.T).argmax(1) for i in range(0, count, 8192)]
        )
        order = rng.permutation(CLUSTERS).tolist()
        return cls(kind, rng.random(count), rng.random(count), cluster, order)

    def metadata(self, row: int) -> dict[str, Any]:
        return {
            "kind": str(self.kind[row]),
            "u": float(self.u[row]),
            "v": float(self.v[row]),
            "cluster": int(self.cluster[row]),
            "title": f"picture {row}",
        }

    def filter(self, kind: str, share: float, turn: int) -> tuple[Where, Mask]:
        """Return a filter and the items that pass it."""
        if kind == "equal":
            if share > 0.5:
                return F.kind != "d", self.kind != "d"
            return F.kind == VALUES[share], self.kind == VALUES[share]
        if kind == "range":
            bound = share * (1 + 1e-6 * turn)
            return F.u < bound, self.u < bound
        if kind == "composed":
            top = min(1.0, share + (1 - share) / 2)
            rest = 1 - share / top
            where = (F.u < top) & ((F.v >= rest) | (F.kind == "none")) & ~(F.v < rest)
            return where, (self.u < top) & (self.v >= rest)
        sizes = np.bincount(self.cluster, minlength=CLUSTERS)[self.order]
        number = 1 + int(np.searchsorted(np.cumsum(sizes), share * len(self.cluster)))
        chosen = self.order[:number]
        return F.cluster.in_(chosen), np.isin(self.cluster, chosen)


class Server(Lookalike):
    """A server that has been given items with metadata, and one caller."""

    def store(self, data: Dataset, fields: Fields) -> None:
        with Client(self.server.address) as client:
            names = [collection.name for collection in client.collections()]
            if NAME not in names:
                client.create_collection(
                    NAME,
                    model="none",
                    dimension=data.vectors.shape[1],
                    index=self.index,
                    indexed_fields=["kind"],
                )
                report = client.upload(
                    (
                        NewItem(id=str(i), vector=v, metadata=fields.metadata(i))
                        for i, v in enumerate(data.vectors)
                    ),
                    collection=NAME,
                )
                assert report.failed == 0, report
            self._until_indexed(client, len(data.vectors))

    def call(self) -> None:
        """Begin to call."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(self.server.address, options=options)
        self.search = self.channel.unary_unary(_load.SEARCH)

    def ask(self, message: bytes) -> tuple[list[int], float]:
        """Return what was found, and how long it took."""
        began = time.perf_counter()
        answer = self.search(message)
        seconds = time.perf_counter() - began
        return [int(hit.item.id) for hit in pb.SearchResponse.FromString(answer).hits], seconds

    def busy_s(self) -> float:
        """Return the processor time of the server so far."""
        tasks = Path(f"/proc/{self.server.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@dataclass
class Cell:
    """What was measured of one kind of filter at one share."""

    kind: str
    share: float
    passing: int = 0
    first_ms: float = 0.0
    times: list[float] = field(default_factory=list)
    busy_s: float = 0.0
    asked: int = 0
    recalls: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    """Recall of filtering afterwards."""
    ratios: list[float] = field(default_factory=list)
    """Median time against that of unfiltered searches, of each round."""

    def figures(self) -> dict[str, float | str]:
        times = sorted(self.times)
        found: dict[str, float | str] = {
            "kind": self.kind,
            "share": self.share,
            "passing": self.passing,
            "p50_ms": times[len(times) // 2] * 1e3,
            "p99_ms": times[int(len(times) * 0.99)] * 1e3,
            "server_ms": self.busy_s / self.asked * 1e3,
            "ratio": statistics.median(self.ratios or [1.0]),
        }
        if self.recalls and self.after:
            found["recall"] = float(np.mean(self.recalls))
            found["filtered_after"] = float(np.mean(self.after))
            found["first_ms"] = self.first_ms
        return found


class Run:
    """All turns over one server."""

    def __init__(self, data: Dataset, fields: Fields, server: Server, queries: int) -> None:
        self.data, self.fields, self.server = data, fields, server
        self.queries = data.queries[:queries]
        self.plain = Cell("unfiltered", 1.0)
        self.cells = [Cell(kind, share) for kind in KINDS for share in SHARES]
        self.scores = self.queries @ data.vectors.T

    def warm_up(self) -> None:
        """Ask each filter until the server has learned its fields and made what it needs."""
        for cell in self.cells:
            where, _ = self.fields.filter(cell.kind, cell.share, 0)
            cell.first_ms = self.server.ask(self._message(0, where))[1] * 1e3
        end, quiet = time.monotonic() + _LEARNED_S, 0
        while quiet < 3 and time.monotonic() < end:
            for cell in self.cells:
                for turn in range(3):
                    where, _ = self.fields.filter(cell.kind, cell.share, turn)
                    self.server.ask(self._message(turn, where))
            before = self.server.busy_s()
            time.sleep(1.0)
            quiet = quiet + 1 if self.server.busy_s() - before < 0.1 else 0

    def round(self) -> None:
        """Let unfiltered searches and every filter have one turn."""
        for cell in self.cells:
            turns: list[tuple[Mask, bytes]] = []
            for i in range(len(self.queries)):
                where, mask = self.fields.filter(cell.kind, cell.share, i)
                turns.append((mask, self._message(i, where)))
                cell.passing = int(np.count_nonzero(mask))
            plain, filtered = [], []
            for start in range(0, len(turns), AT_ONCE):
                some = range(start, min(start + AT_ONCE, len(turns)))
                plain += self._turn(self.plain, [self._message(i) for i in some])[1]
                found, times = self._turn(cell, [turns[i][1] for i in some])
                filtered += times
                if len(cell.recalls) < len(turns):
                    for i, ids in zip(some, found, strict=True):
                        self._judge(cell, i, turns[i][0], ids)
            cell.ratios.append(statistics.median(filtered) / statistics.median(plain))

    def _turn(self, cell: Cell, messages: list[bytes]) -> tuple[list[list[int]], list[float]]:
        """Ask some queries; return what was found, and the seconds of each."""
        before = self.server.busy_s()
        answers = [self.server.ask(message) for message in messages]
        cell.busy_s += self.server.busy_s() - before
        cell.asked += len(messages)
        times = [seconds for _, seconds in answers]
        cell.times += times
        return [ids for ids, _ in answers], times

    def _judge(self, cell: Cell, i: int, mask: Mask, found: list[int]) -> None:
        """Note the recall of an answer, and of filtering the nearest hundred afterwards."""
        truth = self._best(i, mask)
        cell.recalls.append(len(truth & set(found)) / len(truth))
        hundred = np.argpartition(-self.scores[i], 100)[:100]
        kept = hundred[mask[hundred]]
        best = kept[np.argsort(-self.scores[i, kept])][:TOP]
        cell.after.append(len(truth & set(best.tolist())) / len(truth))

    def _best(self, i: int, mask: Mask) -> set[int]:
        rows = np.flatnonzero(mask)
        scores = self.scores[i, rows]
        if len(rows) > TOP:
            rows = rows[np.argpartition(-scores, TOP)[:TOP]]
        return set(rows.tolist())

    def _message(self, i: int, where: Where | None = None) -> bytes:
        more = {} if where is None else {"filter": compile_filter(where)}
        message = _load.search_message(self.queries[i].tolist(), NAME, TOP, **more)
        return message.SerializeToString()


def missed(figures: list[dict[str, Any]]) -> list[str]:
    """Name each bar that falls short."""
    out = []
    for one in figures:
        name = f"{one['kind']}, {one['share']:.1%} of the items"
        if one.get("recall", 1.0) < BAR_RECALL:
            out.append(f"{name}: recall@10 {one['recall']:.3f}, wanted {BAR_RECALL}")
        if one["ratio"] > BAR_RATIO:
            out.append(f"{name}: {one['ratio']:.2f}x unfiltered, at most {BAR_RATIO:.0f}x wanted")
    return out


def report(figures: list[dict[str, Any]]) -> None:
    """Print one line for each filter."""
    print(
        f"\n{'filter':12}{'share':>7}{'items':>8}{'p50 ms':>8}{'p99 ms':>8}{'server':>8}"
        f"{'x plain':>8}{'recall':>8}{'after':>8}{'first':>9}"
    )
    for one in figures:
        line = f"{one['kind']:12}{one['share']:7.1%}{one['passing']:8}{one['p50_ms']:8.2f}"
        line += f"{one['p99_ms']:8.2f}{one['server_ms']:8.2f}{one['ratio']:8.2f}"
        if "recall" in one:
            line += f"{one['recall']:8.4f}{one['filtered_after']:8.4f}{one['first_ms']:9.1f}"
        print(line)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=0, help="items; 100,000 (quick: 20,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--index", default="hnsw", help="hnsw, or the name of a backend")
    parser.add_argument("--folder", type=Path, help="a data folder to keep, or to use again")
    parser.add_argument("--quick", action="store_true", help="under 3 minutes")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    args = parser.parse_args()
    args.count = args.count or (20_000 if args.quick else 100_000)
    args.rounds = args.rounds or (2 if args.quick else 3)
    return args


def measured(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    data = clustered(args.count, seed=args.seed)
    fields = Fields.over(data.vectors, args.seed)
    print(f"{data.name}; {args.queries} queries; {os.cpu_count()} cores", flush=True)
    graph = IndexSpec("faiss", algorithm=Hnsw())
    server = Server(folder, graph if args.index == "hnsw" else args.index)
    server.start()
    try:
        server.store(data, fields)
        print(server.describe(), flush=True)
        server.call()
        run = Run(data, fields, server, args.queries)
        run.warm_up()
        for number in range(args.rounds):
            run.round()
            print(f"round {number + 1} of {args.rounds} is over", flush=True)
    finally:
        server.stop()
    return [cell.figures() for cell in (run.plain, *run.cells)]


def main() -> int:
    args = options()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        figures = measured(args.folder or Path(folder), args)
    report(figures)
    if args.json:
        everything = {"count": args.count, "index": args.index, "figures": figures}
        args.json.write_text(json.dumps(everything, indent=1))
    short = missed(figures)
    for bar in short:
        print(f"MISSED: {bar}", file=sys.stderr)
    return 1 if args.check and short else 0


if __name__ == "__main__":
    sys.exit(main())
