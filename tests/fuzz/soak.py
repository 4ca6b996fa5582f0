"""Mixed traffic for as long as one likes: honest clients, careless ones and hostile ones."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import hostile_zoo
from fuzz import cancels
from fuzz.outside import MIB, Control, Outside
from fuzz.siege import Siege
from lookalike.client import Client, NewItem
from made_pictures import jpeg

COLLECTION = "honest"
IDS = 60
VERSIONS = 40


@dataclass(frozen=True)
class Sample:
    """What was seen of a server at a moment, `at` in seconds."""

    at: float
    rss: int
    threads: int
    files: int
    folder: int


class Soak:
    """The traffic of one seed. `wrong` says what no server may do."""

    def __init__(self, outside: Outside, seed: int, pause_s: float = 0.05) -> None:
        self.outside = outside
        self.wrong: list[str] = []
        self.done: dict[str, int] = {}
        self.samples: list[Sample] = []
        self._seed = seed
        self._pause_s = pause_s
        self._over = threading.Event()
        self._pictures = [jpeg(5000 + i) for i in range(VERSIONS)]
        self._zoo = list(hostile_zoo.cases())
        self._siege = Siege(outside, seed)
        cancels.prepare(outside.address)
        with Client(outside.address) as client:
            client.create_collection(COLLECTION, image_retention="original")

    def run(self, seconds: float, every_s: float) -> None:
        """Let all of them work for so long, and look at the server now and then."""
        parts = {
            "honest 0": self._honest, "honest 1": self._honest, "zoo": self._bad_pictures,
            "cancels": self._give_up, "messages": self._hostile, "reconnects": self._reconnect,
        }  # fmt: skip
        threads = [threading.Thread(target=self._part, args=part) for part in parts.items()]
        with Control(self.outside.address, pause_s=2 * self._pause_s) as control:
            for thread in threads:
                thread.start()
            self._watch(seconds, every_s)
            self._over.set()
            for thread in threads:
                thread.join()
        self.done["searches"] = len(control.times)
        self.wrong += control.wrong + self._siege.wrong

    def _watch(self, seconds: float, every_s: float) -> None:
        process, began = self.outside.process, time.monotonic()
        while (now := time.monotonic() - began) < seconds and not self.wrong:
            self.samples.append(
                Sample(now, process.rss, process.threads, process.files, self.outside.folder_bytes)
            )
            time.sleep(every_s)

    def _part(self, name: str, work: Callable[[random.Random, str], int]) -> None:
        """Do one thing again and again; what it raises is wrong."""
        rng = random.Random(f"{self._seed}/{name}")
        count = 0
        try:
            while not self._over.is_set():
                count += work(rng, name)
                time.sleep(rng.uniform(0, 2 * self._pause_s))
        except Exception as error:
            self.wrong.append(f"{name}, {count}: {error!r}")
        self.done[name] = count

    # ---------------------------------------------------------------- the parts

    def _honest(self, rng: random.Random, name: str) -> int:
        """Store, store again, delete, and find: only this part knows its ids."""
        with Client(self.outside.address) as client:
            kept: dict[str, int] = {}
            ids = [f"{name}/{i}" for i in range(IDS // 2)]
            client.delete(ids, collection=COLLECTION)
            for _ in range(10):
                for item_id in rng.sample(ids, 10):
                    kept[item_id] = rng.choice([kept.get(item_id, 0), rng.randrange(VERSIONS)])
                items = [NewItem(id=i, image=self._pictures[v], metadata={"v": v})
                         for i, v in kept.items()]  # fmt: skip
                report = client.upload(iter(items), collection=COLLECTION)
                assert not report.failures, report.failures[:3]
                for item_id in rng.sample(sorted(kept), len(kept) // 4):
                    assert client.delete([item_id], collection=COLLECTION) == 1, item_id
                    del kept[item_id]
                for item_id, version in rng.sample(sorted(kept.items()), min(3, len(kept))):
                    self._check(client, item_id, version)
                if self._over.is_set():
                    break
        return 1

    def _check(self, client: Client, item_id: str, version: int) -> None:
        item = client.get(item_id, collection=COLLECTION)
        assert item.metadata == {"v": version}, (item_id, version, item.metadata)
        data = client.image(item_id, original=True, collection=COLLECTION).data
        assert data == self._pictures[version], item_id
        hits = client.search(image=data, collection=COLLECTION, k=1)
        assert hits[0].score > 0.999, (item_id, hits[0])

    def _bad_pictures(self, rng: random.Random, name: str) -> int:
        some = rng.sample(self._zoo, 10)
        with Client(self.outside.address) as client:
            report = client.upload(NewItem(id=case.name, image=case.data) for case in some)
        answers = {result.id: result.error.reason for result in report.failures if result.error}
        for case in some:
            assert answers.get(case.name, "OK") in case.answers, (case.name, answers)
        return len(some)

    def _give_up(self, rng: random.Random, name: str) -> int:
        callers = cancels.Callers(self.outside.address, str(rng.random()))
        for _ in range(10):
            callers.give_up(rng.choice([kind for kind in cancels.KINDS if kind != "verify"]))
        callers.channel.close()
        return 10

    def _hostile(self, rng: random.Random, name: str) -> int:
        self._siege.run(rng.randrange(2**39), 200, in_flight=2)
        return 200

    def _reconnect(self, rng: random.Random, name: str) -> int:
        for _ in range(5):
            with Client(self.outside.address) as client:
                assert client.health() == "serving"
        return 5


def slope(samples: Sequence[Sample], window_s: float) -> tuple[float, float, float]:
    """Return how fast memory grows in MiB an hour, and between what (95 %).

    Theil and Sen's: the median of the slopes between all pairs of windows, each taken at
    its least memory, so that what is under way just then does not count. The interval is
    Sen's, from Kendall's S (Sen 1968, J. Am. Stat. Assoc. 63).
    """
    windows: dict[int, Sample] = {}
    for sample in samples:
        window = int(sample.at / window_s)
        if window not in windows or sample.rss < windows[window].rss:
            windows[window] = sample
    at = np.array([sample.at / 3600 for sample in windows.values()])
    rss = np.array([sample.rss / MIB for sample in windows.values()])
    first, second = np.triu_indices(len(at), 1)
    slopes = np.sort((rss[second] - rss[first]) / (at[second] - at[first]))
    n = len(at)
    spread = 1.96 * np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(0, int((len(slopes) - spread) / 2))
    high = min(len(slopes) - 1, int((len(slopes) + spread) / 2))
    return float(np.median(slopes)), float(slopes[low]), float(slopes[high])
