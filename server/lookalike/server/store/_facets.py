"""Counts of the values of a metadata field, as SQL."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeAlias

from lookalike.server.domain import Filter
from lookalike.server.store._filters import json_path, of_collection, to_sql

Scalar: TypeAlias = str | float | bool
ValueCounts: TypeAlias = tuple[list[tuple[Scalar, int]], int]
"""(value, items that have it) for each value, and the items that have the field."""

_BOOLEAN, _NUMBER, _TEXT = 0, 1, 2
"""Kinds of values, in the order of equal counts."""


def count_values(
    number: int,
    where: Filter,
    field: str,
    count: int,
    indexed: Collection[str] = (),
    left_out: str = "",
) -> tuple[str, list[Any]]:
    """Return SQL and parameters; `read_counts` reads its rows. Raises FilterInvalid.

    The first row is (items that have the field, None, None), the others are
    (items, kind, value). Elements of lists count one by one, each once for an item;
    what is null or an object does not. `left_out` is
    SQL to follow a condition on `items AS i`.
    """
    params: list[Any] = [json_path(field), count]
    passes = to_sql(where, params, indexed)
    # json_each would take an object apart into its members.
    sql = f"""
        WITH fields AS MATERIALIZED (
            SELECT i.key AS key, i.metadata -> ?1 AS found, json_type(i.metadata, ?1) AS type
            FROM items AS i
            WHERE {of_collection(number, where, indexed)}{left_out} AND {passes} AND type != 'null'
        ), atoms AS (
            SELECT fields.key AS key,
                CASE WHEN e.type IN ('true', 'false') THEN {_BOOLEAN}
                    WHEN e.type = 'text' THEN {_TEXT} ELSE {_NUMBER} END AS kind,
                CASE e.type WHEN 'integer' THEN CAST(e.atom AS REAL) ELSE e.atom END AS value
            FROM fields, json_each(fields.found) AS e
            WHERE fields.type != 'object' AND e.type NOT IN ('null', 'array', 'object')
        )
        SELECT count(*), NULL, NULL FROM fields
        UNION ALL
        SELECT * FROM (
            SELECT count(DISTINCT key) AS items, kind, value FROM atoms
            GROUP BY kind, value ORDER BY items DESC, kind, value LIMIT ?2
        )"""
    return sql, params


def read_counts(rows: list[tuple[Any, ...]]) -> ValueCounts:
    """Read the rows of `count_values`."""
    (item_count, _, _), *values = rows
    return [(bool(v) if kind == _BOOLEAN else v, items) for items, kind, v in values], item_count
