"""Make the glyph pack that ships inside the package: every named emoji as a 128-pixel picture.

Run once, on a machine with Debian's `fonts-noto-color-emoji` and `unicode-cldr-core`:

    python scripts/make_glyph_pack.py

Writes `src/wordbrush/data/scenes/glyphs.zip`: one lossless WebP per emoji, named by its code points in hexadecimal, and
`names.json` with the CLDR short name and keywords of each. The art is Noto Color Emoji (SIL OFL 1.1), the names are
Unicode CLDR's (Unicode licence); see NOTICE.
"""

from __future__ import annotations

import io
import json
import os
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
ANNOTATIONS = Path("/usr/share/unicode/cldr/common/annotations/en.xml")
TARGET = Path(__file__).parent.parent / "src/wordbrush/data/scenes/glyphs.zip"
STRIKE = 109  # the one bitmap size in the font, in pixels per em
SIZE = 128
SKIN_TONES = {chr(code) for code in range(0x1F3FB, 0x1F400)}


def read_names(path: Path) -> dict[str, dict[str, object]]:
    """Emoji -> {"name": CLDR short name, "keywords": [...]}, single code points only (no joined sequences)."""
    names: dict[str, dict[str, object]] = {}
    for annotation in ElementTree.parse(path).getroot().iter("annotation"):
        emoji, text = annotation.get("cp", ""), annotation.text or ""
        if len(emoji) != 1 or emoji in SKIN_TONES:
            continue
        entry = names.setdefault(emoji, {})
        if annotation.get("type") == "tts":
            entry["name"] = text
        else:
            entry["keywords"] = [word.strip() for word in text.split("|")]
    return {emoji: entry for emoji, entry in names.items() if "name" in entry and "keywords" in entry}


def draw(emoji: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """The glyph, trimmed and centred on a transparent 128x128 square; None if the font has no picture of it."""
    if not font.getmask(emoji, mode="RGBA").getbbox():
        return None
    canvas = Image.new("RGBA", (2 * SIZE, 2 * SIZE))
    ImageDraw.Draw(canvas).text((20, 20), emoji, font=font, embedded_color=True)
    box = canvas.getchannel("A").point(lambda alpha: 255 if alpha > 16 else 0).getbbox()
    pixels = canvas.convert("RGB").getcolors(maxcolors=1 << 20)
    if box is None or pixels is None or len(pixels) < 8:  # a black-and-white fallback shape is no emoji
        return None
    glyph = canvas.crop(box)
    scale = SIZE / max(glyph.size)
    glyph = glyph.resize(
        (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))), Image.Resampling.LANCZOS
    )
    square = Image.new("RGBA", (SIZE, SIZE))
    square.paste(glyph, ((SIZE - glyph.width) // 2, (SIZE - glyph.height) // 2))
    return square


def main() -> None:
    """Draws every glyph and writes the pack."""
    font = ImageFont.truetype(str(FONT), STRIKE)
    names = read_names(ANNOTATIONS)
    kept: dict[str, dict[str, object]] = {}
    partial = TARGET.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, data: bytes) -> None:
            archive.writestr(zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0)), data)  # same bytes on every run

        for emoji in sorted(names):
            glyph = draw(emoji, font)
            if glyph is None:
                continue
            buffer = io.BytesIO()
            glyph.save(buffer, "WEBP", lossless=True, quality=100, method=6)
            add(f"{ord(emoji):x}.webp", buffer.getvalue())
            kept[emoji] = names[emoji]
        add("names.json", json.dumps(kept, ensure_ascii=False, sort_keys=True, indent=0).encode())
    os.replace(partial, TARGET)
    print(f"{TARGET}: {len(kept)} glyphs, {TARGET.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
