"""How the studio looks: warm paper and ink, one accent colour, light and dark. The rest is `page/style.css`."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

PAGE = Path(__file__).parent / "page"
ASSETS = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
"""Gradio's own scripts and styles; a file's name changes with its contents."""

# (light, dark); `page/style.css` has the same as --wb-*. Text on ground and on cards keeps at least 4.5 to 1.
GROUND = ("#f6f4ef", "#15181b")
CARD = ("#ffffff", "#1d2125")
FIELD = ("#ffffff", "#16191c")
LINE = ("#e2ded5", "#30363c")
EDGE = ("#8b877d", "#737b83")  # what bounds a field has to be seen: 3 to 1 against its ground
INK = ("#20242a", "#e9e7e2")
SOFT = ("#5a5f66", "#a9afb6")
ACCENT = ("#0f6b62", "#55c7b8")
ACCENT_DEEP = ("#0b544d", "#7ad8cb")
ON_ACCENT = ("#ffffff", "#06211d")
TINT = ("#e3f0ee", "#1c3431")
ALARM = ("#a3281c", "#ff9d8f")

_FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


BRUSH = (
    "<path fill='currentColor' opacity='.85' d='M14.6 3.6a2.6 2.6 0 0 1 3.9-.2l2.1 2.1a2.6 2.6 0 0 1-.2 3.9l-7.2"
    " 6-4.6-4.6z'/><path fill='currentColor' d='M7.3 12.2l4.5 4.5c.3 3-1.7 4.6-4.5 4.9-1.9.2-3.8-.2-5.1-.8 1.6-.7"
    " 1.9-1.6 2-3.4.2-2.7 1.1-4.6 3.1-5.2z'/>"
)
ICON = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' color='{ACCENT[0]}'>{BRUSH}</svg>"


def theme() -> gr.themes.Base:
    """Gradio's theme in our colours; its fonts are the system's, so nothing is fetched."""
    base = gr.themes.Base(font=_FONT, font_mono=_MONO, radius_size="lg", spacing_size="md", text_size="md")
    base.name = "wordbrush"
    colours = {
        "body_background_fill": GROUND, "body_text_color": INK, "body_text_color_subdued": SOFT,
        "background_fill_primary": CARD, "background_fill_secondary": GROUND,
        "border_color_accent": ACCENT, "border_color_accent_subdued": LINE, "border_color_primary": LINE,
        "color_accent_soft": TINT, "link_text_color": ACCENT, "link_text_color_hover": ACCENT_DEEP,
        "link_text_color_active": ACCENT, "link_text_color_visited": ACCENT,
        "code_background_fill": GROUND, "block_background_fill": CARD, "block_border_color": LINE,
        "block_info_text_color": SOFT, "block_label_background_fill": CARD, "block_label_border_color": LINE,
        "block_label_text_color": SOFT, "block_title_text_color": INK, "panel_background_fill": CARD,
        "panel_border_color": LINE, "accordion_text_color": INK, "table_text_color": INK,
        "checkbox_background_color": FIELD, "checkbox_background_color_focus": FIELD,
        "checkbox_background_color_hover": FIELD, "checkbox_background_color_selected": ACCENT,
        "checkbox_border_color": EDGE, "checkbox_border_color_focus": ACCENT, "checkbox_border_color_hover": ACCENT,
        "checkbox_border_color_selected": ACCENT, "checkbox_label_background_fill": CARD,
        "checkbox_label_background_fill_hover": CARD, "checkbox_label_background_fill_selected": TINT,
        "checkbox_label_border_color": LINE, "checkbox_label_text_color": INK,
        "checkbox_label_text_color_selected": INK, "error_background_fill": CARD, "error_border_color": ALARM,
        "error_text_color": ALARM, "error_icon_color": ALARM, "input_background_fill": FIELD,
        "input_background_fill_focus": FIELD, "input_background_fill_hover": FIELD, "input_border_color": EDGE,
        "input_border_color_focus": ACCENT, "input_border_color_hover": ACCENT, "input_placeholder_color": SOFT,
        "loader_color": ACCENT, "slider_color": ACCENT, "table_border_color": LINE,
        "table_even_background_fill": CARD, "table_odd_background_fill": GROUND, "table_row_focus": TINT,
        "button_primary_background_fill": ACCENT, "button_primary_background_fill_hover": ACCENT_DEEP,
        "button_primary_border_color": ACCENT, "button_primary_border_color_hover": ACCENT_DEEP,
        "button_primary_text_color": ON_ACCENT, "button_primary_text_color_hover": ON_ACCENT,
        "button_secondary_background_fill": CARD, "button_secondary_background_fill_hover": TINT,
        "button_secondary_border_color": EDGE, "button_secondary_border_color_hover": ACCENT,
        "button_secondary_text_color": INK, "button_secondary_text_color_hover": INK,
        "button_cancel_background_fill": CARD, "button_cancel_background_fill_hover": CARD,
        "button_cancel_border_color": ALARM, "button_cancel_border_color_hover": ALARM,
        "button_cancel_text_color": ALARM, "button_cancel_text_color_hover": ALARM,
    }  # fmt: skip
    values = {name: light for name, (light, _) in colours.items()}
    values |= {f"{name}_dark": dark for name, (_, dark) in colours.items()}
    values |= {"color_accent": "var(--wb-accent)", "block_border_width": "0px", "block_shadow": "none"}
    values |= {"block_label_border_width": "0px", "input_border_width": "1px", "button_border_width": "1px"}
    values |= {"input_shadow": "none", "input_shadow_focus": "none", "button_secondary_shadow": "none"}
    values |= {"block_title_text_weight": "600", "block_title_text_size": "0.84rem", "block_info_text_size": "0.8rem"}
    values |= {"button_large_text_weight": "600", "button_transform_active": "translateY(1px)", "layout_gap": "12px"}
    return base.set(**values)


def style() -> str:
    """The style sheet: the colours as --wb-* for light and dark, `page/style.css`, and those of single pages."""
    names = {
        "ground": GROUND, "card": CARD, "field": FIELD, "line": LINE, "edge": EDGE, "text": INK, "muted": SOFT,
        "accent": ACCENT, "accent-deep": ACCENT_DEEP, "on-accent": ON_ACCENT, "tint": TINT, "alarm": ALARM,
    }  # fmt: skip
    light = "".join(f"--wb-{name}: {value[0]}; " for name, value in names.items())
    dark = "".join(f"--wb-{name}: {value[1]}; " for name, value in names.items())
    sheet = "".join((PAGE / f"{name}.css").read_text(encoding="utf-8") for name in ("style", "edit", "understand"))
    return f":root {{ {light}--wb-bg: var(--wb-ground); }}\n.dark {{ {dark}--wb-bg: var(--wb-ground); }}\n{sheet}"


def head() -> str:
    """What goes into the page's head: the theme that was chosen last, before anything is drawn, and the keyboard."""
    script = (PAGE / "studio.js").read_text(encoding="utf-8")
    dark = f"@media (prefers-color-scheme: dark) {{ body {{ background: {GROUND[1]}; }} }}"
    colours = f"<style>body {{ background: {GROUND[0]}; }} {dark}</style>"
    return f"<meta name='color-scheme' content='light dark'>{colours}<script>{script}</script>"
