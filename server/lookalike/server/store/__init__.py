"""The store: the truth of a server, durable before it is acknowledged."""

from lookalike.server.store._adopt import Adopted, adopt, inspect
from lookalike.server.store._connect import lock
from lookalike.server.store._facets import ValueCounts
from lookalike.server.store._moment import Exported, Moment
from lookalike.server.store._opening import RESTORE_PART
from lookalike.server.store._read_only import ReadOnlyStore
from lookalike.server.store._store import Store
from lookalike.server.store._transaction import Transaction

__all__ = [
    "RESTORE_PART",
    "Adopted",
    "Exported",
    "Moment",
    "ReadOnlyStore",
    "Store",
    "Transaction",
    "ValueCounts",
    "adopt",
    "inspect",
    "lock",
]
