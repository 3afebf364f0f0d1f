"""The composition measurement as a table, as JSON, and as a sheet of failures."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from PIL import Image

from wordbrush.evaluation.composition import TRUSTED, Composition, Judged, Summary
from wordbrush.evaluation.prompts import TASKS
from wordbrush.sheets import contact_sheet

_ON_SHEET = 8  # failures of each task
_ENLARGED = 256  # pixels: room for a caption of two lines below


def table(result: Composition) -> str:
    """The figures as text, the inspector's own accuracy first."""
    own = result.inspector
    parts = [
        f"{name} {_percent(value)}"
        for name, value in (
            ("names", own.names),
            ("counts", own.counts),
            ("positions", own.positions),
            ("colours", own.colours),
            ("backgrounds", own.backgrounds),
        )
    ]
    lines = ["The inspector on held-out renders: " + ", ".join(parts)]
    if not own.trusted:
        lines.append(f"That is below {TRUSTED:.0%}: do not rely on what follows.")
    counts = {task: sum(judged.prompt.task == task for judged in result.judged) for task in TASKS}
    sets = (result.renders, result.reconstructed, result.painted)
    lines += ["", _row("task", "prompts", "renders", "through the VAE", "painted")]
    lines += [
        _row(task, str(counts[task]), *(f"{summary.tasks[task]:.3f}" for summary in sets))
        for task in result.painted.tasks
    ]
    lines.append(_row("mean of the tasks", str(len(result.judged)), *(f"{summary.mean:.3f}" for summary in sets)))
    lines.append(_row("  standard error", "", *(f"{summary.deviation:.3f}" for summary in sets)))
    lines.append(_row("stated background", str(_grounds(result)), *(_fraction(summary.background) for summary in sets)))
    lines.append(
        _row("right, nothing else", str(len(result.judged)), *(f"{summary.nothing_else:.3f}" for summary in sets))
    )
    lines += ["", *_other_figures(result)]
    return "\n".join(lines)


def _other_figures(result: Composition) -> list[str]:
    distances, retrieval = result.distances, result.retrieval
    lines = [
        f"Fréchet distance in the inspector's features: painted {distances.painted:.2f}, "
        f"through the VAE {distances.reconstructed:.2f}, two sets of real scenes {distances.floor:.2f}",
        f"VAE reconstruction of held-out scenes: {result.psnr:.1f} dB PSNR",
    ]
    if retrieval is None:
        lines.append("CLIP retrieval: not measured, the model has no clip/ folder")
    else:
        lines.append(
            f"CLIP retrieval among {retrieval.among}: picture to caption {_percent(retrieval.picture_to_caption)}, "
            f"caption to picture {_percent(retrieval.caption_to_picture)}, "
            f"painted picture to its prompt {_percent(retrieval.painted_to_caption)}"
        )
    request = result.request
    lines.append(
        f"Painted with {request.steps} steps of {request.sampler}, {request.schedule} schedule, "
        f"guidance {request.guidance:g}, seeds from {request.seed}, model {request.model}"
    )
    return lines


def as_json(result: Composition) -> dict[str, Any]:
    """Everything but the pixels."""
    settings = result.request.model_dump(mode="json", exclude_none=True, exclude={"prompt"})
    return {
        "request": settings,
        "inspector": asdict(result.inspector) | {"trusted": result.inspector.trusted},
        "renders": _summary(result.renders),
        "through_vae": _summary(result.reconstructed),
        "painted": _summary(result.painted),
        "frechet": asdict(result.distances),
        "vae_psnr_db": result.psnr,
        "clip_retrieval": None if result.retrieval is None else asdict(result.retrieval),
        "pictures": [
            {
                "task": judged.prompt.task,
                "prompt": judged.prompt.text,
                "seed": judged.seed,
                "right": judged.verdict.right,
                "reason": judged.verdict.reason,
                "background": judged.verdict.background,
                "nothing_else": judged.verdict.nothing_else,
            }
            for judged in result.judged
        ],
    }


def failure_sheet(result: Composition) -> Image.Image | None:
    """The first failures of each task, with the sentence and what is wrong; None when nothing failed."""
    chosen = [judged for task in TASKS for judged in _of_task(result.failures, task)[:_ON_SHEET]]
    if not chosen:
        return None
    pictures = [judged.picture.resize((_ENLARGED, _ENLARGED), Image.Resampling.NEAREST) for judged in chosen]
    labels = [f"{judged.prompt.text} [{judged.verdict.reason}]" for judged in chosen]
    return contact_sheet(pictures, labels, columns=min(_ON_SHEET, len(chosen)))


def _of_task(failures: list[Judged], task: str) -> list[Judged]:
    return [judged for judged in failures if judged.prompt.task == task]


def _summary(summary: Summary) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in asdict(summary).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return None if value is None else round(value, 4)


def _grounds(result: Composition) -> int:
    return sum(judged.prompt.background is not None for judged in result.judged)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _row(name: str, *cells: str) -> str:
    widths = (9, 9, 17, 9)
    return f"{name:<20}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
