"""This project's server as the embedding bench uses it: rates, a lone caller, memory."""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _embed_peer import children, process_cpu_s
from _photographs import numbered

from lookalike.client import Client, NewItem
from lookalike.client._files import FoundFile
from lookalike.client.cli._bulk_embed import BulkEmbed
from lookalike.client.local_server import LocalServer

_serial = itertools.count()


@contextmanager
def serving(checkpoint: Path | None, options: dict[str, str]) -> Iterator[Ours]:
    """Give a fresh server with the checkpoint, or with the built-in embedder, warmed up."""
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        settings = Path(folder) / "lookalike.toml"
        settings.write_text(_settings(checkpoint, options))
        data = Path(folder) / "data"
        with LocalServer(data, "--config", str(settings), start_timeout_s=600.0) as server:
            with Client(server.address, timeout_s=300.0) as client:
                client.wait_ready()
                yield Ours(server.pid, client, Path(folder))


def _settings(checkpoint: Path | None, options: dict[str, str]) -> str:
    if checkpoint is None:
        return ""
    lines = ["[models]", 'default = "bench"', "[models.bench]", 'embedder = "clip"']
    lines += [f'model = "{checkpoint}"', "[models.bench.options]"]
    return "\n".join([*lines, *(f'{name} = "{value}"' for name, value in options.items())])


class Ours:
    """One server and a client of it. Every file it gets has a hash that it never saw."""

    def __init__(self, pid: int, client: Client, folder: Path) -> None:
        self.pid = pid
        self.client = client
        self._folder = folder

    def upload(self, files: Sequence[bytes], seconds: float) -> dict[str, float]:
        """Upload new pictures for about so long, to the last one durable."""
        return self._timed(lambda: self._upload(files, seconds))

    def _upload(self, files: Sequence[bytes], seconds: float) -> int:
        def items() -> Iterator[NewItem]:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                number = next(_serial)
                yield NewItem(id=f"n{number}", image=numbered(files[number % len(files)], number))

        report = self.client.upload(items())
        assert not report.failed, report.failures[:3]
        return report.total

    def embed(self, files: Sequence[bytes], seconds: float) -> dict[str, float]:
        """Embed new pictures with `BulkEmbed`, as `lookalike embed` does."""
        spare = self._folder / f"files-{next(_serial)}"
        spare.mkdir()

        def found() -> Iterator[FoundFile]:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                number = next(_serial)
                path = spare / f"{number}.jpg"
                path.write_bytes(numbered(files[number % len(files)], number))
                yield FoundFile(path, path.name)

        def work() -> int:
            problems: list[Any] = []
            count = 0

            def keep(ids: Sequence[str], vectors: Any, fingerprint: str) -> None:
                nonlocal count
                count += len(ids)

            bulk = BulkEmbed(
                [self.client],
                "",
                keep=keep,
                failed=lambda *failure: problems.append(failure),
                done=lambda count: None,
            )
            bulk.run(found())
            assert not problems, problems[:3]
            return count

        return self._timed(work)

    def alone(self, files: Sequence[bytes], seconds: float, *, busy: bool) -> list[float]:
        """Return the seconds that lone Embed calls took, one after the other."""
        bulk = threading.Thread(target=self._upload, args=(files, seconds + 1.0))
        if busy:
            bulk.start()
            time.sleep(1.0)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            number = next(_serial)
            picture = numbered(files[number % len(files)], number)
            began = time.perf_counter()
            self.client.embed(images=[picture])
            times.append(time.perf_counter() - began)
        if busy:
            bulk.join()
        return times

    def cpu_s(self) -> float:
        """Return the processor time of the server and its children so far."""
        return process_cpu_s(self.pid)

    def embedded(self) -> float:
        """Return how many inputs its models have embedded."""
        return float(self.client.info().embedding.inputs)

    def memory_mb(self, *, peak: bool) -> float:
        """Return what the server and its children hold, or held at most since `forget_peak`."""
        field = "VmHWM:" if peak else "VmRSS:"
        return sum(_status_kb(pid, field) for pid in (self.pid, *children(self.pid))) / 1e3

    def forget_peak(self) -> None:
        """Begin the peak of memory anew."""
        for pid in (self.pid, *children(self.pid)):
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def _timed(self, work: Callable[[], int]) -> dict[str, float]:
        cpu, own, began = process_cpu_s(self.pid), time.process_time(), time.perf_counter()
        images = work()
        return {
            "images": images,
            "seconds": time.perf_counter() - began,
            "cpu_s": process_cpu_s(self.pid) - cpu,
            "client_cpu_s": time.process_time() - own,
        }


def _status_kb(pid: int, field: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith(field)), 0.0)
