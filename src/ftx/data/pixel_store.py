"""The pixels of images as training needs them: decoded and reduced once, kept on disk from one training to the next.

Under the hash of an image's bytes, so that what is read is that image and no other, wherever its file lies by now.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Literal

import numpy as np
import PIL
from PIL import Image

from ftx.core.byte_store import ByteStore
from ftx.core.progress import Progress
from ftx.core.user_cache import cache_folder, free_space
from ftx.core.version import __version__
from ftx.data.image_store import EncodedImage, open_image
from ftx.data.preprocess import Pixels, Preprocess, resize_crop
from ftx.recipe.sections import DataRecipe, TrainRecipe

# ``final`` is what the network sees; ``reduced`` is what random views are cut from.
Form = Literal["final", "reduced"]

# An image is kept at most so large that it covers this many times the network's resize: the smallest crop
# (0.6 of the area, so 0.77 of a side) is then still reduced, by 1.16, and never blown up.
KEPT_TO_RESIZE = 1.5

_KIND = "pixels"
_SHAPE = struct.Struct("<II")
# A photograph of 4:3 that covers a square.
_ASPECT = 4 / 3


class PixelStore:
    """Pixels by image; what the store cannot keep is decoded each time, to the same pixels."""

    def __init__(self, pre: Preprocess, store: ByteStore, forms: Sequence[Form] = ("final",)) -> None:
        """``forms`` are those in which whoever has decoded an image is to ``add`` it."""
        self.pre, self.store, self._forms = pre, store, forms
        self.unkept = 0

    def __len__(self) -> int:
        return len(self.store)

    def knows(self, digest: str) -> bool:
        """Whether the bytes of this SHA-256 were decoded before, and are an image."""
        return _key("sound", digest) in self.store

    def add(self, digest: str, image: Image.Image, *, pixels: bool) -> None:
        """Remember that bytes of this SHA-256 are an image, and keep its ``pixels`` if training will need them."""
        self.store.put(_key("sound", digest), memoryview(b"\1"))
        for form in self._forms if pixels else ():
            self._keep(_key(form, digest), self._made(image, form))

    def get(self, image: EncodedImage, form: Form) -> Pixels:
        """The pixels of an image, decoded only if they are not kept. Shape: uint8 [H, W, 3].

        Raises: as ``open_image``.
        """
        key = _key(form, image.key)
        kept = self.store.get(key)
        if kept is not None:
            height, width = _SHAPE.unpack_from(kept)
            return np.frombuffer(kept, np.uint8, offset=_SHAPE.size).reshape(height, width, 3)
        made_HWC = self._made(open_image(image), form)
        if image.sha256 is not None or not self.store.lasting:  # a name does not identify another day's bytes
            self._keep(key, made_HWC)
        return made_HWC

    def _made(self, image: Image.Image, form: Form) -> Pixels:
        if form == "final":  # of the image itself: reducing first would change them
            return resize_crop(image, self.pre)
        return np.asarray(reduce(image, KEPT_TO_RESIZE, self.pre))

    def _keep(self, key: bytes, pixels_HWC: Pixels) -> None:
        shape = _SHAPE.pack(*pixels_HWC.shape[:2])
        if not self.store.put(key, memoryview(shape + pixels_HWC.tobytes())):
            self.unkept += 1
        self.store.sync(due=True)


@contextmanager
def pixel_store(
    data: DataRecipe, images: int, pre: Preprocess, train: TrainRecipe, progress: Progress
) -> Iterator[PixelStore]:
    """The pixels of that many images of a data set, in the user's cache, in place of the least used other data sets.

    Beyond ``train.cache_gb`` nothing is kept.
    """
    limit_bytes = train.cache_gb * 1e9
    # Before a plan only its reader knows what auto will be; it says light where it expects that.
    forms: tuple[Form, ...] = ("final", "reduced") if train.augment == "light" else ("final",)
    numbers = (pre.height, pre.width, pre.resize, pre.interpolation, KEPT_TO_RESIZE)
    named = repr((str(data.path.absolute()), numbers, PIL.__version__, __version__))
    digest = sha256(named.encode(errors="surrogateescape")).hexdigest()
    folder = cache_folder(_KIND, digest, keep=None) if limit_bytes else None
    if folder is not None:
        free_space(folder, images * sum(_bytes(form, pre) for form in forms), limit_bytes)
    with ByteStore(folder, limit_bytes) as store:
        pixels = PixelStore(pre, store, forms)
        yield pixels
        if pixels.unkept:
            why = store.fault or f"they take more than {store.limit_bytes / 1e9:.1f} GB (train.cache_gb, half the disk)"
            progress.note(f"not all images are kept decoded: {why}; the others are decoded each time")


def reduce(image: Image.Image, times: float, pre: Preprocess) -> Image.Image:
    """The image reduced until it just covers the resize that many times, in the recipe's interpolation, antialiased."""
    box_height, box_width = (int(side * times) for side in pre.box)
    scale = max(box_height / image.height, box_width / image.width)
    if scale >= 1:
        return image
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.resize(size, Image.Resampling[pre.interpolation.upper()])


def _bytes(form: Form, pre: Preprocess) -> float:
    height, width = pre.box
    return 3 * (pre.height * pre.width if form == "final" else KEPT_TO_RESIZE**2 * _ASPECT * height * width)


def _key(kind: str, digest: str) -> bytes:
    return sha256(f"{kind} {digest}".encode()).digest()
