"""Named instants at which a crash would be most dangerous.

`reach("store.commit.before")` stands at each of them. It does nothing, at the cost of
one test of one attribute, until `watch` gives it something to call; only tests do.
They let the process die there, and then compare what is left with what was promised.

A name says who, doing what, and when: `store.commit.before`, `engine.manifest.renamed`.
The last word is `before` or `after` where both sides count, and else the participle of
what has just been done. Names are literals and stand in `NAMES`, with a word on what
is at stake; a test holds source, table and documentation together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

_watcher: Callable[[str], None] | None = None
# The one changeable thing of this module: handing it through every layer would put the
# tests' business into all signatures.

NAMES: Mapping[str, str] = MappingProxyType(
    {
        # ------------------------------------------------------------ the store's commits
        "store.commit.before": "all operations of a group have run, none is durable",
        "store.commit.after": "the group is durable, its mark and the engines know nothing of it",
        "store.mark.written": "the mark names the commit, the engines lack it",
        "store.engines.told": "durable and findable, nobody has been told yet",
        "store.answer.given": "one caller of a group has its answer, the others wait",
        "store.delete.written": "rows are deleted, the transaction is open",
        "store.checkpoint.before": "the log is about to be copied into the database",
        "store.checkpoint.after": "the log has been copied into the database",
        # -------------------------------------------------------- opening and closing it
        "store.lock.taken": "the data folder is ours, nothing has been looked at",
        "store.create.before": "a new database is complete under another name",
        "store.create.renamed": "it has its name, the folder's entry may not be durable",
        "store.migrate.before": "a step of the schema has run, the transaction is open",
        "store.migrate.after": "a step of the schema is durable, others may follow",
        "store.open.checked": "the database is open and sound, the mark not compared",
        "store.close.before": "all writes are done, the log is not brought home",
        # ------------------------------------------------------------------- collections
        "library.create.stored": "a new collection is durable, it has no engine yet",
        "library.delete.stored": "a collection is gone from the store, its index is not",
        "library.sweep.before": "indexes of collections that are gone are about to be removed",
        "library.opened": "all collections are open, nobody has been told",
        "collection.rebuild.built": "a new index is durable, its settings are not stored",
        "reembed.chunk.kept": "some new vectors are kept, the old ones are stored",
        "reembed.swap.before": "all pictures have new vectors, the old ones are stored",
        "reembed.swap.after": "the new vectors are stored, the index is not rebuilt",
        "jobs.state.saved": "the state of a job is durable",
        # ------------------------------------------------------------ backup and restore
        "backup.copy.before": "a state of the store is held, no copy of it is begun",
        "backup.step.copied": "some pages of a backup are copied, writes go on",
        "backup.copy.done": "the copy is complete in the data folder, nothing of it is sent",
        "backup.copy.removed": "the copy is gone, another backup may begin",
        "restore.copy.done": "a backup is in its new folder under another name, not checked",
        "restore.check.done": "it is sound and adapted, its name is still another",
        "restore.rename.before": "it is durable, and has its name next",
        "restore.rename.after": "it has its name, there is no mark beside it",
        # --------------------------------------------------------------- the engine's files
        "engine.rows.begun": "the header of a segment's rows is written, nothing else",
        "engine.rows.written": "a segment's rows are durable, it has no index yet",
        "engine.build.done": "a segment is built, searches do not see it",
        "engine.merge.before": "older segments are about to be built into a larger one",
        "engine.segment.swapped": "searches see a new segment, no manifest names it",
        "engine.index.written": "an index is written, not durable",
        "engine.segment.before": "a segment is durable under another name",
        "engine.segment.renamed": "it has its name, the folder's entry may not be durable",
        "engine.manifest.written": "a manifest is written aside, not durable",
        "engine.manifest.before": "it is durable, the old one is in its place",
        "engine.manifest.renamed": "it is in its place, the folder's entry may not be durable",
        "engine.sweep.before": "the new state is durable, files of the old one are there",
        "engine.sweep.removed": "some files of the old state are gone",
        "engine.snapshot.loaded": "a snapshot is loaded, not compared with the store",
        "engine.snapshot.discarded": "a doubtful snapshot is gone, nothing is in its place",
        "engine.reconcile.done": "an engine is level with the store, nobody can ask it yet",
    }
)


def reach(name: str) -> None:
    """Say that the named instant is here. Any thread."""
    if _watcher is not None:
        _watcher(name)


def watch(watcher: Callable[[str], None] | None) -> None:
    """Have a function called with each name that is reached, on its thread; None: no more.

    Tests only. What it raises comes out of `reach`, as if the work there had failed.
    """
    global _watcher
    _watcher = watcher
