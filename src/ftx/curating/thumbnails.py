"""Images as the page shows them: small, made at their first request, of which the last are kept."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image

from ftx.core.addresses import Location
from ftx.core.errors import FtxError
from ftx.data.image_store import ImageStore, open_image

# The longer side; the page shows an image at half of that if there are two.
SIDE = 512
# Thumbnails have 10 to 20 kB, those of noise 250.
KEPT = 512


class Thumbnails:
    """The images of a page by number; each below ``root``."""

    def __init__(self, root: Location, paths: Sequence[str], kept: int = KEPT) -> None:
        self._store, self._paths = ImageStore(root), paths
        self._kept = lru_cache(kept)(self._made)

    def webp(self, number: int) -> bytes | None:
        """The image as WebP; None if there is none of this number, or it cannot be read (any more)."""
        if not 0 <= number < len(self._paths):
            return None
        try:
            return self._kept(number)
        except FtxError:
            return None

    def _made(self, number: int) -> bytes:
        image = open_image(self._store.at(self._paths[number]))
        # The browser enlarges small images, and keeps them sharp.
        image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        image.save(stream, "WEBP", quality=85)
        return stream.getvalue()
