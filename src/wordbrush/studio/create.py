"""The Create page: what there is on it. What it does is in `create_events.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from wordbrush.studio import choices, markup
from wordbrush.studio.form import AUTO, MOST_LORAS, NAMES, Form

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

EXAMPLES = (
    "a fox on a blue background",
    "two slices of pizza to the left of a cat",
    "a red balloon above a house on a green background",
    "three strawberries on a yellow background",
)


@dataclass(frozen=True)
class CreatePage:
    """The page's components.

    Attributes:
        fields: by the names of `form.NAMES`.
        strengths: sliders, one for each LoRA that may be chosen.
        carried: state: the fields of a restored request that the form has no place for.
        typed: pressed by the page's script when typing rests.
    """

    fields: Mapping[str, Any]
    strengths: tuple[gr.Slider, ...]
    carried: gr.State
    carried_note: gr.HTML
    last_seed: gr.State
    go: gr.Button
    stop: gr.Button
    live: gr.Checkbox
    typed: gr.Button
    tokens: gr.HTML
    status: gr.HTML
    canvas: gr.HTML
    notes: gr.HTML
    dice: gr.Button
    again: gr.Button
    clear_carried: gr.Button

    @property
    def inputs(self) -> list[Any]:
        """What handlers take: what is carried, then the values that `Form.of_values` reads."""
        return [self.carried, *(self.fields[name] for name in NAMES), *self.strengths]

    @property
    def form_outputs(self) -> list[Any]:
        """What `updates` changes."""
        return [*self.fields.values(), *self.strengths, self.carried, self.carried_note, self.clear_carried]

    def updates(self, form: Form, server: Server) -> dict[Any, Any]:
        """What puts a form's values on the page."""
        known = {name for _, name in choices.models(server)}
        loras = [name for name in form.loras if name in choices.loras(server)]
        model = form.model if form.model in known else AUTO
        changes: dict[Any, Any] = {
            self.fields["prompt"]: form.prompt,
            self.fields["negative"]: form.negative,
            self.fields["model"]: gr.update(value=model, choices=choices.models(server)),
            self.fields["preset"]: form.preset if form.preset in {name for _, name in choices.presets()} else AUTO,
            self.fields["size"]: gr.update(value=form.size, choices=_with(choices.sizes(server, model), form.size)),
            self.fields["steps"]: _shown(form.steps),
            self.fields["guidance"]: _shown(form.guidance),
            self.fields["sampler"]: form.sampler,
            self.fields["schedule"]: form.schedule,
            self.fields["seed"]: "" if form.seed is None else str(form.seed),
            self.fields["count"]: form.count,
            self.fields["styles"]: [name for name in form.styles if name in choices.styles()],
            self.fields["loras"]: gr.update(value=loras, choices=choices.loras(server)),
            self.carried: dict(form.carried),
            self.carried_note: carried_html(form.carried),
            self.clear_carried: gr.update(visible=bool(form.carried)),
        }
        return changes | self.strength_updates(loras, form.strengths)

    def strength_updates(self, loras: list[str], strengths: Mapping[str, float]) -> dict[Any, Any]:
        """Shows a slider for each chosen LoRA."""
        named = [*loras, *[None] * (MOST_LORAS - len(loras))]
        return {
            slider: gr.update(visible=False)
            if name is None
            else gr.update(visible=True, label=f"Strength of {name}", value=strengths.get(name, 1.0))
            for slider, name in zip(self.strengths, named, strict=True)
        }


def _shown(number: float | None) -> str:
    return "" if number is None else f"{number:g}"


def _with(listed: choices.Choices, size: str) -> choices.Choices:
    return listed if size in {value for _, value in listed} else [*listed, (size.replace("x", " × "), size)]


def carried_html(carried: Mapping[str, Any]) -> str:
    """What is carried along from a restored picture, in words."""
    shown = {name.replace("_", " "): _short(value) for name, value in carried.items() if name != "for_prompt"}
    if not shown:
        return ""
    return f"<div class='wb-carried'><p>Also from that picture:</p>{markup.table(shown)}</div>"


def _short(value: Any) -> str:
    text = ", ".join(f"{name} {each}" for name, each in value.items()) if isinstance(value, dict) else str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def welcome() -> str:
    """The easel before anything was painted."""
    chips = "".join(markup.button(text, "example", text=text) for text in EXAMPLES)
    return (
        "<div class='wb-welcome'><h2>Say what to paint</h2>"
        "<p>Write a sentence, or begin with one of these. Drop a picture anywhere to get its settings back.</p>"
        f"<div class='wb-examples'>{chips}</div></div>"
    )


