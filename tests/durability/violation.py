"""What a check found."""

from __future__ import annotations


class Violation(Exception):
    """A promise that was not kept; `check` names the check that saw it."""

    def __init__(self, check: str, text: str) -> None:
        super().__init__(f"[{check}] {text}")
        self.check = check
