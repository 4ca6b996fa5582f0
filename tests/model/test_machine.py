"""The server's inside behaves as a dict and an exact comparison do.

Troubleshooting: a failure prints the steps of its walk; PROVE_SEED=n takes the same
walks again, PROVE_SHRINK=1 looks for a shorter one that fails as well.
"""

from __future__ import annotations

import shutil

import pytest

from model.budget import folder, walk
from model.drivers import DAMAGE, Driver
from model.house_driver import HouseDriver
from model.walk import Walk

STEPS = {
    *("create", "drop", "put", "crowd", "update", "delete", "delete_where", "get", "listed"),
    *("search", "search_many", "settle", "snapshot", "restart"),
}
RARE = {
    *(f"crash, {kind}" for kind in DAMAGE),
    *(f"rebuild {spec}" for spec in ("auto", "exact", "flat", "hnsw", "ivf", "codes")),
}


class HouseWalk(Walk):
    """A walk without gRPC, in a folder of its own."""

    def open_driver(self) -> Driver:
        self.folder = folder("walk-")
        return HouseDriver(self.folder)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            if hasattr(self, "folder"):
                shutil.rmtree(self.folder)


def takes_walks(name: str, default: str, steps: set[str]) -> None:
    Walk.seen.clear()
    walk(HouseWalk, name, default)
    print(dict(sorted(Walk.seen.items())))
    assert set(Walk.seen) >= steps, "some steps were never taken"
    assert Walk.seen["hits"] > Walk.seen["hits missed"] * 20


@pytest.mark.timeout(600)
def test_short_walks_agree_with_the_oracle() -> None:
    takes_walks("PROVE_SHORT_STEPS", "24x30", STEPS)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_long_walks_agree_with_the_oracle() -> None:
    takes_walks("PROVE_STEPS", "2000x60", STEPS | RARE)
