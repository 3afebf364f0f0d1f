"""Signed addresses of pictures: whoever has one may look at that picture for a while, without a key.

A page that shows a picture in an <img> cannot send a key along. The signature is an HMAC-SHA256 over the picture's name
and the time at which it ends, with a secret that lies in the data folder and never leaves it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from pathlib import Path

from wordbrush.errors import RequestError

SECRET = "address.key"
SECONDS = 3600
"""How long a signed address opens; that of the hosted OpenAI API, too."""


class Signatures:
    """Makes and checks them."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def of(cls, data: Path) -> Signatures:
        """With the secret of a data folder, which is made when it is missing. Raises `RequestError`."""
        path = data / SECRET
        try:
            try:
                path.touch(mode=0o600, exist_ok=False)
                path.write_bytes(secrets.token_bytes(32))
            except FileExistsError:
                pass
            secret = path.read_bytes()
            if len(secret) < 32:  # the server was ended between the two lines above
                secret = secrets.token_bytes(32)
                path.write_bytes(secret)
        except OSError as error:
            raise RequestError(f"{path} cannot be used: {error.strerror or error}") from error
        return cls(secret)

    def sign(self, sha256: str, now: float | None = None) -> str:
        """The query of a picture's address, "expires=…&signature=…"."""
        expires = int(time.time() if now is None else now) + SECONDS
        return f"expires={expires}&signature={self._signature(sha256, expires)}"

    def opens(self, sha256: str, expires: int, signature: str, now: float | None = None) -> bool:
        """Whether a signature is ours, of this picture, and not past its time."""
        mine = self._signature(sha256, expires)
        fits = hmac.compare_digest(mine.encode(), signature.encode("utf-8", "replace"))
        return fits and (time.time() if now is None else now) <= expires

    def _signature(self, sha256: str, expires: int) -> str:
        return hmac.new(self._secret, f"{sha256} {expires}".encode(), hashlib.sha256).hexdigest()
