"""What is typed after `search` and what it means."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.client.cli._exit import UsageError
from lookalike.client.cli._query import Operand, parse_query, query_of, read_region, title_of

FILES = {"shoe.jpg", "boots", "2:odd.png", "like:file.jpg", "+", "folder/a red shoe"}


def parsed(*words: str) -> list[Operand]:
    return parse_query(words, is_file=FILES.__contains__)


def picture(value: str, weight: float = 1.0) -> Operand:
    return Operand("picture", value, weight)


def text(value: str, weight: float = 1.0) -> Operand:
    return Operand("text", value, weight)


def like(value: str, weight: float = 1.0) -> Operand:
    return Operand("like", value, weight)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["shoe.jpg"], [picture("shoe.jpg")]),
        (["-"], [picture("-")]),
        (["a red shoe"], [text("a red shoe")]),
        (["like:shoe.jpg"], [like("shoe.jpg")]),
        (["gone.jpg"], [picture("gone.jpg")]),
        (["./gone"], [picture("./gone")]),
        (["text:gone.jpg"], [text("gone.jpg")]),
        (["3:10 to Yuma"], [text("3:10 to Yuma")]),
        (["2:shoe.jpg"], [picture("shoe.jpg", 2)]),
        (["2:odd.png"], [picture("2:odd.png")]),
        (["like:file.jpg"], [picture("like:file.jpg")]),
        (["boots"], [picture("boots")]),
        (
            ["a red shoe", "+", "shoe.jpg", "-", "boots"],
            [text("a red shoe"), picture("shoe.jpg"), picture("boots", -1)],
        ),
        (
            ["0.5:red", "-", "2:like:x", "+", ".25:-"],
            [text("red", 0.5), like("x", -2), picture("-", 0.25)],
        ),
        (["-", "-", "boots"], [picture("-"), picture("boots", -1)]),
        (["red", "-", "-"], [text("red"), picture("-", -1)]),
        (["red - blue", "+", "x"], [text("red - blue"), text("x")]),
        (["black/white", "+", "a.b"], [text("black/white"), text("a.b")]),
        (["2:text:3:10 to Yuma", "+", "x"], [text("3:10 to Yuma", 2), text("x")]),
    ],
)
def test_it_is_read_as_it_is_meant(words: list[str], meant: list[Operand]) -> None:
    assert parsed(*words) == meant


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say what to look for"),
        ([""], "say what to look for"),
        (["  "], "say what to look for"),
        (["red", "blue"], "put + or - between 'red' and 'blue'"),
        (["red", "+"], "must follow the last +"),
        (["red", "-"], "must follow the last -"),
        (["red", "+", ""], "say what to look for"),
        (["red", "*", "blue"], "put + or -"),
        (["0:red", "+", "blue"], "weight"),
        (["1" * 400 + ":red", "+", "blue"], "weight"),
        (["0:shoe.jpg"], "weight"),
        (["like:"], "must follow like:"),
        (["text: ", "+", "x"], "must follow text:"),
        (["-", "+", "-"], "stdin"),
    ],
)
def test_what_cannot_be_read_says_what_could(words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("+", r"\+").replace("*", r"\*")):
        parsed(*words)


WORDS = st.text(string.ascii_letters + " ", min_size=1).filter(lambda word: word.strip())
WEIGHTS = st.integers(1, 400).map(lambda quarters: quarters / 4)
OPERANDS = st.one_of(
    st.builds(text, WORDS, WEIGHTS),
    st.builds(picture, st.sampled_from(["shoe.jpg", "boots", "gone.webp", "../x"]), WEIGHTS),
    st.builds(like, st.text(min_size=1).filter(lambda word: word.strip()), WEIGHTS),
)
PREFIXES = {"text": "text:", "picture": "", "like": "like:"}


def typed(operands: list[Operand], signs: list[str]) -> list[str]:
    words = [f"{one.weight:g}:{PREFIXES[one.kind]}{one.value}" for one in operands]
    return [word for pair in zip(words, signs, strict=True) for word in pair][:-1]


@given(st.lists(st.tuples(OPERANDS, st.sampled_from("+-")), min_size=2, max_size=32))
def test_what_is_typed_from_operands_is_read_back_as_them(
    drawn: list[tuple[Operand, str]],
) -> None:
    operands, signs = [one for one, _ in drawn], [sign for _, sign in drawn]
    expected = [
        Operand(one.kind, one.value, -one.weight if sign == "-" else one.weight)
        for one, sign in zip(operands, ["+", *signs[:-1]], strict=True)
    ]
    assert parse_query(typed(operands, signs), is_file=FILES.__contains__) == expected


@given(st.lists(st.one_of(st.text(), st.sampled_from(["+", "-", "like:a", "2:b", "c.jpg"]))))
def test_anything_typed_is_operands_or_a_usage_error(words: list[str]) -> None:
    try:
        operands = parse_query(words)
    except UsageError as error:
        assert str(error)  # noqa: PT017 - any of many messages
        return
    assert len(operands) == (len(words) + 1) // 2
    assert all(one.weight and one.value.strip() for one in operands)
    assert title_of(operands)


@given(WORDS)
def test_words_alone_are_words_just_as_they_are(word: str) -> None:
    assert parsed(word) == ([picture(word)] if word in FILES else [text(word)])


def test_folders_and_names_that_no_system_takes_are_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats").mkdir()
    (tmp_path / "dogs").write_bytes(b"a picture")
    assert parse_query(["cats"]) == [text("cats")]
    assert parse_query(["dogs"]) == [picture("dogs")]
    for odd in ("x" * 5000, "a\0b"):
        assert parse_query([odd]) == [text(odd)]


def test_one_thing_is_a_query_and_several_are_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"one")
    assert query_of([text("red", 2)]) == {"text": "red"}
    assert query_of([like("x")]) == {"like": "x"}
    assert query_of([picture(str(path))]) == {"image": b"one"}
    parts = query_of([text("red"), picture(str(path), -2), like("x", 0.5)])["parts"]
    assert [(p.text, p.image, p.like, p.weight) for p in parts] == [
        ("red", None, None, 1.0),
        (None, b"one", None, -2.0),
        (None, None, "x", 0.5),
    ]


def test_the_title_reads_as_it_was_typed() -> None:
    assert title_of([picture("a.jpg", 3)]) == "like a.jpg"
    assert title_of([text("red")]) == "“red”"
    shown = title_of([text("red"), picture("a.jpg", 2), like("x", -1), text("y", -0.5)])
    assert shown == "“red” + 2 x a.jpg - x - 0.5 x “y”"


def test_a_region_is_four_numbers() -> None:
    assert read_region("") is None
    assert read_region("0.1, 0,.5,1") == (0.1, 0.0, 0.5, 1.0)
    for wrong in ("1,2,3", "a,b,c,d", "1,2,3,4,5", ",,,"):
        with pytest.raises(UsageError, match="left,top,width,height"):
            read_region(wrong)
