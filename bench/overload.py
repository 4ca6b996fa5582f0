"""What more load than the server can bear does to it: refusals, latency, goodput, memory.

    python bench/overload.py [--kind pictures|vectors] [--seconds 60 | --quick]
        [--count 2000] [--cores SERVER,CALLER] [--no-peers] [--json FILE] [--check]

Finds the peak: the greatest rate of answers under open-loop load, where calls leave when
they are due. Then 80 % of the peak, the peak itself, three times the peak for --seconds,
and again the peak and 80 %; then slow peers beside 30 % of it. A machine that others share
is faster at one time than at another: three times the peak is compared with what stood
before and after it, taken together. "pictures": queries are JPEGs of 320 x 240, embedded by the builtin
model; "vectors": queries are vectors of 512. With --cores, the server and the caller each
have a core of their own.

With --check it exits with 0 if every bar was reached, 1 if one was missed, and 2 if a part
was no fair trial: the caller had no processor left, or others kept both from theirs, so
that what it timed was not the server.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _load
import numpy as np
from _overload_load import Seen, load, percentile

from lookalike.client import Client, NewItem
from lookalike.client.local_server import LocalServer
from lookalike.v1 import search_service_pb2 as pb
from lookalike.v1 import types_pb2

COLLECTION = "bench"
OVERLOAD = 3.0
_STREAMS, _UPLOADS, _IDLE = 200, 200, 1000
_MAY_STAY = 18
"""Of the slow peers, as many streams as one caller may hold: 12 uploads, 6 calls that last."""
_PARTS = ("80 %", "peak", "3x", "peak after", "80 % after", "alone", "beside slow peers")
_MOST_LATE_MS = 50.0
"""The load may leave so late, once; a bar in milliseconds says nothing beyond that."""
_MOST_CALLER = 0.9
"""Of a core, for the caller; one that has no more hears of answers late."""
_MISSED, _UNFAIR = 1, 2


@dataclass
class Run:
    """The load of one part, and what the server used for it."""

    seen: Seen
    rate: float
    server_cpu_s: float
    rss_mib: tuple[float, float]
    """Before, and at most."""

    def figures(self) -> dict[str, Any]:
        """Return what goes into the table and the JSON."""
        seen = self.seen
        answered = len(seen.answered_ms)
        return {
            "offered_per_s": round(self.rate, 1),
            "goodput_per_s": round(answered / seen.seconds, 1),
            "codes": dict(seen.codes),
            "said": dict(seen.said),
            "answered_p50_ms": round(percentile(seen.answered_ms, 0.5), 2),
            "answered_p99_ms": round(percentile(seen.answered_ms, 0.99), 2),
            "refused_p50_ms": round(percentile(seen.refused_ms, 0.5), 2),
            "refused_p99_ms": round(percentile(seen.refused_ms, 0.99), 2),
            "retry_p50_ms": round(percentile(seen.retry_ms, 0.5), 1),
            "without_retry": sum(value < 0 for value in seen.retry_ms),
            "health_max_ms": round(max(seen.health_ms, default=0.0), 2),
            "health_p99_ms": round(percentile(seen.health_ms, 0.99), 2),
            "late_max_ms": round(seen.late_ms, 1),
            "server_cpu_us_per_call": round(self.server_cpu_s * 1e6 / max(1, seen.codes.total())),
            "caller_cpu_share": round(seen.cpu_s / seen.seconds, 2),
            "rss_mib": [round(value, 1) for value in self.rss_mib],
        }


class Bench:
    """A server with some data, and load for it."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.core: int | None = None
        self.server = LocalServer(folder, start_timeout_s=300.0)
        self.server.start()
        if args.cores:
            own, self.core = args.cores
            _pin(self.server.pid, own)
        self.messages = self._fill()

    def _fill(self) -> list[bytes]:
        """Store items; return queries."""
        rng = np.random.default_rng(7)
        with Client(self.server.address) as client:
            client.wait_ready(300.0)
            if self.args.kind == "vectors":
                vectors = rng.standard_normal((self.args.count, 512)).astype(np.float32)
                client.create_collection(COLLECTION, model="none", dimension=512)
                items = (NewItem(id=str(i), vector=v) for i, v in enumerate(vectors))
                client.upload(items, collection=COLLECTION)
                queries = rng.standard_normal((200, 512)).astype(np.float32)
                made = [_load.search_message(list(map(float, q)), COLLECTION) for q in queries]
                return [message.SerializeToString() for message in made]
            client.create_collection(COLLECTION)
            pictures = (NewItem(id=str(i), image=_jpeg(i)) for i in range(self.args.count))
            client.upload(pictures, collection=COLLECTION)
        asked = (
            pb.SearchRequest(
                collection=COLLECTION,
                limit=10,
                view=types_pb2.ITEM_VIEW_ID,
                image=types_pb2.Image(data=_jpeg(10**6 + i)),
            )
            for i in range(200)
        )
        return [message.SerializeToString() for message in asked]

    def run(self, rate: float, seconds: float) -> Run:
        """Have the server called `rate` times a second."""
        before = _rss_mib(self.server.pid)
        cpu = _cpu_s(self.server.pid)
        with _watching(self.server.pid) as most:
            seen = load(self.server.address, self.messages, rate, seconds, self.core)
        return Run(seen, rate, _cpu_s(self.server.pid) - cpu, (before, max([before, *most])))

    def peak(self) -> float:
        """Return the greatest rate of answers."""
        closed = _load.calls(self.server.address, _load.SEARCH, self.messages, 8, 3.0)
        rate, best = closed.per_s * 0.9, 0.0
        for _ in range(8):
            got = self.run(rate, self.args.probe_s).figures()["goodput_per_s"]
            print(f"  {rate:7.0f}/s offered, {got:7.0f}/s answered", flush=True)
            if got < 1.03 * best:
                return max(best, got)
            best, rate = max(best, got), rate * 1.2
        return best

    @contextmanager
    def slow_peers(self, seconds: float) -> Iterator[list[str]]:
        """Have slow peers for some time; give what they said."""
        said: list[str] = []
        counts = [str(value) for value in (_STREAMS, _UPLOADS, _IDLE, round(seconds))]
        script = Path(__file__).with_name("_overload_peers.py")
        command = [sys.executable, str(script), self.server.address, *counts]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said.append(process.stdout.readline().strip())
            yield said
            said.append(process.stdout.read().strip())