def build(server: Server) -> CreatePage:
    """Puts the page into the tab that is open."""
    with gr.Column(elem_id="wb-create"):
        with gr.Column(elem_id="wb-ask", elem_classes=["wb-card"]):
            ask = _ask()
        with gr.Column(elem_id="wb-easel"):
            status = gr.HTML(elem_id="wb-status")
            canvas = gr.HTML(welcome(), elem_id="wb-canvas", js_on_load=markup.CLICKS)
            notes = gr.HTML(elem_id="wb-notes")
        with gr.Column(elem_id="wb-settings", elem_classes=["wb-card"]):
            settings = _settings(server)
    fields = {"prompt": ask.pop("prompt"), "negative": ask.pop("negative"), **settings.pop("fields")}
    return CreatePage(
        fields={name: fields[name] for name in NAMES},
        last_seed=gr.State(None), carried=gr.State({}), status=status, canvas=canvas, notes=notes,
        **ask, **settings,
    )  # fmt: skip


def _ask() -> dict[str, Any]:
    prompt = gr.Textbox(
        label="Prompt", lines=3, max_lines=10, placeholder="a fox on a blue background", elem_id="wb-prompt",
        autofocus=True,
    )  # fmt: skip
    tokens = gr.HTML("<span class='wb-count'>0 tokens</span>", elem_id="wb-tokens")
    negative = gr.Textbox(
        label="Negative prompt", lines=1, max_lines=6, placeholder="what should not be there", elem_id="wb-negative"
    )
    with gr.Row(elem_id="wb-actions"):
        go = gr.Button("Paint", variant="primary", elem_id="wb-paint", elem_classes=["wb-go"], scale=2)
        stop = gr.Button("Cancel", variant="stop", elem_id="wb-cancel", elem_classes=["wb-stop"], interactive=False)
    live = gr.Checkbox(
        label="Paint as I type", info="Quick small sketches with the built-in model.", elem_id="wb-live",
    )  # fmt: skip
    gr.HTML("<p class='wb-keys'><kbd>Ctrl</kbd> <kbd>Enter</kbd> paints, <kbd>Esc</kbd> cancels</p>")
    typed = gr.Button("Typed", elem_id="wb-typed", visible="hidden")
    return {
        "prompt": prompt, "tokens": tokens, "negative": negative, "go": go, "stop": stop, "live": live, "typed": typed,
    }  # fmt: skip


def _settings(server: Server) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    fields["model"] = gr.Dropdown(choices.models(server), value=AUTO, label="Model", elem_id="wb-model")
    with gr.Row():
        fields["preset"] = gr.Dropdown(choices.presets(), value=AUTO, label="Preset", elem_id="wb-preset")
        fields["size"] = gr.Dropdown(
            choices.sizes(server, AUTO), value=AUTO, label="Size", allow_custom_value=True, elem_id="wb-size"
        )
    own = server.catalogue.defaults_of(None)
    with gr.Row():
        fields["steps"] = _number("Steps", "wb-steps", own.get("steps"))
        fields["guidance"] = _number("Guidance", "wb-guidance", own.get("guidance"))
    with gr.Row():
        fields["sampler"] = gr.Dropdown(choices.samplers(), value=AUTO, label="Sampler", elem_id="wb-sampler")
        fields["schedule"] = gr.Dropdown(choices.schedules(), value=AUTO, label="Schedule", elem_id="wb-schedule")
    with gr.Row(elem_id="wb-seeds"):
        fields["seed"] = gr.Textbox(label="Seed", placeholder="drawn anew", elem_id="wb-seed", max_lines=1, scale=3)
        dice = gr.Button("New", elem_id="wb-dice", size="sm", min_width=64)
        again = gr.Button("Last", elem_id="wb-again", size="sm", min_width=64)
    fields["count"] = gr.Slider(1, 16, value=1, step=1, label="Pictures", elem_id="wb-number")
    fields["styles"] = gr.Dropdown(choices.styles(), value=[], multiselect=True, label="Styles", elem_id="wb-styles")
    fields["loras"] = gr.Dropdown(
        choices.loras(server), value=[], multiselect=True, max_choices=MOST_LORAS, label="LoRAs", elem_id="wb-loras"
    )
    strengths = tuple(
        gr.Slider(-1, 2, value=1.0, step=0.05, label="Strength", visible=False, elem_id=f"wb-strength-{number}")
        for number in range(MOST_LORAS)
    )
    note = gr.HTML(elem_id="wb-carried")
    clear = gr.Button("Leave these out", size="sm", visible=False, elem_id="wb-clear-carried")
    return {
        "fields": fields, "dice": dice, "again": again, "strengths": strengths, "carried_note": note,
        "clear_carried": clear,
    }  # fmt: skip


def _number(label: str, elem_id: str, own: Any) -> gr.Textbox:
    """A field for a number that may be empty, which Gradio's own cannot be."""
    return gr.Textbox(label=label, placeholder=automatic(own), elem_id=elem_id, max_lines=1)


def automatic(own: Any) -> str:
    """What stands in an empty field of a number: what the model takes."""
    return "auto" if own is None else f"auto ({own:g})"
