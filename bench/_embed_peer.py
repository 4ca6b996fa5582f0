"""One way to turn pictures into vectors, run by the Python of its own environment.

    PYTHON bench/_embed_peer.py KIND CHECKPOINT [OPTIONS as JSON]

Reads commands as JSON lines from stdin and answers each with one JSON line. KIND:
tutorial (the loop that everyone writes first), batch (the same in batches, fp32), infinity
(infinity-emb over HTTP), inside (this project's embedder without a server), limit (the
matrix products of this machine). Needs of the project only what KIND needs.
"""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH = 32
"""Pictures of a batch, and of a request to infinity-emb."""
CLIENTS = 2
"""Callers of infinity-emb at the same time: more made it no faster."""


class Way:
    """What a contender has to be able to do. `files`: encoded pictures, asked in turn."""

    def __init__(self, checkpoint: Path, options: dict[str, Any]) -> None:
        self.checkpoint = checkpoint
        self.options = options

    def start(self) -> None:
        """Load the model."""

    def embed(self, files: list[bytes], seconds: float) -> int:
        """Embed files over and over for about so long; return how many."""
        raise NotImplementedError

    def cpu_s(self) -> float:
        """Return the processor time used so far by whatever does the work."""
        return time.process_time()

    def one(self, file: bytes) -> None:
        """Embed one file alone."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what was started."""


class Tutorial(Way):
    """Open, process, run, one picture after the other, in fp32."""

    each = 1

    def start(self) -> None:
        import torch
        from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor

        self.torch = torch
        self.model = CLIPModel.from_pretrained(self.checkpoint).eval()
        try:
            self.processor: Any = CLIPProcessor.from_pretrained(self.checkpoint)
        except Exception:  # a checkpoint without a tokenizer
            self.processor = CLIPImageProcessor.from_pretrained(self.checkpoint)

    def embed(self, files: list[bytes], seconds: float) -> int:
        end, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            self._run([files[(done + i) % len(files)] for i in range(self.each)])
            done += self.each
        return done

    def one(self, file: bytes) -> None:
        self._run([file])

    def _run(self, files: list[bytes]) -> None:
        from PIL import Image

        pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        with self.torch.no_grad():
            inputs = self.processor(images=pictures, return_tensors="pt")
            found = self.model.get_image_features(pixel_values=inputs["pixel_values"])
            found = getattr(found, "pooler_output", found)  # transformers 5 wraps it
            found = found / found.norm(dim=-1, keepdim=True)


class Batch(Tutorial):
    """The same, `BATCH` pictures at a time."""

    each = BATCH


