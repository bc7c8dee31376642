"""Images as the page shows them: small, made at their first request, and kept as far as a limit allows."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence

from PIL import Image

from ftx.core.addresses import Location
from ftx.core.errors import FtxError
from ftx.data.image_store import ImageStore, open_image

# The longer side; the page shows an image at half of that where there are two.
SIDE = 512
# Some thousand thumbnails of 10 to 20 kB.
MOST_BYTES = 64 << 20


class Thumbnails:
    """The images of a page by number; each below ``root``."""

    def __init__(self, root: Location, paths: Sequence[str], most_bytes: int = MOST_BYTES) -> None:
        self._store, self._paths, self._most_bytes = ImageStore(root), paths, most_bytes
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """What is kept at this moment."""
        return self._held_bytes

    def webp(self, number: int) -> bytes | None:
        """The image as WebP; None where there is none of this number, or it cannot be read (any more)."""
        if not 0 <= number < len(self._paths):
            return None
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        try:
            image = open_image(self._store.at(self._paths[number]))
        except FtxError:
            return None
        # Small pictures are enlarged by the browser, which does so sharply.
        image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        image.save(stream, "WEBP", quality=85)
        content = stream.getvalue()
        with self._lock:
            if number not in self._kept:
                self._kept[number] = content
                self._held_bytes += len(content)
            while self._held_bytes > self._most_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._held_bytes -= len(oldest)
        return content
