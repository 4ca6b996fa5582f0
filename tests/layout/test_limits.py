"""The numbers that comments and pages give are those of the one table of limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from lookalike.server.limits import Limits

ROOT = Path(__file__).resolve().parents[2]
PROTOS = sorted((ROOT / "protos/lookalike/v1").glob("*.proto"))
PAGES = sorted((ROOT / "docs").glob("*.md"))
DEFAULTS = {field.name: field.default for field in fields(Limits)}
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "megapixels": 10**6}
NUMBER = r"(?P<number>\d[\d,]*)(?:\s+(?P<unit>KiB|MiB|GiB|megapixels))?"
NAMED = re.compile(NUMBER + r"(?P<between>[^\d().;]*)\(`(?P<name>[a-z_]+)`\)")
"""A number with the name of its limit behind it: 256 items (`max_batch_size`)."""
BOUND = re.compile(
    r"(?:(?i:at most|up to|\b1 to|more than) (?P<a>\d[\d,]*)|(?P<b>\d[\d,]*) is the most)"
    r"(?P<rest>[^.;]*)"
)
"""What reads like a limit."""
FIXED = {
    "1 to 63 of a-z, 0-9": "names",
    "at most 1000 characters": "remarks",
    "at most 256 by 256 pixels": "thumbnails",
    "at most 100": "ids of duplicates that a hit shows",
    "at most 16": "regions of an explanation",
    "at most 10,000": "queries of a measurement",
    "1000 is the most": "values of a count",
    "at most 256 KiB": "pieces of a download",
    "at most 1": "a share",
}
"""Bounds that no configuration changes, and of what."""
ELSEWHERE = [
    ("protocol.md", r"1 to (\d+) of them", "max_upload_batch"),
    ("protocol.md", r"Pieces of up to (\d+) items", "max_open_chunked"),
    ("concepts.md", r"1 to (\d+) bytes of UTF-8", "max_id_bytes"),
    ("concepts.md", r"at most (\d+ KiB) and \d levels", "max_metadata_bytes"),
    ("concepts.md", r"at most \d+ KiB and (\d) levels", "max_metadata_depth"),
    ("concepts.md", r"at most (\d+ MiB) and \d+ megapixels", "max_image_bytes"),
    ("concepts.md", r"at most \d+ MiB and (\d+ megapixels)", "max_image_pixels"),
    ("concepts.md", r"`none` \(1 to (\d+)\)", "max_dimension"),
    ("concepts.md", r"At most (\d+) levels, \d+ conditions", "max_filter_depth"),
    ("concepts.md", r"At most \d+ levels, (\d+) conditions", "max_filter_conditions"),
    ("concepts.md", r"and (\d+) values in one `in`", "max_filter_values"),
]
"""Numbers on pages that read better without the names."""


def comments(path: Path) -> str:
    """Return what a proto says for people, one paragraph a line."""
    paragraphs: list[list[str]] = [[]]
    for line in path.read_text().splitlines():
        text = line.strip()
        if text.startswith("// "):
            paragraphs[-1].append(text[3:].strip())
        else:
            paragraphs.append([])
    return "\n".join(" ".join(paragraph) for paragraph in paragraphs if paragraph)


def value(number: str, unit: str | None) -> int:
    return int(number.replace(",", "")) * UNITS.get(unit or "", 1)


def wrong(text: str) -> Iterator[str]:
    """Yield the numbers that are not what the limits named behind them are."""
    for found in NAMED.finditer(text):
        name, said = found["name"], value(found["number"], found["unit"])
        if name in DEFAULTS and said != DEFAULTS[name]:
            yield f"{found[0]!r}: the default of {name} is {DEFAULTS[name]}"
    for name in re.findall(r"\(`((?:max|upload|embed)_[a-z_]+)`\)", text):
        if name not in DEFAULTS:
            yield f"there is no limit {name}"


def nameless(text: str) -> Iterator[str]:
    """Yield what reads like a limit and does not say which it is."""
    for found in BOUND.finditer(text):
        named = re.match(r"[^()]*\(`([a-z_]+)`\)", found["rest"])
        if named and named[1] in DEFAULTS:
            continue
        if int((found["a"] or found["b"]).replace(",", "")) < 8:
            continue
        if not any(found[0].lower().startswith(fixed.lower()) for fixed in FIXED):
            yield found[0]


@pytest.mark.parametrize("path", [*PROTOS, *PAGES], ids=lambda path: str(path.name))
def test_numbers_with_the_name_of_a_limit_are_its_default(path: Path) -> None:
    text = comments(path) if path.suffix == ".proto" else path.read_text()
    assert list(wrong(text)) == []


@pytest.mark.parametrize("path", PROTOS, ids=lambda path: str(path.name))
def test_what_reads_like_a_limit_in_the_api_names_it(path: Path) -> None:
    assert list(nameless(comments(path))) == [], "say which: 256 items (`max_batch_size`)"


@pytest.mark.parametrize(("page", "pattern", "name"), ELSEWHERE)
def test_numbers_on_pages_are_the_defaults(page: str, pattern: str, name: str) -> None:
    text = " ".join((ROOT / "docs" / page).read_text().split())
    found = re.findall(pattern, text)
    assert len(found) == 1, f"{page} says it otherwise now: {pattern}"
    number, _, unit = found[0].partition(" ")
    assert value(number, unit) == DEFAULTS[name]


def test_limits_that_callers_meet_are_named_in_the_api() -> None:
    named = {found["name"] for path in PROTOS for found in NAMED.finditer(comments(path))}
    assert {
        "max_batch_size",
        "max_delete_ids",
        "max_dimension",
        "max_fields",
        "max_filter_conditions",
        "max_filter_depth",
        "max_filter_values",
        "max_id_bytes",
        "max_image_bytes",
        "max_image_pixels",
        "max_metadata_bytes",
        "max_metadata_depth",
        "max_open_chunked",
        "max_page_size",
        "max_query_parts",
        "max_search_limit",
        "max_text_chars",
        "max_upload_batch",
    } <= named


def test_the_checks_see_what_they_are_for() -> None:
    assert list(wrong("at most 255 items (`max_batch_size`)."))
    assert list(wrong("at most 16 MiB (`max_image_bytes`)."))
    assert list(wrong("at most 16 things (`max_things`)."))
    assert not list(wrong("at most 32 MiB (`max_image_bytes`) and 100 megapixels"))
    assert list(nameless("At most 300 widgets."))
    assert not list(nameless("At most 256 items (`max_batch_size`)."))
