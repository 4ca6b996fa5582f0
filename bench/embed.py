"""How fast pictures become vectors, beside other ways and the limit of the machine.

    python bench/embed.py [--runtime auto] [--precision bf16] [--infinity PYTHON]
        [--photos DIR] [--only rates,alone] [--rounds 3] [--quick] [--json FILE] [--check]

All contenders work on one checkpoint, of the size of CLIP ViT-B/32, and on one set of files:
made-up photographs of 640 x 480 and 2000 x 1500 pixels, or those of --photos. In each round
they take turns. `tutorial`: Pillow, CLIPProcessor, model in fp32, one picture after the
other. `batch`: the same in batches of 32. `infinity`: infinity-emb over HTTP (its Python is
given by --infinity). `inside`: our readers, queue and model in one process. `embed`: our
server over the wire. `upload`: our server, from the stream to durable. Each file that our
server gets has another hash, so that nothing is known from before.

Processor seconds are those of whatever does the work, a server's children included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import _embed_bars
import _photographs
import _vit
from _embed_again import measure_again, measure_builtin
from _embed_ours import serving

SIZES = {"640x480": (640, 480, 48), "2000x1500": (2000, 1500, 16)}
"""Width, height, and how many files of this size there are."""
PARTS = ("rates", "alone", "again", "builtin", "limit")
PRECISIONS = {"fp32": "fp32", "bf16": "bf16", "int8": "int8"}

Rates = dict[str, dict[str, list[dict[str, float]]]]
"""By size and contender: one entry for each round."""


class Peer:
    """A contender in a process of its own."""

    def __init__(self, python: str, kind: str, checkpoint: Path, options: dict[str, str]) -> None:
        script = Path(__file__).with_name("_embed_peer.py")
        self._process = subprocess.Popen(
            [python, str(script), kind, str(checkpoint), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._hear()

    def ask(self, what: str, files: Sequence[Path] = (), **more: Any) -> Any:
        """Have it do something; return its answer."""
        assert self._process.stdin is not None
        command = {"do": what, "files": [str(path) for path in files], **more}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._hear()["answer"]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


@contextmanager
def peer(
    python: str, kind: str, checkpoint: Path, options: dict[str, str] | None = None
) -> Iterator[Peer]:
    """Start a contender and end it."""
    started = Peer(python, kind, checkpoint, options or {})
    try:
        yield started
    finally:
        started.close()


def measure_rates(bench: Bench) -> tuple[Rates, list[float]]:
    """Have all contenders take turns; return their rates, and the server's memory over time."""
    found: Rates = {size: {} for size in bench.files}
    with ExitStack() as stack:
        peers = {
            kind: stack.enter_context(peer(bench.python(kind), kind, bench.checkpoint, more))
            for kind, more in bench.peers.items()
        }
        ours = stack.enter_context(serving(bench.checkpoint, bench.options))
        first = next(iter(bench.files.values()))
        ours.alone([path.read_bytes() for path in first], 2.0, busy=False)
        memory = [ours.memory_mb(peak=False)]
        for turn in range(bench.rounds):
            for size, paths in bench.files.items():
                files = [path.read_bytes() for path in paths]
                ways: dict[str, Callable[[], dict[str, float]]] = {
                    kind: lambda one=one, paths=paths: one.ask(  # type: ignore[misc]
                        "embed", paths, seconds=bench.seconds, warm=True
                    )
                    for kind, one in peers.items()
                }
                ways["ready"] = lambda paths=paths: peers["inside"].ask(  # type: ignore[misc]
                    "ready", paths, seconds=bench.seconds / 2
                )
                ways["embed"] = lambda files=files: ours.embed(  # type: ignore[misc]
                    files, bench.seconds
                )
                ways["upload"] = lambda files=files: ours.upload(  # type: ignore[misc]
                    files, bench.seconds
                )
                ours.forget_peak()
                names = list(ways)
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    result = ways[name]()
                    found[size].setdefault(name, []).append(result)
                    print(f"  round {turn + 1} {size} {name}: {_told(result)}", flush=True)
                memory.append(ours.memory_mb(peak=True))
    return found, memory


