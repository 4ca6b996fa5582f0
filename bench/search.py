"""How fast searches are, at which recall: lookalike, an empty server, libraries, peers.

    python bench/search.py [--count 100000] [--rounds 3] [--seconds 4] [--quick]
        [--index auto,hnsw,exact] [--vectors FILE.npz | --hdf5 FILE] [--json FILE]
        [--plot FILE.png] [--check]
        [--chroma PYTHON] [--milvus PYTHON] [--milvus-lite PYTHON] [--lance PYTHON]

All take turns, round by round, on the same vectors; figures are medians over the rounds with
the least and the greatest. Peers run in environments of their own, whose Python is given
(`pip install chromadb`; `milvus==2.3.5 pymilvus<2.4 setuptools<80 marshmallow<4`; `lancedb`; `pymilvus
milvus-lite`); those that are not given are left out. Callers and servers share the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _bars
import numpy as np
from _contenders import EmptyServer, InProcess, Lookalike, Peer, libraries
from _loops import Figures
from _vectors import Dataset, clustered, from_hdf5, from_npz, recall

CLIENTS = (1, 8, 32)
BATCHES = (32, 256)
PEERS = ("chroma", "milvus", "milvus-lite", "lance")

Table = dict[str, dict[str, list[Figures]]]


class Run:
    """All contenders over one data set, and what was measured of them."""

    def __init__(self, data: Dataset, folder: Path, args: argparse.Namespace) -> None:
        self.data = data
        self.folder = folder
        self.args = args
        self.table: Table = defaultdict(lambda: defaultdict(list))
        self.facts: dict[str, dict[str, Any]] = defaultdict(dict)
        self.ours: dict[str, Lookalike] = {}
        self.peers: list[Peer] = []
        self.libraries: list[InProcess] = []

    def prepare(self) -> None:
        """Start everyone and give everyone the vectors, one after the other."""
        for kind in self.args.index:
            self._prepare_ours(kind)
        first = next(iter(self.ours.values()))
        self.empty = EmptyServer(*first.answer_bytes(self.data.queries))
        self.libraries = libraries(self.data, self.args.libraries)
        for library in self.libraries:
            found = library.found(self.data.queries)
            self.facts[library.name]["recall"] = recall(found, self.data.truth)
            self._say(library.name)
        np.save(self.folder / "vectors.npy", self.data.vectors)
        np.save(self.folder / "queries.npy", self.data.queries)
        for kind in PEERS:
            if python := getattr(self.args, kind.replace("-", "_")):
                self._prepare_peer(kind, python)

    def _prepare_ours(self, kind: str) -> None:
        name = f"lookalike {kind}"
        one = Lookalike(self.folder / kind, "" if kind == "auto" else kind)
        one.start()
        self.ours[name] = one
        facts = self.facts[name]
        facts.update(one.ingest(self.data))
        facts["recall"] = recall(one.found(self.data.queries), self.data.truth)
        facts["index"] = one.describe()
        facts["memory_mb"], facts["disk_mb"] = one.memory_mb(), one.disk_mb()
        one.stop()
        facts["restart_s"] = one.start()
        self._say(name)

    def _prepare_peer(self, kind: str, python: Path) -> None:
        peer = Peer(kind, python, self.folder)
        facts = self.facts[kind]
        try:
            peer.ask("start")
            spent = peer.ask("ingest", file=str(self.folder / "vectors.npy"))
            facts["vectors_per_s"] = len(self.data.vectors) / spent["acknowledged_s"]
            facts["until_indexed_s"] = spent["ready_s"] - spent["acknowledged_s"]
            np.save(self.folder / "some.npy", self.data.queries[:200])
            found = peer.ask("find", file=str(self.folder / "some.npy"))["found"]
            facts["recall"] = recall(found, self.data.truth[:200])
            facts.update(peer.ask("size"))
            self.peers.append(peer)
        except RuntimeError as error:
            facts["failed"] = str(error)
            peer.close()
        self._say(kind)

    def measure(self) -> None:
        """Let everyone have turns, as many as there are rounds."""
        for round_number in range(self.args.rounds):
            for name, step in self._turns():
                contender, _, what = name.partition(" / ")
                self.table[contender][what].append(step())
            print(f"round {round_number + 1} of {self.args.rounds} is over", flush=True)

    def _turns(self) -> list[tuple[str, Callable[[], Figures]]]:
        queries, seconds = self.data.queries, self.args.seconds
        file = self.folder / "queries.npy"
        first = next(iter(self.ours.values()))
        turns: list[tuple[str, Callable[[], Figures]]] = []
        for clients in CLIENTS:
            what = f"unary, {clients} clients"
            everyone: list[tuple[str, Any]] = [*self.ours.items()]
            everyone += [(library.name, library) for library in self.libraries if clients < 32]
            for name, one in everyone:
                turns.append((f"{name} / {what}", _turn(one.unary, queries, clients, seconds)))
            for peer in self.peers:
                turns.append((f"{peer.name} / {what}", _turn(peer.unary, file, clients, seconds)))
            turns.append((f"empty / {what}", self._empty("unary", first, clients)))
        for size in BATCHES:
            what = f"batches of {size}"
            for name, ours in self.ours.items():
                turns.append((f"{name} / {what}", _turn(ours.batch, queries, size, seconds)))
            for library in self.libraries:
                turns.append(
                    (f"{library.name} / {what}", _turn(library.batch, queries, size, seconds))
                )
            turns.append((f"empty / {what}", self._empty("batch", first, size)))
        for name, ours in self.ours.items():
            turns.append((f"{name} / 8 streams", _turn(ours.stream, queries, 8, seconds)))
        turns.append(("empty / 8 streams", self._empty("stream", first, 8)))
        return turns

    def _empty(self, kind: str, ours: Lookalike, number: int) -> Callable[[], Figures]:
        """Ask the empty server as `ours` is asked: the same messages, the same caller."""

        def turn() -> Figures:
            server, ours.server = ours.server, self.empty  # type: ignore[assignment]
            try:
                figures: Figures = getattr(ours, kind)(self.data.queries, number, self.args.seconds)
            finally:
                ours.server = server
            return figures

        return turn

    def search_during_ingest(self) -> None:
        """Measure one caller of the first of ours, idle and beside another who stores."""
        name, ours = next(iter(self.ours.items()))
        idle, busy = ours.searched_during_ingest(self.data, self.args.seconds)
        self.facts[name].update(idle_p99_ms=idle.p99, ingest_p99_ms=busy.p99)

    def close(self) -> None:
        for ours in self.ours.values():
            ours.stop()
        for peer in self.peers:
            peer.close()
        if hasattr(self, "empty"):
            self.empty.stop()

    def _say(self, name: str) -> None:
        facts = {k: round(v, 3) if isinstance(v, float) else v for k, v in self.facts[name].items()}
        print(f"{name}: {facts}", flush=True)


def _turn(
    ask: Callable[[Any, int, float], Figures], what: Any, number: int, seconds: float
) -> Callable[[], Figures]:
    return lambda: ask(what, number, seconds)


def median_of(figures: list[Figures]) -> dict[str, float]:
    """Return the medians, and the least and greatest rate."""
    rates = [f.per_s for f in figures]
    return {
        "per_s": statistics.median(rates),
        "per_s_min": min(rates),
        "per_s_max": max(rates),
        "p50_ms": statistics.median(f.p50 for f in figures),
        "p99_ms": statistics.median(f.p99 for f in figures),
    }


def report(table: Table, facts: dict[str, dict[str, Any]]) -> None:
    """Print one block for each kind of load, the quickest first."""
    kinds = list(dict.fromkeys(what for rows in table.values() for what in rows))
    for what in kinds:
        print(
            f"\n{what}\n{'':24}{'queries/s':>11} {'[min-max]':>17} {'p50 ms':>8} {'p99 ms':>8} recall"
        )
        rows = {name: median_of(r[what]) for name, r in table.items() if what in r}
        for name, m in sorted(rows.items(), key=lambda row: -row[1]["per_s"]):
            found = facts.get(name, {}).get("recall")
            span = f"[{m['per_s_min']:.0f}-{m['per_s_max']:.0f}]"
            print(
                f"{name:24}{m['per_s']:11.0f} {span:>17} {m['p50_ms']:8.2f} {m['p99_ms']:8.2f} "
                + (f"{found:.4f}" if found is not None else "")
            )


def data_of(args: argparse.Namespace) -> Dataset:
    if args.vectors:
        return from_npz(args.vectors)
    if args.hdf5:
        return from_hdf5(args.hdf5)
    return clustered(args.count, seed=args.seed)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=0, help="vectors; 100,000 (quick: 20,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.0, help="for each turn")
    parser.add_argument("--index", default="auto,exact", help="index kinds of ours")
    parser.add_argument("--libraries", default="faiss-flat,faiss-hnsw,hnswlib")
    parser.add_argument("--vectors", type=Path, help="npz by `lookalike embed --out`")
    parser.add_argument("--hdf5", type=Path, help="a data set as ann-benchmarks has them")
    for peer in PEERS:
        parser.add_argument(f"--{peer}", type=Path, help=f"Python of the environment with {peer}")
    parser.add_argument("--quick", action="store_true", help="under 3 minutes")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="write a chart to this file; needs matplotlib")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    args = parser.parse_args()
    args.count = args.count or (20_000 if args.quick else 100_000)
    args.seconds = args.seconds or (1.0 if args.quick else 4.0)
    args.rounds = 2 if args.quick else args.rounds
    args.index, args.libraries = args.index.split(","), args.libraries.split(",")
    return args


def main() -> int:
    args = options()
    data = data_of(args)
    print(f"{data.name}; {len(data.queries)} queries; {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        run = Run(data, Path(folder), args)
        try:
            run.prepare()
            run.measure()
            run.search_during_ingest()
        finally:
            run.close()
    report(run.table, run.facts)
    medians = {n: {w: median_of(f) for w, f in rows.items()} for n, rows in run.table.items()}
    if args.json:
        rounds = {
            n: {w: [vars(f) for f in fs] for w, fs in r.items()} for n, r in run.table.items()
        }
        everything = {"data": data.name, "facts": run.facts, "medians": medians, "rounds": rounds}
        args.json.write_text(json.dumps(everything, indent=1))
    if args.plot:
        _bars.plot(medians, data.name, args.plot)
    missed = _bars.missed(medians, run.facts, args.index[0])
    for bar in missed:
        print(f"MISSED: {bar}", file=sys.stderr)
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
