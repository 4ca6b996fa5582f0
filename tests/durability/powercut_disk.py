"""A disk that remembers the order of everything done to it, and what a power cut would leave.

`DiskLog` is the one list in which the database's files, the engine's files and the
acknowledgements of the client stand in the order they happened. `DiskLog.cut` makes
of a beginning of it one of the disks that could be found after the power failed there.

What is assumed of a disk: what was synced is there (an fsync does not lie); a write
that was not may be there, not there, or there in some of its 512-byte sectors, and the
file may have its new length without it; a sector is old or new, never rubbish, and a
write changes no byte beside its own; names that were made, moved or removed may be so
or not, unless their folder was synced after that; moving a name is atomic.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
ROOT = 0


class Record(NamedTuple):
    """One thing that happened; fields that its kind does not need are empty."""

    kind: str
    """name, unname, move (in the folder `node`); write, resize, sync (of `node`); mark."""
    node: int = -1
    name: str = ""
    other: str = ""
    target: int = -1
    at: int = 0
    data: bytes = b""


@dataclass
class Node:
    """A file, or a folder if it has names."""

    names: dict[str, int] | None = None
    content: bytes = b""


Image = dict[int, Node]


@dataclass
class DiskLog:
    """What happened below one folder since it was taken up. Any thread."""

    root: Path
    records: list[Record] = field(default_factory=list)
    before: Callable[[str], None] = lambda what: None
    """Called before the engine changes a file, so that others may do something in between."""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self.start: Image = {}
        self._take_up(self.root)
        self._names: dict[int, dict[str, int]] = {
            number: dict(node.names)
            for number, node in self.start.items()
            if node.names is not None
        }
        self._next = len(self.start)

    def _take_up(self, path: Path) -> int:
        number = len(self.start)
        node = self.start[number] = Node()
        if path.is_dir():
            node.names = {}
            for entry in sorted(path.iterdir()):
                node.names[entry.name] = self._take_up(entry)
        else:
            node.content = path.read_bytes()
        return number

    def mark(self, text: str) -> None:
        """Note something that is no change of the disk."""
        self.add(Record("mark", name=text))

    def add(self, record: Record) -> None:
        with self._lock:
            self.records.append(record)

    # ---------------------------------------------------------------- by path

    def find(self, path: Path) -> int | None:
        """Return the node that has this path now."""
        with self._lock:
            node = ROOT
            for part in path.relative_to(self.root).parts:
                found = self._names.get(node, {}).get(part)
                if found is None:
                    return None
                node = found
            return node

    def make(self, path: Path, *, folder: bool = False) -> int:
        """Note a new file or folder."""
        with self._lock:
            parent = self.find(path.parent)
            assert parent is not None, f"{path} is made in a folder that nobody made"
            node, self._next = self._next, self._next + 1
            self._names[parent][path.name] = node
            if folder:
                self._names[node] = {}
            self.add(Record("name", parent, path.name, "folder" if folder else "", node))
            return node

    def remove(self, path: Path) -> None:
        with self._lock:
            parent = self.find(path.parent)
            if parent is not None and self._names[parent].pop(path.name, None) is not None:
                self.add(Record("unname", parent, path.name))

    def move(self, old: Path, new: Path) -> None:
        with self._lock:
            folder = self.find(old.parent)
            assert folder is not None
            assert old.parent == new.parent
            node = self._names[folder].pop(old.name)
            self._names[folder][new.name] = node
            self.add(Record("move", folder, new.name, old.name, node))

    def sync(self, path: Path) -> None:
        if (node := self.find(path)) is not None:
            self.sync_node(node)

    def sync_node(self, node: int) -> None:
        self.add(Record("sync", node))

    def digest(self) -> str:
        """Return a checksum of all that happened."""
        running = hashlib.sha256()
        for record in self.records:
            running.update(repr(record).encode())
        return running.hexdigest()

    # ------------------------------------------------------------------- cuts

    def cut(self, upto: int, rng: random.Random) -> Image:
        """Return a disk as it may be found when the power fails after `upto` records."""
        durable: dict[int, int] = {}
        folders = {number for number, node in self.start.items() if node.names is not None}
        nodes = set(self.start)
        of: dict[int, list[int]] = {}
        for i, record in enumerate(self.records[:upto]):
            if record.kind == "sync":
                durable[record.node] = i
            elif record.kind != "mark":
                of.setdefault(record.node, []).append(i)
            if record.kind == "name":
                nodes.add(record.target)
                if record.other == "folder":
                    folders.add(record.target)
        luck = rng.choice([0.0, 0.1, 0.5, 0.5, 0.9, 1.0])
        image: Image = {}
        for number in sorted(nodes):
            old = self.start.get(number, Node({} if number in folders else None))
            synced = durable.get(number, -1)
            sure = [self.records[i] for i in of.get(number, []) if i < synced]
            rest = [self.records[i] for i in of.get(number, []) if i > synced]
            if number in folders:
                image[number] = _names_after(old, sure, rest, luck, rng)
            else:
                image[number] = _content_after(old, sure, rest, luck, rng)
        return image


def _names_after(
    old: Node, sure: list[Record], rest: list[Record], luck: float, rng: random.Random
) -> Node:
    names = dict(old.names or {})
    there = _chosen(len(rest), luck, rng)
    happened = [record for record, done in zip(rest, there, strict=True) if done]
    for record in (*sure, *happened):
        if record.kind != "name":
            names.pop(record.other if record.kind == "move" else record.name, None)
        if record.kind != "unname":
            names[record.name] = record.target
    return Node(names)


def _chosen(count: int, luck: float, rng: random.Random) -> list[bool]:
    """Choose which of so many changes are there though nothing made them durable."""
    match rng.randrange(3):
        case 0:  # as a journal has it: what happened first is there first
            first = sum(rng.random() < luck for _ in range(count))
            return [i < first for i in range(count)]
        case 1:
            return [rng.random() < luck for _ in range(count)]
    missing = rng.randrange(count) if count else 0
    return [i != missing for i in range(count)]


def _content_after(
    old: Node, sure: list[Record], rest: list[Record], luck: float, rng: random.Random
) -> Node:
    content = bytearray(old.content)
    for record in sure:
        _apply(content, record)
    happened = _chosen(len(rest), luck, rng)
    last = max((i for i, done in enumerate(happened) if done), default=-1)
    for i, (record, done) in enumerate(zip(rest, happened, strict=True)):
        if i == last and record.kind == "write" and luck < 1.0:
            _tear(content, record, rng)
        elif done:
            _apply(content, record)
        elif record.kind == "write" and rng.random() < 0.1:
            _grow(content, record.at + len(record.data))
    return Node(None, bytes(content))


def _apply(content: bytearray, record: Record) -> None:
    if record.kind == "resize":
        _grow(content, record.at)
        del content[record.at :]
    else:
        _grow(content, record.at)
        content[record.at : record.at + len(record.data)] = record.data


def _tear(content: bytearray, record: Record, rng: random.Random) -> None:
    """Apply some of a write's sectors: the first ones, or any."""
    end = record.at + len(record.data)
    cuts = [record.at, *range(record.at // SECTOR * SECTOR + SECTOR, end, SECTOR), end]
    count = len(cuts) - 1
    there = [True] * count
    if rng.random() < 0.5:
        first = rng.randrange(count + 1)
        there = [i < first for i in range(count)]
    elif rng.random() < 0.8:
        there = [rng.random() < 0.5 for _ in range(count)]
    for i, done in enumerate(there):
        if done:
            piece = record.data[cuts[i] - record.at : cuts[i + 1] - record.at]
            _apply(content, Record("write", at=cuts[i], data=piece))


def _grow(content: bytearray, size: int) -> None:
    if len(content) < size:
        content.extend(bytes(size - len(content)))


def write_image(image: Image, folder: Path, node: int = ROOT) -> None:
    """Write a disk out below a folder that is not there yet."""
    folder.mkdir()
    names = image[node].names
    assert names is not None
    for name, target in names.items():
        if image[target].names is None:
            (folder / name).write_bytes(image[target].content)
        else:
            write_image(image, folder / name, target)


def image_digest(image: Image) -> str:
    """Return a checksum of all that can be found on a disk."""

    def shown(number: int) -> object:
        node = image[number]
        if node.names is None:
            return hashlib.sha256(node.content).hexdigest()
        return sorted((name, shown(target)) for name, target in node.names.items())

    return hashlib.sha256(repr(shown(ROOT)).encode()).hexdigest()
