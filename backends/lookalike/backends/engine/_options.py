"""The settings that only the local engine knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from lookalike.backends.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Options:
    """All are whole numbers."""

    delta_limit: int = 8192
    """Rows without an index before they become a segment."""
    idle_s: int = 3
    """Seconds without a commit after which fewer rows become a segment too: comparing
    4,096 rows of 512 takes 0.25 ms a search, twice what the graph beside them takes."""
    build_threads: int = 1
    memory_mb: int = 0
    """What "auto" may take for the index of this collection; 0: half of the machine's."""
    probe_percent: int = 1
    """Of one core's time for looking whether vectors find themselves; 0: never look."""

    @classmethod
    def of(cls, options: Mapping[str, object]) -> Self:
        """Read what the configuration has. Raises InvalidArgument."""
        known = sorted(field.name for field in fields(cls))
        values: dict[str, int] = {}
        for name, value in options.items():
            if name not in known:
                raise InvalidArgument(
                    f"The local engine has no option {name!r}. Known: {', '.join(known)}.",
                    field=f"options.{name}",
                )
            least, most = 1, None
            if name == "memory_mb":
                least = 0
            elif name == "probe_percent":
                least, most = 0, 100
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
                span = f"of at least {least}" if most is None else f"from {least} to {most}"
                raise InvalidArgument(
                    f"The option {name} must be a whole number {span}, not {value!r}.",
                    field=f"options.{name}",
                )
            values[name] = value  # type: ignore[assignment]
        return cls(**values)
