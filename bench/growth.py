"""How a collection's cost grows with its items: ingest, build, memory, disk, searches, restart.

    python bench/growth.py [--counts 10000,31600,100000,316000,1000000] [--kinds graph,compressed]
        [--seconds 5] [--quick] [--json FILE] [--plot FILE.png] [--check]

For each kind and count a new server takes vectors of 512 numbers, builds its index, is
stopped and started, and answers 8 callers. Below the table stand the exponents: a cost that
grows like count^x, fitted over the counts by least squares of the logarithms.

"own" is memory that only the process has; "files" are pages of its mapped files that are in
memory at the moment, which the kernel takes back when others need them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _contenders import Lookalike
from _vectors import Dataset, clustered, recall

from lookalike.client import Hnsw, IndexSpec

DIM = 512
CLIENTS = 8
COSTS = (
    "ingest_s",
    "index_s",
    "own_mb",
    "files_mb",
    "disk_mb",
    "restart_s",
    "p50_ms",
    "cpu_ms",
)
LARGE = 1_000_000
BARS = {"graph": {"own_mb": 2900.0}, "compressed": {"own_mb": 1300.0}}
"""At a million vectors, as for every kind: recall 0.98, 1,400 queries/s, ready after 10 s."""


def spec(kind: str, count: int) -> IndexSpec | str:
    """Return the index of a kind; other names are those of backends."""
    match kind:
        case "graph":
            return IndexSpec("faiss", Hnsw())
        case "compressed":
            lists = 2 ** round(math.log2(4 * math.sqrt(count)))
            return IndexSpec("faiss", options={"factory": f"IVF{lists},PQ{DIM // 2}x4fs"})
    return kind


def measure(kind: str, data: Dataset, folder: Path, seconds: float) -> dict[str, Any]:
    """Return the figures of one kind with one number of vectors."""
    count = len(data.vectors)
    one = Lookalike(folder, spec(kind, count))
    one.start()
    try:
        facts: dict[str, Any] = {"kind": kind, "count": count}
        rates = one.ingest(data)
        facts["ingest_s"] = count / rates["vectors_per_s"]
        facts["index_s"] = facts["ingest_s"] + rates["until_indexed_s"]
        facts["built"] = _memory(one)
        one.stop()
        facts["restart_s"] = one.start()
        before = _cpu_s(one.server.pid)
        figures = one.unary(data.queries, CLIENTS, seconds)
        facts["cpu_ms"] = (_cpu_s(one.server.pid) - before) * 1e3 / (figures.per_s * seconds)
        facts |= {"per_s": figures.per_s, "p50_ms": figures.p50, "p99_ms": figures.p99}
        facts["recall"] = recall(one.found(data.queries), data.truth)
        facts |= _memory(one) | {"disk_mb": one.disk_mb(), "index": one.describe()}
    finally:
        one.stop()
    return facts


def _memory(one: Lookalike) -> dict[str, float]:
    return {f"{name}_mb": mb for name, mb in one.memory_parts_mb().items()}


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Fit each cost as count ** x."""
    if len(rows) < 2:
        return {}
    sizes = np.log([row["count"] for row in rows])
    costs = {name: np.log([max(row[name], 1e-3) for row in rows]) for name in COSTS}
    return {name: float(np.polyfit(sizes, cost, 1)[0]) for name, cost in costs.items()}


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Name each bar that falls short."""
    out: list[str] = []
    for row in rows:
        name = f"{row['kind']} with {row['count']:,}"
        if row["recall"] < 0.98:
            out.append(f"{name}: recall@10 {row['recall']:.4f}, wanted 0.98")
        if row["count"] < LARGE:
            continue
        if row["per_s"] < 1400:
            out.append(f"{name}: {row['per_s']:.0f} queries/s with {CLIENTS} clients, wanted 1400")
        if row["restart_s"] > 10:
            out.append(f"{name}: ready after {row['restart_s']:.1f} s, wanted 10")
        for cost, most in BARS.get(row["kind"], {}).items():
            if row[cost] > most:
                out.append(f"{name}: {cost} {row[cost]:.0f}, wanted {most:.0f}")
    return out


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw each cost over the count, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 4, figsize=(16, 7))
    for panel, cost in zip(panels.flat, COSTS, strict=True):
        for kind in dict.fromkeys(row["kind"] for row in rows):
            own = [row for row in rows if row["kind"] == kind]
            label = f"{kind}, ~count^{exponents(own).get(cost, float('nan')):.2f}"
            panel.loglog([r["count"] for r in own], [r[cost] for r in own], "o-", label=label)
        panel.set_title(cost)
        panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--counts", default="")
    parser.add_argument("--kinds", default="graph,compressed")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="under 3 minutes")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="write a chart to this file; needs matplotlib")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    args = parser.parse_args()
    usual = "5000,20000" if args.quick else "10000,31600,100000,316000,1000000"
    args.counts = [int(count) for count in (args.counts or usual).split(",")]
    return args


def main() -> int:
    args = options()
    rows: list[dict[str, Any]] = []
    for count in args.counts:
        data = clustered(count, 500, DIM, args.seed)
        for kind in args.kinds.split(","):
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="lookalike-growth-") as folder:
                row = measure(kind, data, Path(folder), args.seconds)
            rows.append(row)
            shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            print(f"[{time.monotonic() - began:.0f} s] {shown}", flush=True)
    head = ("kind", "count", *COSTS, "per_s", "p99_ms", "recall")
    print("\n" + " ".join(f"{name:>10}" for name in head))
    for row in rows:
        print(
            " ".join(
                f"{row[name]:>10.4g}" if isinstance(row[name], float) else f"{row[name]:>10}"
                for name in head
            )
        )
    fitted = {}
    for kind in args.kinds.split(","):
        fitted[kind] = exponents([row for row in rows if row["kind"] == kind])
        print(f"{kind}: " + ", ".join(f"{n} ~ count^{x:.2f}" for n, x in fitted[kind].items()))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "exponents": fitted}, indent=1))
    if args.plot:
        plot(rows, args.plot)
    short = missed(rows)
    for bar in short:
        print(f"MISSED: {bar}", file=sys.stderr)
    return 1 if args.check and short else 0


if __name__ == "__main__":
    sys.exit(main())
