"""Checks of one promise each, for what a loop of kills cannot bring about."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from durability.contents import VECTORS, new_item, upright, vector
from durability.serving import CONFIG, Orders, Stable
from durability.traffic import make
from durability.violation import Violation
from lookalike.client import Client
from lookalike.client.errors import DataLoss, ItemNotFound, LookalikeError, Overloaded
from made_pictures import encoded

COUNT = 60


class Probe:
    """Servers over one folder, one after the other."""

    def __init__(self, folder: Path, plants: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self._plants = plants
        self._stable = Stable()

    def serve(
        self, use: Callable[[Client], None], config: str = CONFIG, *, kill: bool = False
    ) -> None:
        """Start a server, use it, and stop it in order: the index is on the disk then.

        With `kill` it dies instead, and what was on the disk stays there.
        """
        server = self._stable.start(Orders(self.data, plants=self._plants, config=config))
        try:
            if not (address := server.ready()):
                raise Violation("a server starts again", server.said)
            with Client(address) as client:
                use(client)
        finally:
            if kill:
                server.kill()
            else:
                server.terminate()

    def close(self) -> None:
        self._stable.close()


def damage_is_never_answered(probe: Probe) -> None:
    """Flip one bit of a stored vector: the item may be refused or gone, never wrong."""
    fill(probe, range(1, COUNT + 1))
    path, wanted = probe.data / "store.db", vector(7).tobytes()
    content = bytearray(path.read_bytes())
    assert content.count(wanted) == 1
    content[content.index(wanted) + 5] ^= 1
    path.write_bytes(content)

    def look(client: Client) -> None:
        try:
            item = client.get("item-7", view="full", collection="vectors")
        except (DataLoss, ItemNotFound):
            return
        except LookalikeError as error:
            raise Violation("damage is never answered", f"refused with {error!r}") from error
        assert item.vector is not None
        if item.vector.tobytes() != wanted:
            raise Violation("damage is never answered", f"item-7 is {item.vector}")

    probe.serve(look)


def newer_index_is_not_used(probe: Probe) -> None:
    """Put an older store beside a newer index: its keys mean other vectors from then on."""
    fill(probe, range(1, COUNT + 1))
    old = probe.data.with_name("old.db")
    shutil.copyfile(probe.data / "store.db", old)
    fill(probe, range(101, 101 + COUNT // 2))  # segments of their own, and few enough
    shutil.copyfile(old, probe.data / "store.db")
    (probe.data / "mark").unlink()
    fill(probe, range(201, 201 + COUNT // 2), "", kill=True)

    def look(client: Client) -> None:
        for content in range(201, 201 + COUNT // 2):
            hits = client.search(vector=vector(content), k=1, collection="vectors")
            if hits[0].id != f"item-{content}":
                raise Violation(
                    "a newer index beside an older store is not used",
                    f"item-{content} finds {hits[0].id}",
                )

    probe.serve(look)


def queue_is_bounded(probe: Probe) -> None:
    """Ask for more than may wait at once: some of it is refused."""

    def flood(client: Client) -> None:
        files = [encoded(upright(content), "PNG") for content in range(64)]
        errors = client.embed(images=files, strict=False).errors.values()
        if not any(isinstance(error, Overloaded) for error in errors):
            raise Violation("what waits for the model is bounded", f"64 were taken: {errors}")

    probe.serve(flood, CONFIG + "[limits]\nembed_queue_items = 2\n")


def fill(probe: Probe, contents: range, config: str = CONFIG, *, kill: bool = False) -> None:
    """Store vectors, and have their index on the disk; `config` "": keep it in memory."""

    def put(client: Client) -> None:
        make(client, lambda call: call(), VECTORS)
        for start in range(contents.start, contents.stop, 10):
            some = range(start, min(start + 10, contents.stop))
            items = [new_item("vectors", f"item-{c}", c) for c in some]
            client.upsert(items, collection=VECTORS)
        ends = time.monotonic() + 30
        while config and client.collection(VECTORS).index_status.building:
            assert time.monotonic() < ends
            time.sleep(0.02)

    probe.serve(put, config, kill=kill)


PROBES = {
    "damage is never answered": damage_is_never_answered,
    "a newer index beside an older store is not used": newer_index_is_not_used,
    "what waits for the model is bounded": queue_is_bounded,
}
