"""Filters answered from memory: which collections have a table, and how it is kept level.

A filter is answered by SQL until fields have been filtered by often enough for reading
them all to pay; from then on by arrays, which every commit is told to. An answer is of
the last commit that was told, which no one has been told of before.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from lookalike.backends.errors import LookalikeError
from lookalike.backends.types import Keys
from lookalike.server.domain import Filter
from lookalike.server.store._changes import ItemChange
from lookalike.server.store._column import Unanswerable
from lookalike.server.store._table import TIMES, Cells, Table, fields_of, is_kept

_log = logging.getLogger(__name__)

OFTEN: Final = 2.0
"""So many filters that read the whole collection in SQL, 100 ms for 100,000 items, before
its fields are read into memory, 300 ms. Those that an index leads to few items count less."""
LED_KEYS: Final = 20_000
"""An index leads to so many items in the time that reading the whole collection takes."""
LED_LEAST: Final = 0.005
MOST_FIELDS: Final = 16
MOST_BYTES: Final = 256 * 2**20
"""Memory of all tables; 100,000 items take 3 MB, and 1.3 MB for each field."""
MOST_BEHIND: Final = 16_384
"""Rows that commits wrote since a table was last used; one further behind is given up."""
MOST_ANSWERS: Final = 64
MOST_ANSWER_BYTES: Final = 16 * 2**20
"""Answers kept of one table, until something in the collection changes."""


class Reading(Protocol):
    """One state of the store, see `Moment`."""

    seq: int

    def cells(self, number: int, fields: Sequence[str]) -> Iterator[Cells]: ...


class _Kept:
    """A table, what it was not told yet, and its latest answers."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.lock = threading.Lock()
        """Held while the table is used, less than 1 ms for 100,000 items."""
        self.behind: deque[ItemChange] = deque()
        self.behind_rows = 0
        self._answers: OrderedDict[Filter, Keys] = OrderedDict()
        self._answer_bytes = 0

    def tell(self, changes: Sequence[ItemChange]) -> bool:
        """Take note of a commit. Writer thread. False if it is too much to take in."""
        if any(change.is_lost for change in changes):
            return False
        self.behind.extend(changes)
        self.behind_rows += sum(len(c.rows) + len(c.removed) for c in changes)
        return self.behind_rows <= max(MOST_BEHIND, self.table.rows // 2)

    def keys(self, where: Filter) -> Keys:
        """Answer as of the last commit; raises Unanswerable, ValueError (give it up)."""
        with self.lock:
            self._catch_up()
            if (keys := self._answers.get(where)) is not None:
                self._answers.move_to_end(where)
                return keys
            keys = self.table.keys(where)
            self._answers[where] = keys
            self._answer_bytes += keys.nbytes
            while len(self._answers) > MOST_ANSWERS or self._answer_bytes > MOST_ANSWER_BYTES:
                self._answer_bytes -= self._answers.popitem(last=False)[1].nbytes
            return keys

    def _catch_up(self) -> None:
        if not self.behind:
            return
        self._answers.clear()
        self._answer_bytes = 0
        while self.behind:
            change = self.behind.popleft()
            self.table.remove(change.removed)
            self.table.write(change.rows)
        self.behind_rows = 0


class Tables:
    """Tables of the collections that are filtered. Any thread, but for `tell` and `close`."""

    def __init__(self, moment: Callable[[], AbstractContextManager[Reading]]) -> None:
        self._moment = moment
        self._lock = threading.Lock()
        """Held for moments, for all below and where a table begins to be told."""
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        """The last used is last."""
        self._asked: dict[int, dict[str, float]] = {}
        self._recorded: dict[int, list[tuple[int, Sequence[ItemChange]]]] = {}
        """Commits since a table began to be read, by collection."""
        self._refused: set[tuple[int, frozenset[str]]] = set()
        self._reader: threading.Thread | None = None
        self._closing = False

    def keys(self, number: int, where: Filter) -> Keys | None:
        """Return the keys of the items that pass, rising; None if SQL has to tell.

        The array is the same for the same filter as long as nothing changes, and is
        not to be written to.
        """
        if (kept := self._kept.get(number)) is None:
            return None
        try:
            hash(where)
        except TypeError:
            return None
        try:
            keys = kept.keys(where)
        except Unanswerable:
            return None
        except Exception:
            _log.exception("a table of fields was given up, filters are slower")
            self._give_up(number, kept)
            return None
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
        return keys

    def asked(self, number: int, where: Filter, found: int, led: bool) -> None:
        """Take note of a filter that SQL answered; `led` if an index led to what was found."""
        fields = {f for f in fields_of(where) if f not in TIMES}
        if self._closing or not all(is_kept(field) for field in fields):
            return
        weight = max(LED_LEAST, min(1.0, found / LED_KEYS)) if led else 1.0
        with self._lock:
            counts = self._asked.setdefault(number, {})
            for field in fields | set(TIMES[:1]):
                counts[field] = counts.get(field, 0.0) + weight
            often = [f for f in counts if counts[f] >= OFTEN and f not in TIMES]
            if any(counts[f] < OFTEN for f in fields | set(TIMES[:1])):
                return
            known = self._kept[number].table.columns if number in self._kept else ()
            wanted = [f for f in sorted({*known, *often}) if f not in fields]
            chosen = frozenset([*fields, *wanted][:MOST_FIELDS])
            if len(fields) > MOST_FIELDS or self._reader or (number, chosen) in self._refused:
                return
            if number in self._kept and chosen <= set(known):
                return
            self._recorded[number] = []
            self._reader = threading.Thread(
                target=self._read, args=(number, chosen), name="fields", daemon=True
            )
            self._reader.start()

    @property
    def listens(self) -> bool:
        """True if commits have to be told. One that was before a table began to be read is in it."""
        return bool(self._recorded or self._kept)

    def tell(self, seq: int, changes: Mapping[int, Sequence[ItemChange]]) -> None:
        """Take note of a commit, before those who made it are told. Writer thread."""
        with self._lock:
            for number, of_collection in changes.items():
                if number in self._recorded:
                    self._recorded[number].append((seq, of_collection))
                kept = self._kept.get(number)
                if kept is None or seq <= kept.table.seq or kept.tell(of_collection):
                    continue
                del self._kept[number]
                self._asked.pop(number, None)

    def wait(self) -> None:
        """Wait for a table that is being read."""
        if (reader := self._reader) is not None:
            reader.join()

    def close(self) -> None:
        """Stop reading, forget everything."""
        self._closing = True
        self.wait()
        with self._lock:
            self._kept.clear()

    # --------------------------------------------------------------- insides

    def _read(self, number: int, fields: frozenset[str]) -> None:
        table = Table(sorted(fields))
        try:
            with self._moment() as moment:
                table.seq = moment.seq
                for cells in moment.cells(number, sorted(fields)):
                    table.fill(cells)
                    if self._closing or table.nbytes > MOST_BYTES:
                        break
            self._put(number, fields, table)
        except LookalikeError as error:  # damage; SQL says the same to those who ask
            _log.warning("fields were not read into memory: %s", error.message)
        except Exception:
            _log.exception("fields were not read into memory, filters are slower")
        finally:
            with self._lock:
                self._recorded.pop(number, None)
                self._asked.pop(number, None)
                self._reader = None

    def _put(self, number: int, fields: frozenset[str], table: Table) -> None:
        kept = _Kept(table)
        with self._lock:
            if self._closing:
                return
            if table.nbytes > MOST_BYTES:
                self._refused.add((number, fields))
                _log.info("fields are too large for memory collection_number=%s", number)
                return
            later = [c for seq, c in self._recorded[number] if seq > table.seq]
            if not all(kept.tell(changes) for changes in later):
                return
            self._kept[number] = kept
            self._kept.move_to_end(number)
            while sum(one.table.nbytes for one in self._kept.values()) > MOST_BYTES:
                self._kept.popitem(last=False)

    def _give_up(self, number: int, kept: _Kept) -> None:
        with self._lock:
            if self._kept.get(number) is kept:
                del self._kept[number]