def measure_alone(bench: Bench) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of lone pictures, with nothing else to do and beside bulk work."""
    paths = bench.files["640x480"] if "640x480" in bench.files else next(iter(bench.files.values()))
    found: dict[str, dict[str, list[float]]] = {"ours": {}}
    with ExitStack() as stack:
        ours = stack.enter_context(serving(bench.checkpoint, bench.options))
        files = [path.read_bytes() for path in paths]
        ours.alone(files, 1.0, busy=False)
        theirs = None
        if bench.infinity:
            theirs = stack.enter_context(peer(bench.infinity, "infinity", bench.checkpoint))
            found["infinity"] = {}
        for _ in range(bench.rounds):
            for busy in (False, True):
                when = "busy" if busy else "idle"
                times = ours.alone(files, bench.seconds, busy=busy)
                found["ours"].setdefault(when, []).extend(times)
                if theirs is not None:
                    told = theirs.ask("alone", paths, seconds=bench.seconds, busy=busy)
                    found["infinity"].setdefault(when, []).extend(told)
    for who, kinds in found.items():
        for when, times in kinds.items():
            print(
                f"  lone picture, {who}, {when}: p50 {quantile(times, 0.5) * 1e3:.1f} ms, "
                f"p99 {quantile(times, 0.99) * 1e3:.1f} ms of {len(times)}"
            )
    return found


def quantile(times: Sequence[float], share: float) -> float:
    """Return a quantile of what was measured."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _told(result: dict[str, float]) -> str:
    each = result["cpu_s"] / max(result["images"], 1) * 1e3
    return f"{result['images'] / result['seconds']:.1f} images/s, {each:.1f} ms of processor each"


class Bench:
    """What is to be measured, with what."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.quick: bool = args.quick
        self.rounds: int = 1 if args.quick else args.rounds
        self.seconds: float = args.seconds or (4.0 if args.quick else 10.0)
        self.infinity: str = args.infinity
        self.options = {
            name: value
            for name, value in (("runtime", args.runtime), ("precision", args.precision))
            if value
        }
        self.checkpoint: Path = _vit.make(args.checkpoint or folder / "vit-b-32-random")
        self.peers: dict[str, dict[str, str]] = {"tutorial": {}, "batch": {}}
        if self.infinity:
            self.peers["infinity"] = {}
        self.peers["inside"] = self.options
        self.files = _files(args, folder)

    def python(self, kind: str) -> str:
        """Return the Python that runs a contender."""
        return self.infinity if kind == "infinity" else sys.executable


def _files(args: argparse.Namespace, folder: Path) -> dict[str, list[Path]]:
    if args.photos:
        endings = (".jpg", ".jpeg")
        chosen = sorted(p for p in args.photos.rglob("*") if p.suffix.lower() in endings)
        return {args.photos.name: chosen[:256]}
    found = {}
    for size, (width, height, count) in SIZES.items():
        place = folder / size
        place.mkdir(exist_ok=True)
        found[size] = [place / f"{i}.jpg" for i in range(count // 4 if args.quick else count)]
        for i, path in enumerate(found[size]):
            path.write_bytes(_photographs.make(width, height, i))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs instead of made-up ones")
    parser.add_argument("--checkpoint", type=Path, help="keep the made-up checkpoint here")
    parser.add_argument("--runtime", default="", help="of the clip embedder; empty: its default")
    parser.add_argument("--precision", default="", help="of the clip embedder; empty: its default")
    parser.add_argument("--infinity", default="", help="a Python that has infinity-emb")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one round, under 3 minutes")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="draw the rates into this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    args = parser.parse_args()
    wanted = args.only.split(",")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        report = _measure(Bench(args, Path(folder)), wanted, args.photos)
    report["seconds"] = time.monotonic() - began
    for line in _embed_bars.told(report):
        print(line)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    if args.plot and "rates" in report:
        _embed_bars.plot(report, args.plot)
    missed = _embed_bars.missed(report)
    for bar in missed:
        print(f"MISSED: {bar}", file=sys.stderr)
    return 1 if args.check and missed else 0


def _measure(bench: Bench, wanted: Sequence[str], photos: Path | None) -> dict[str, Any]:
    report: dict[str, Any] = {"cores": os.cpu_count(), "options": bench.options}
    if "limit" in wanted:
        with peer(sys.executable, "limit", bench.checkpoint) as limit:
            report["gflops"] = limit.ask("products")
    if "rates" in wanted:
        report["rates"], report["memory_mb"] = measure_rates(bench)
        if "limit" in wanted:  # the machine may have been busier before than now
            with peer(sys.executable, "limit", bench.checkpoint) as limit:
                again = limit.ask("products")
            report["gflops"] = {
                kind: statistics.mean((rate, again[kind]))
                for kind, rate in report["gflops"].items()
            }
    if "alone" in wanted:
        report["alone_s"] = measure_alone(bench)
    if "again" in wanted:
        report["again"] = measure_again(photos, 500 if bench.quick else 2257)
    if "builtin" in wanted:
        report["builtin"] = measure_builtin(bench.files, bench.seconds)
    return report


if __name__ == "__main__":
    sys.exit(main())