class Infinity(Way):
    """infinity-emb with torch, asked over HTTP by `CLIENTS` callers in batches."""

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        program = Path(sys.executable).with_name("infinity_emb")
        command = [str(program), "v2", "--model-id", str(self.checkpoint), "--engine", "torch"]
        command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--served-model-name", "bench"]
        command += ["--no-bettertransformer", "--no-model-warmup", "--batch-size", str(BATCH)]
        self.url = f"http://127.0.0.1:{port}"
        environment = {**os.environ, "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(command, stdout=2, env=environment)
        until(lambda: urllib.request.urlopen(f"{self.url}/health", timeout=5).read(), 600)

    def embed(self, files: list[bytes], seconds: float) -> int:
        end, counts = time.perf_counter() + seconds, [0] * CLIENTS

        def call(number: int) -> None:
            while time.perf_counter() < end:
                at = number * 7 + counts[number]
                self._ask([files[(at + i) % len(files)] for i in range(BATCH)])
                counts[number] += BATCH

        callers = [threading.Thread(target=call, args=(i,)) for i in range(CLIENTS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        return sum(counts)

    def one(self, file: bytes) -> None:
        self._ask([file])

    def _ask(self, files: list[bytes]) -> None:
        told = ["data:image/jpeg;base64," + base64.b64encode(file).decode() for file in files]
        asked = {"model": "bench", "modality": "image", "input": told}
        request = urllib.request.Request(
            f"{self.url}/embeddings",
            json.dumps(asked).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            assert len(json.load(answer)["data"]) == len(files)

    def cpu_s(self) -> float:
        return time.process_time() + process_cpu_s(self.process.pid)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


class Inside(Way):
    """This project's embedder, its readers and its queue, without wire and store."""

    def start(self) -> None:
        from lookalike.backends.embed.base import EmbedderOptions
        from lookalike.server.limits import Limits
        from lookalike.server.models import ModelConfig, Models
        from lookalike.server.pictures import Pictures

        options = EmbedderOptions(str(self.checkpoint), extra=self.options)
        limits = Limits()
        most = limits.embed_queue_items
        self.models = Models({"m": ModelConfig("clip", options)}, "m", max_waiting=most)
        self.model = self.models.get("m")
        self.pictures = Pictures(
            limits, threads=len(os.sched_getaffinity(0)), hold=self.models.have_enough
        )

    def embed(self, files: list[bytes], seconds: float) -> int:
        end, done = time.perf_counter() + seconds, 0
        room = threading.Semaphore(256)
        problems: list[BaseException] = []

        def finish(future: Any) -> None:
            room.release()
            if future.exception() is not None:
                problems.append(future.exception())

        while time.perf_counter() < end:
            room.acquire()
            self._start(files[done % len(files)], finish)
            done += 1
        for _ in range(256):
            room.acquire()
        if problems:
            raise problems[0]
        return done

    def _start(self, file: bytes, finish: Callable[[Any], None]) -> None:
        def read() -> Any:
            prepared = self.model.prepare(self.pictures.read(file, self.model).image)
            return self.model.submit_image(prepared, deadline=None, bulk=True)

        def was_read(future: Any) -> None:
            if future.exception() is not None:
                finish(future)
            else:
                future.result().add_done_callback(finish)

        self.pictures.submit(read, deadline=None, bulk=True).add_done_callback(was_read)

    def ready(self, files: list[bytes], seconds: float) -> int:
        """Give prepared pictures to the model alone, in its own batches."""
        embedder = self.model._embedder
        prepared = [self.model.prepare(self.pictures.read(f, self.model).image) for f in files]
        batch = (prepared * BATCH)[: embedder.max_batch]
        embedder.embed_prepared(batch)
        end, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            embedder.embed_prepared(batch)
            done += len(batch)
        return done

    def one(self, file: bytes) -> None:
        prepared = self.model.prepare(self.pictures.read(file, self.model).image)
        self.model.submit_image(prepared, deadline=None).result()

    def stop(self) -> None:
        self.pictures.close()
        self.models.close()


class Limit(Way):
    """The largest rate of matrix products, in the shapes of the model and in large ones."""

    def start(self) -> None:
        import torch

        self.torch = torch

    def products(self) -> dict[str, float]:
        """Return GFLOP/s by precision: the best of a large product and of one of ViT-B/32."""
        torch = self.torch
        return {
            "fp32": max(self._rate(n, m, k, torch.float32) for n, m, k in self._shapes()),
            "bf16": max(self._rate(n, m, k, torch.bfloat16) for n, m, k in self._shapes()),
            "int8": max(self._int8(n, m, k) for n, m, k in self._shapes()),
        }

    def _shapes(self) -> Iterator[tuple[int, int, int]]:
        yield 2048, 2048, 2048
        yield 32 * 50, 3072, 768  # the first layer of a block's network, 32 pictures

    def _rate(self, n: int, m: int, k: int, kind: Any) -> float:
        left, right = (self.torch.randn(s).to(kind) for s in ((n, k), (k, m)))
        return self._best(lambda: left @ right, 2 * n * m * k)

    def _int8(self, n: int, m: int, k: int) -> float:
        left, right = (
            self.torch.randint(-128, 127, s, dtype=self.torch.int8) for s in ((n, k), (k, m))
        )
        return self._best(lambda: self.torch._int_mm(left, right), 2 * n * m * k)

    def _best(self, work: Callable[[], object], operations: float) -> float:
        work()
        times = []
        for _ in range(8):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return operations / statistics.quantiles(times, n=4)[0] / 1e9


WAYS: dict[str, type[Way]] = {
    "tutorial": Tutorial,
    "batch": Batch,
    "infinity": Infinity,
    "inside": Inside,
    "limit": Limit,
}


def process_cpu_s(pid: int) -> float:
    """Return the processor time of a process and its children, those that ended included."""
    total, ticks = 0.0, os.sysconf("SC_CLK_TCK")
    for task in (pid, *children(pid)):
        try:
            fields = Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        last = 15 if task == pid else 13
        total += sum(int(field) for field in fields[11:last]) / ticks
    return total


def children(pid: int) -> list[int]:
    """Return the processes below one."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in listed.read_text().split()]
        except OSError:
            continue
    return [*found, *(below for child in found for below in children(child))]


def until(ask: Callable[[], object], seconds: float) -> None:
    """Ask until there is an answer; raise the last failure after so long."""
    end = time.monotonic() + seconds
    while True:
        try:
            ask()
            return
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _alone(way: Way, files: list[bytes], command: dict[str, Any]) -> list[float]:
    """Return the seconds that each of some lone pictures took; `busy`: beside batches."""
    seconds, pause_s = command["seconds"], command.get("pause_s", 0.0)
    bulk = threading.Thread(target=way.embed, args=(files, seconds + 1.0))
    if command["busy"]:
        bulk.start()
        time.sleep(1.0)
    else:
        way.one(files[0])
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        way.one(files[len(times) % len(files)])
        times.append(time.perf_counter() - began)
        time.sleep(pause_s)
    if command["busy"]:
        bulk.join()
    return times


def _answer(way: Way, command: dict[str, Any]) -> Any:
    if command["do"] == "products":
        assert isinstance(way, Limit)
        return way.products()
    files = [Path(path).read_bytes() for path in command["files"]]
    if command["do"] == "alone":
        return _alone(way, files, command)
    assert command["do"] in ("embed", "ready")
    if command.get("warm"):
        way.one(files[0])
    cpu, began = way.cpu_s(), time.perf_counter()
    done = getattr(way, command["do"])(files, command["seconds"])
    return {
        "images": done,
        "seconds": time.perf_counter() - began,
        "cpu_s": way.cpu_s() - cpu,
    }


def main() -> None:
    kind, checkpoint = sys.argv[1], Path(sys.argv[2])
    way = WAYS[kind](checkpoint, json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    try:
        way.start()
        print(json.dumps({"ready": kind}), file=answers, flush=True)
        for line in sys.stdin:
            try:
                answer = {"answer": _answer(way, json.loads(line))}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"[:400]}
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        way.stop()


if __name__ == "__main__":
    main()
