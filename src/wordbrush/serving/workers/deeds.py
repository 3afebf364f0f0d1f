"""What a worker does beside painting from requests: enlarging, explaining and describing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from wordbrush.editing.upscaled_file import upscaled_png
from wordbrush.errors import RequestError
from wordbrush.inputs import InputPicture
from wordbrush.metadata import PictureMetadata, png_bytes
from wordbrush.request_fields import SHIPPED_UPSCALER
from wordbrush.serving.catalogue import Catalogue
from wordbrush.serving.store.files import InputFiles, PictureFiles
from wordbrush.serving.work import Describe, Explain, Progress, StoredPicture, Upscale
from wordbrush.serving.workers.models import Models
from wordbrush.serving.workers.protocol import Done, Painted, Previewed, Progressed, Reports, Setup, Task
from wordbrush.serving.workers.rows import Desk, with_inputs

if TYPE_CHECKING:
    from PIL import Image

    from wordbrush.diffusion.samplers import Step

_LARGEST_FACTOR = 8.0

# How many of the likeliest things and grounds are told of a picture.
_MOST_LIKELY = 5


class _LetGo(Exception):
    """The job is not wanted any more."""


@dataclass(frozen=True)
class Deeds:
    """Does one job at a time. `send` hears of it meanwhile, in the same thread."""

    setup: Setup
    models: Models
    catalogue: Catalogue
    desk: Desk
    send: Callable[[Reports], None]

    def do(self, task: Task) -> Done | None:
        """Does a job; None when it was let go. Raises `RequestError`, `ModelFileError`, `WorkFailed`."""
        try:
            if isinstance(task.work, Upscale):
                return self._upscale(task.job_id, task.work)
            if isinstance(task.work, Explain):
                return self._explain(task.job_id, task.work)
            assert isinstance(task.work, Describe)
            return self._describe(task.job_id, task.work)
        except _LetGo:
            return None

    def _upscale(self, job_id: str, work: Upscale) -> Done:
        name = work.upscaler or SHIPPED_UPSCALER
        self._tell(job_id, Progress(pictures=len(work.images), steps=len(work.images), phase="loading"))
        upscaler = self.models.upscalers(name).named(name)
        for index, given in enumerate(work.images):
            picture = self._picture(given)
            factor = enlarging(picture.size, work)
            large = upscaler.enlarge(picture, factor)
            exact = covering(large, work)
            plain = exact is large and factor > 1
            data = upscaled_png(picture, exact, factor, name) if plain else _png(exact)
            self._keep(job_id, data, exact, index=index)
            number = index + 1
            self._tell(job_id, Progress(picture=number, pictures=len(work.images), step=number, steps=len(work.images)))
        return Done(job_id)

    def _explain(self, job_id: str, work: Explain) -> Done:
        from wordbrush.editing.preview import preview_of
        from wordbrush.evaluation.explaining import explain

        self._tell(job_id, Progress(phase="loading"))
        pipe = self.models.pipeline(str(work.request.model), work.request.vae)
        request = pipe.fill(with_inputs(work.request, InputFiles(self.setup.data)))
        self.catalogue.refuse_unknown_loras(request)
        steps, done = pipe.step_count(request), 0

        def onlooker(step: Step) -> None:
            nonlocal done
            done += 1
            self._tell(job_id, Progress(step=done, steps=steps))
            if self.desk.watched(job_id) and done < steps:
                self.send((Previewed(job_id, 0, preview_of(pipe.codec).jpeg(step.x0[0])),))

        explained = explain(pipe, request, work.columns, onlooker)
        self._tell(job_id, Progress(step=done, steps=steps, phase="decoding"))
        origin = pipe.origin_of(explained.request)
        for index, (role, label, image) in enumerate(explained.pictures()):
            own = role == "picture"
            data = png_bytes(image, PictureMetadata(request=explained.request, origin=origin)) if own else _png(image)
            told: dict[str, Any] = {"seed": explained.request.seed, "request": explained.request.to_dict()}
            self._keep(job_id, data, image, index=index, role=role, label=label, **(told if own else {}))
        return Done(job_id, output=explained.output(), notes=tuple(explained.notes))

    def _describe(self, job_id: str, work: Describe) -> Done:
        picture = self._picture(work.image)
        self._tell(job_id, Progress(phase="loading"))
        describer = self.models.describer(self.catalogue.model(work.model).name)
        self._tell(job_id, Progress(phase="painting"))
        return Done(job_id, output=describer.describe(picture, _MOST_LIKELY).output())

    def _tell(self, job_id: str, progress: Progress) -> None:
        """Says how far it is; leaves the work when it is to be let go."""
        self.send((Progressed(job_id, progress),))
        if self.desk.cancelled(job_id) is not None:
            raise _LetGo

    def _picture(self, given: InputPicture) -> Image.Image:
        if given.path is not None or given.sha256 is None:
            raise RequestError("this is no picture that was uploaded; send the picture itself")
        return InputFiles(self.setup.data).image(given.sha256)

    def _keep(
        self,
        job_id: str,
        data: bytes,
        image: Image.Image,
        *,
        index: int,
        role: str = "picture",
        label: str | None = None,
        seed: int | None = None,
        request: dict[str, Any] | None = None,
    ) -> None:
        sha256 = PictureFiles(self.setup.data).add(data)
        picture = StoredPicture(
            sha256=sha256, index=index, width=image.width, height=image.height, bytes=len(data), role=role, label=label,
            seed=seed, request=request,
        )  # fmt: skip
        self.send((Painted(job_id, picture),))


def enlarging(size: tuple[int, int], work: Upscale) -> float:
    """By how much a picture of (width, height) is enlarged: by the scale, or until it covers width and height.

    Raises:
        RequestError: neither is asked for, or both are, or it is more than eight times.
    """
    sides = [(asked, own) for asked, own in ((work.width, size[0]), (work.height, size[1])) if asked is not None]
    if work.scale is not None and sides:
        raise RequestError("give scale, or width and height, not both")
    if work.crop and len(sides) != 2:
        raise RequestError("crop cuts a picture to width and height; give both")
    if not sides and work.scale is None:
        raise RequestError("nothing says how large the picture shall be; give scale, or width and height")
    factor = work.scale if work.scale is not None else max(asked / own for asked, own in sides)
    if factor > _LARGEST_FACTOR:
        raise RequestError(
            f"{size[0]}x{size[1]} would be made {factor:.3g} times as large; at most {_LARGEST_FACTOR:g} is done"
        )
    return factor


def covering(large: Image.Image, work: Upscale) -> Image.Image:
    """The enlarged picture as the work wants it: the middle cut out where it asks for that."""
    if not work.crop or work.width is None or work.height is None or large.size == (work.width, work.height):
        return large
    left, top = (large.width - work.width) // 2, (large.height - work.height) // 2
    return large.crop((left, top, left + work.width, top + work.height))


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
