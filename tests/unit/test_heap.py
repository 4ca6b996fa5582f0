"""Memory that threads have given up goes back to the system."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, threading
import numpy as np
from lookalike.server.heap import bound_heap
if sys.argv[1] == "bound":
    bound_heap()
np.ones(30 * 2**20, np.uint8)  # one large piece, and the allocator keeps ever more
together = threading.Barrier(24)
def work():
    together.wait()
    some = [np.ones(2**20, np.uint8) for _ in range(30)]
    together.wait()
    del some
    together.wait()
threads = [threading.Thread(target=work) for _ in range(24)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20)
"""

HOLES = """
from lookalike.server.heap import give_back
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20
some = [bytearray(b"1" * 50_000) for _ in range(3000)]
del some[1::2]
print(resident())
give_back()
print(resident())
"""


def kept(how: str) -> int:
    """Return MiB resident after 24 threads have had 30 MiB each."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_more_memory_of_many_threads_is_given_back() -> None:
    bound, unbound = kept("bound"), kept("unbound")
    print(bound, unbound)
    assert bound < 0.8 * unbound


def test_what_is_free_between_pieces_in_use_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    print(before, after)
    assert after < before - 40, "1,500 holes of 50 kB"
