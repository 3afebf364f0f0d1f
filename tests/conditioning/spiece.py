"""A small spiece.model, written byte by byte as sentencepiece_model.proto lays it down."""

import struct

RULES = {
    "ﬁ": "fi",
    "½": "1⁄2",
    "Ａ": "A",
    "\t": " ",
    "\n": " ",
    "\u00a0": " ",
    "\u200b": "",
    "e\u0301": "é",
    "…": "...",
}
"""Characters and what they are read as, a few of those in T5's own file."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
_WORDS = (
    "▁a",
    "▁the",
    "▁fox",
    "▁on",
    "▁blue",
    "▁back",
    "ground",
    "▁of",
    "▁cat",
    "s",
    "ing",
    "▁ﬁ",
    "fi",
    "▁fi",
    "1",
    "⁄2",
)
PIECES = [
    ("<pad>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    ("<unk>", 0.0, UNKNOWN),
    ("▁", -2.5, NORMAL),
    *((word, -3.0 - 0.37 * place, NORMAL) for place, word in enumerate(_WORDS)),
    ("<wide>", 0.0, USER_DEFINED),
    *((letter, -9.0 - 0.11 * place, NORMAL) for place, letter in enumerate("abcdefghijklmnopqrtuvwxyzAé.,'-")),
]


def number(value: int) -> bytes:
    """A varint."""
    head = b""
    while value >= 0x80:
        head, value = head + bytes([value & 0x7F | 0x80]), value >> 7
    return head + bytes([value])


def field(place: int, content: bytes | int) -> bytes:
    """One field: a whole number, or bytes after their length."""
    if isinstance(content, int):
        return number(place << 3) + number(content)
    return number(place << 3 | 2) + number(len(content)) + content


def model(pieces: list[tuple[str, float, int]] = PIECES, rules: bytes = b"", algorithm: int = 1) -> bytes:
    """The whole file; `rules` is a compiled map of characters, as `compile_rules` makes it."""
    rows = b"".join(
        field(1, field(1, text.encode()) + number(2 << 3 | 5) + struct.pack("<f", score) + field(3, kind))
        for text, score, kind in pieces
    )
    trained = field(3, algorithm) + field(40, 2) + number(10 << 3 | 5) + struct.pack("<f", 0.9995)
    normalised = field(1, b"test") + field(2, rules) + field(3, 1)
    return rows + field(2, trained) + field(3, normalised)


def compile_rules(rules: dict[str, str]) -> bytes:
    """A double-array trie in which every node has a block of 256 cells to itself, then the replacements."""
    texts, ends = b"", {}
    nodes: list[dict[int, int]] = [{}]
    for source, target in rules.items():
        node = 0
        for byte in source.encode():
            if byte not in nodes[node]:
                nodes.append({})
                nodes[node][byte] = len(nodes) - 1
            node = nodes[node][byte]
        ends[node] = len(texts)
        texts += target.encode() + b"\0"
    cells = [0] * (256 * (len(nodes) + 1))

    def lead(place: int, node: int) -> None:
        block = 256 * (node + 1)
        cells[place] |= (place ^ block) << 10
        if node in ends:
            cells[place] |= 256
            cells[block] = 1 << 31 | ends[node]
        for byte, child in nodes[node].items():
            cells[block + byte] = byte
            lead(block + byte, child)

    lead(0, 0)
    return struct.pack("<I", 4 * len(cells)) + struct.pack(f"<{len(cells)}I", *cells) + texts