def _jpeg(seed: int) -> bytes:
    """Return a small picture that is no other's."""
    import io

    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    out = io.BytesIO()
    coarse.resize((320, 240)).save(out, "JPEG", quality=85)
    return out.getvalue()


def _pin(pid: int, core: int) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextmanager
def _watching(pid: int) -> Iterator[list[float]]:
    """Give the memory in use, twice a second."""
    seen: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            seen.append(_rss_mib(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def measure(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all parts."""
    found: dict[str, Any] = {"kind": args.kind}
    bench.run(50, 2)
    found["peak_per_s"] = peak = bench.peak()
    shares = {"80 %": 0.8, "peak": 1.0, "3x": OVERLOAD, "peak after": 1.0, "80 % after": 0.8}
    calm_ms: list[float] = []
    for name, share in shares.items():
        seconds = args.seconds if name == "3x" else min(args.seconds, 20)
        run = bench.run(share * peak, seconds)
        found[name] = _say(name, run)
        calm_ms += run.seen.answered_ms if share < 1 else []
    found["answered_p99_ms_at_80_%"] = round(percentile(calm_ms, 0.99), 2)
    around = [found[name]["goodput_per_s"] for name in ("peak", "peak after")]
    found["goodput_around_3x_per_s"] = round(sum(around) / 2, 1)
    if args.peers:
        found["alone"] = _say("30 % alone", bench.run(0.3 * peak, args.peers_s))
        with bench.slow_peers(args.peers_s + 35) as said:
            found["beside slow peers"] = _say("beside slow", bench.run(0.3 * peak, args.peers_s))
        found["slow peers"] = said
        print(f"slow peers: {said}")
    return found


def _say(name: str, run: Run) -> dict[str, Any]:
    figures = run.figures()
    print(f"{name}: {json.dumps(figures)}", flush=True)
    return figures


def missed(found: dict[str, Any]) -> list[str]:
    """Name each bar that was not reached."""
    out: list[str] = []

    def bar(what: str, value: float, most: float) -> None:
        if value > most:
            out.append(f"{what}: {value:.1f}, wanted at most {most:.1f}")

    over, calm_ms = found["3x"], found["answered_p99_ms_at_80_%"]
    codes = set(over["codes"]) - {"OK", "RESOURCE_EXHAUSTED"}
    if codes:
        out.append(f"refused with {sorted(codes)}, wanted RESOURCE_EXHAUSTED alone")
    bar("refusals without RetryInfo", over["without_retry"], 0)
    bar("p99 of refusals, ms", over["refused_p99_ms"], 50)
    bar("p99 of answers, ms", over["answered_p99_ms"], 2 * calm_ms)
    bar("health, ms", over["health_max_ms"], 100)
    lost = 1 - over["goodput_per_s"] / found["goodput_around_3x_per_s"]
    bar("share of the answers at the peak that are lost", lost, 0.1)
    bar("memory more than before, MiB", over["rss_mib"][1] - over["rss_mib"][0], 64)
    if "alone" in found:
        alone, beside = found["alone"], found["beside slow peers"]
        if set(beside["codes"]) != {"OK"}:
            out.append(f"beside slow peers: {beside['codes']}, wanted OK alone")
        bar("p99 beside slow peers, ms", beside["answered_p99_ms"], 2 * alone["answered_p99_ms"])
        bar("slow peers that were not ended", _STREAMS + _UPLOADS - _ended(found), _MAY_STAY)
        bar("memory for slow peers, MiB", beside["rss_mib"][1] - beside["rss_mib"][0], 300)
    return out


def _ended(found: dict[str, Any]) -> int:
    """Return how many slow peers the server ended; 0 if they did not come to tell."""
    words = found["slow peers"][-1].split()
    return int(words[1]) if len(words) == 2 else 0


def unfair(found: dict[str, Any]) -> list[str]:
    """Name each part in which the times are not those of the server."""
    out: list[str] = []
    for name in _PARTS:
        if (part := found.get(name)) is None:
            continue
        if part["late_max_ms"] > _MOST_LATE_MS:
            out.append(f"{name}: the load left {part['late_max_ms']:.0f} ms late")
        if part["caller_cpu_share"] > _MOST_CALLER:
            out.append(f"{name}: the caller took {part['caller_cpu_share']:.0%} of a core")
    return out


def _cores(text: str) -> tuple[int, int]:
    own, other = text.split(",")
    return int(own), int(other)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kind", choices=("pictures", "vectors"), default="pictures")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--cores", type=_cores)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    args.probe_s, args.peers_s = (3.0, 10.0) if args.quick else (6.0, 20.0)
    args.seconds = 10.0 if args.quick else args.seconds
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        try:
            found = measure(bench, args)
        finally:
            bench.server.stop()
    found["missed"], found["unfair"] = missed(found), unfair(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    for line in found["missed"]:
        print(f"MISSED {line}")
    for line in found["unfair"]:
        print(f"UNFAIR {line}")
    print(f"peak {found['peak_per_s']:.0f}/s, finished {time.strftime('%H:%M:%S')}")
    if not args.check:
        return 0
    return _UNFAIR if found["unfair"] else _MISSED if found["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
