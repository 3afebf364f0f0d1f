"""Which jobs go well together, told without torch and before a model has had its say."""

from __future__ import annotations

from wordbrush.editing.joined import agreement
from wordbrush.errors import RequestError
from wordbrush.serving.work import AnyWork, Generate


def batch_key(work: AnyWork) -> str | None:
    """Equal for works whose pictures can likely be painted in one loop; None for one that goes alone.

    A worker looks again once the requests are filled in, so a key may be wrong without harm to any pixel.
    """
    if not isinstance(work, Generate):
        return None
    try:
        return agreement(work.request)
    except RequestError:  # of a prompt that cannot be read: alone, it spoils nobody's batch
        return None
