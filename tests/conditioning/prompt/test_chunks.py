"""Chunks: how they are filled, and where they are cut. A chunk is 10 long here, the comma is token 0."""

from __future__ import annotations

import pytest

from wordbrush.conditioning.prompt.chunks import Token, Unit, chunked


def units(text: str) -> list[Unit]:
    """One unit a letter; a digit n is an embedding of n vectors."""
    found: list[Unit] = []
    for index, letter in enumerate(text):
        count = int(letter) if letter.isdigit() else 1
        vectors: list[int | None] = list(range(count)) if letter.isdigit() else [None]
        ids = 0 if letter == "," else ord(letter)
        found.append(tuple(Token(id=ids, text=letter, word=letter, index=index, vector=vector) for vector in vectors))
    return found


def cut(*sections: str, backtrack: int = 4) -> list[str]:
    chunks = chunked([units(text) for text in sections], size=10, comma=0, backtrack=backtrack)
    return ["".join(token.text for token in chunk) for chunk in chunks]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [""]),
        ("abc", ["abc"]),
        ("abcdefghij", ["abcdefghij"]),
        ("abcdefghijk", ["abcdefghij", "k"]),
        ("abcdef,hijk", ["abcdef,", "hijk"]),  # the comma is 4 back
        ("abcde,ghijk", ["abcde,ghij", "k"]),  # 5 back
        ("abcdefghi,k", ["abcdefghi,", "k"]),
        ("abcdefghij,k", ["abcdefghij", ",k"]),  # a comma never moves what is before it
        ("abc,ef,hijk,mnopqrstuvw", ["abc,ef,", "hijk,mnopq", "rstuvw"]),
        ("a" * 25, ["a" * 10, "a" * 10, "a" * 5]),
        ("abcdefgh3k", ["abcdefgh", "333k"]),  # vectors stay together
        ("abcdefg3kl", ["abcdefg333", "kl"]),
        ("abcdef,3kl", ["abcdef,", "333kl"]),
        ("abcdef,h3k", ["abcdef,h", "333k"]),
    ],
)
def test_filling(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


def test_no_backtracking() -> None:
    assert cut("abcdefghi,klmn", backtrack=0) == ["abcdefghi,", "klmn"]
    assert cut("abcdefgh,jklmn", backtrack=0) == ["abcdefgh,j", "klmn"]


def test_a_break_ends_the_chunk() -> None:
    assert cut("ab", "cd") == ["ab", "cd"]
    assert cut("", "cd") == ["", "cd"]
    assert cut("ab", "") == ["ab"]
    assert cut("ab", "", "cd") == ["ab", "", "cd"]
    assert cut("abcdefghij", "k") == ["abcdefghij", "k"]
    assert cut("", "") == [""]
    assert cut("abcdef,h", "ijk,mnopqrstu") == ["abcdef,h", "ijk,mnopqr", "stu"]


def test_an_embedding_longer_than_a_chunk_is_refused() -> None:
    long = tuple(Token(id=1, text="huge", word="huge", index=0, vector=vector) for vector in range(11))
    with pytest.raises(ValueError, match="'huge' takes 11 positions, a chunk has 10"):
        chunked([[long]], size=10, comma=0, backtrack=4)
