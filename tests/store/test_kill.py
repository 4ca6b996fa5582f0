"""What was acknowledged is there after kill -9, at whatever instant it comes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lookalike.server.domain import Filter, Item, View
from lookalike.server.store import Store

LOOPS = 25

CHILD = """
import sys, threading
from pathlib import Path
from lookalike.server.domain import WriteMode
from lookalike.server.store import Store
from store.making import create, item

store = Store.open(Path(sys.argv[1]))
run = int(sys.argv[2])
number = store.collections()[0].number if store.collections() else create(store).number
printing = threading.Lock()
def write(worker):
    n = 0
    while True:
        n += 1
        item_id, value = f"r{run}w{worker}n{n % 40}", float(run * 1000000 + n)
        if n % 7 == 0:
            gone = f"r{run}w{worker}n{(n - 3) % 40}"
            store.write(lambda t: t.delete(number, [gone])).result()
            line = f"- {gone}"
        else:
            one = item(item_id, value, {"v": value}, thumbnail=b"t" * 200)
            store.write(lambda t: t.put(number, [one], WriteMode.UPSERT)).result()
            line = f"+ {item_id} {value}"
        with printing:
            sys.stdout.write(line + "\\n")
            sys.stdout.flush()
for worker in range(4):
    threading.Thread(target=write, args=(worker,), daemon=True).start()
threading.Event().wait()
"""


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    began = time.monotonic()
    acked: dict[str, object] = {}
    loops = total = 0
    for loop in range(LOOPS):
        if time.monotonic() - began > 9 and loop >= 8:
            break  # a slow machine: enough
        journal = _killed(tmp_path, loop, rng.uniform(0.01, 0.1))
        for line in journal:
            sign, item_id, *value = line.split()
            acked[item_id] = float(value[0]) if sign == "+" else None
        loops, total = loops + 1, total + len(journal)
        _compare(tmp_path, acked, loop)
    print("loops", loops, "acknowledged", total)
    assert total > loops


def _killed(folder: Path, loop: int, after_s: float) -> list[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(loop)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(after_s)
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read()
    child.stdout.close()
    child.wait()
    text = (first + rest).decode()
    return text[: text.rfind("\n") + 1].splitlines()


def _compare(folder: Path, acked: dict[str, object], loop: int) -> None:
    """Each worker has one operation at most that was done but not yet told: its next one."""
    store = Store.open(folder)
    number = store.collections()[0].number
    items = {f.id: f for f in store.list(number, Filter(), "", 10**6, View.FULL)}
    assert [f.key for f in sorted(items.values(), key=lambda f: f.key)] == store.keys(
        number
    ).tolist()
    wrong = {i for i, value in acked.items() if value != _value(items, i)}
    wrong |= {i for i in items if i not in acked}
    for found in items.values():
        assert found.vector is not None
        assert found.metadata["v"] == np.float32(found.vector[0])
        assert store.image(found.key, False) is not None
    store.close()
    workers = [i.split("n")[0] for i in wrong]
    assert all(w.startswith(f"r{loop}w") for w in workers), wrong
    assert len(set(workers)) == len(workers), wrong
    for item_id in wrong:  # told or not, it is how it is from now on
        acked[item_id] = _value(items, item_id)


def _value(items: Mapping[str, Item], item_id: str) -> object:
    return items[item_id].metadata["v"] if item_id in items else None
