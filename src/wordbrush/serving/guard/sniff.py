"""Looks at the first bytes of an uploaded picture before a decoder does.

What a decoder costs is decided by what the file says of itself. So the kind is told by its first bytes (never by a
name or a MIME type), the size is read from the header, and files are refused whose structure would keep Pillow's
Python loops busy for minutes: millions of chunks, segments or comment blocks, or a JPEG of a thousand scans.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from wordbrush.errors import RequestError

KINDS = "a PNG, JPEG, WebP or GIF picture"

MOST_PARTS = 20_000
"""Chunks, segments or blocks that a file may have; an encoder that writes 4 KiB at once needs 16384 for 64 MiB."""
MOST_SCANS = 64
"""A progressive JPEG has about ten; every one costs as much as decoding the picture."""

_PNG = b"\x89PNG\r\n\x1a\n"
_SEGMENT_LESS = {0x01, *range(0xD0, 0xD9)}  # JPEG markers that stand alone
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # those that carry the size
_SCAN, _END = 0xDA, 0xD9
_EXTENSION, _IMAGE = 0x21, 0x2C  # GIF blocks


@dataclass(frozen=True)
class Header:
    """What a picture file says of itself. kind: Pillow's name of the format; sizes in pixels, as stored."""

    kind: str
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """The kind and size of a picture file's bytes.

    Raises:
        RequestError: it is of none of the kinds that are read, cut off, or built to keep a decoder busy.
    """
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return _gif(data)
    except (struct.error, IndexError) as error:
        raise RequestError("the picture is cut off in its header; send the whole file") from error
    raise RequestError(f"what was sent is not {KINDS}; send one of these")


def _busy(what: str) -> RequestError:
    return RequestError(f"the picture is refused: it has too many {what}; save it again with another program")


def _png(data: bytes) -> Header:
    length, name, width, height = struct.unpack_from(">I4sII", data, 8)
    if name != b"IHDR" or length != 13:
        raise RequestError("the PNG does not begin with its header; send an undamaged file")
    place = 8
    for _ in range(MOST_PARTS):
        if place + 8 > len(data):  # the end; whether all of it is there is the decoder's to say
            return Header("PNG", width, height)
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    raise _busy("chunks")


def _jpeg(data: bytes) -> Header:
    if data.count(b"\xff\xda") > MOST_SCANS:
        raise _busy("scans")
    place = 2
    for _ in range(MOST_PARTS):
        if data[place] != 0xFF:
            raise RequestError("the JPEG is damaged: there is no marker where one belongs")
        marker = data[place + 1]
        if marker in (_SCAN, _END):
            raise RequestError("the JPEG is damaged: it does not say its size")
        if marker == 0xFF or marker in _SEGMENT_LESS:  # a fill byte, or a marker without a segment
            place += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            _until_scan(data, place + 2 + length)
            return Header("JPEG", width, height)
        place += 2 + max(2, length)
    raise _busy("segments")


def _until_scan(data: bytes, place: int) -> None:
    """Walks the segments between the frame and the first scan, which Pillow reads in Python too."""
    for _ in range(MOST_PARTS):
        if place + 4 > len(data) or (data[place] == 0xFF and data[place + 1] == _SCAN):
            return
        if data[place] != 0xFF:
            raise RequestError("the JPEG is damaged: there is no marker where one belongs")
        if data[place + 1] == 0xFF or data[place + 1] in _SEGMENT_LESS:
            place += 1 if data[place + 1] == 0xFF else 2
            continue
        place += 2 + max(2, struct.unpack_from(">H", data, place + 2)[0])
    raise _busy("segments")


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        if len(data) < 30:
            raise IndexError
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (size & 0x3FFF for size in struct.unpack_from("<HH", data, 26))
    else:
        raise RequestError("the WebP does not begin with a picture; send an undamaged file")
    return Header("WEBP", width, height)


def _gif(data: bytes) -> Header:
    screen_width, screen_height, flags = struct.unpack_from("<HHB", data, 6)
    place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    for _ in range(MOST_PARTS):
        if data[place] == _IMAGE:
            x, y, width, height = struct.unpack_from("<HHHH", data, place + 1)
            return Header("GIF", max(screen_width, x + width), max(screen_height, y + height))
        if data[place] != _EXTENSION:
            raise RequestError("the GIF is damaged: there is no block where one belongs")
        place += 2
        for _ in range(MOST_PARTS // 10):  # of 255 bytes each; a comment's are joined one by one
            size = data[place]
            place += 1 + size
            if size == 0:
                break
        else:
            raise _busy("blocks in a comment")
    raise _busy("blocks")
