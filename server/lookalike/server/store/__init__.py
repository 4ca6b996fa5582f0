"""The store: the truth of a server, durable before it is acknowledged."""

from lookalike.server.store._facets import ValueCounts
from lookalike.server.store._moment import Exported, Moment
from lookalike.server.store._store import Store
from lookalike.server.store._transaction import Transaction

__all__ = ["Exported", "Moment", "Store", "Transaction", "ValueCounts"]
