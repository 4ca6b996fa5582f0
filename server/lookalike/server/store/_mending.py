"""Compares indexes with their tables at the opening, and builds damaged ones anew.

No checksum of a row would find an item that its index does not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import apsw

from lookalike.server.store._configs import COLLECTION, to_collection
from lookalike.server.store._errors import damaged_file, translated
from lookalike.server.store._rows import COLUMNS, is_sound

_log = logging.getLogger(__name__)

Found = Mapping[int, Mapping[int, set[str]]]
"""Ids by key, by collection, of damaged items."""

_BY_ID = "SELECT collection, CAST(id AS BLOB), key FROM items INDEXED BY sqlite_autoindex_items_1"


def mend_indexes(db: apsw.Connection) -> Found:
    """Build damaged indexes anew, 5 to 10 us an item to compare; return damaged items.

    Those are only looked for where an index does not fit: the index still knows an item
    by the name that its row has lost. Raises DataLoss if a table itself is damaged.
    """
    found: dict[int, dict[int, set[str]]] = {}
    with translated():
        for table in ("collections", "items"):
            faults = _faults(db, table)
            if not faults:
                continue
            for row in db.execute(f"SELECT {COLLECTION} FROM collections"):
                to_collection(row)
            if table == "items":
                found = _damaged_items(db)
            _log.warning("damage in the table %s, its indexes are built anew: %s", table, faults)
            try:
                db.execute(f"REINDEX {table}")
            except apsw.ConstraintError as error:
                raise damaged_file() from error
            if _faults(db, table):
                raise damaged_file()
    return found


def _faults(db: apsw.Connection, table: str) -> list[str]:
    faults = [str(text) for (text,) in db.execute(f"PRAGMA integrity_check({table})")]
    return [] if faults == ["ok"] else faults[:5]


def _damaged_items(db: apsw.Connection) -> dict[int, dict[int, set[str]]]:
    found: dict[int, dict[int, set[str]]] = {}

    def note(number: object, item_id: bytes | None, key: int) -> None:
        if isinstance(number, int):
            ids = found.setdefault(number, {}).setdefault(key, set())
            ids.add((item_id or b"").decode("utf-8", "replace"))

    sound: set[int] = set()
    names: set[tuple[int, bytes]] = set()
    for row in db.execute(f"SELECT {COLUMNS} FROM items AS i NOT INDEXED"):
        if is_sound(row):
            sound.add(row[0])
            names.add((row[1], row[3]))
        else:
            note(row[1], row[3], row[0])
    try:
        for number, item_id, key in db.execute(_BY_ID):
            # The index may be what is damaged: only what no sound row has counts.
            if key not in sound and (number, item_id) not in names:
                note(number, item_id, key)
    except (apsw.CorruptError, apsw.SQLError):
        _log.warning("the index of ids cannot be read; names that only it knew are lost")
    return found
