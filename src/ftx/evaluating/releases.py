"""The exported models of a run with other releases of OpenVINO: one cell for each model, instruction set and release.

Each release is installed into a folder of its own in the user's cache, and runs in a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ftx.core.errors import EnvironmentFault, ExportError, InputError
from ftx.core.progress import SILENT, Progress
from ftx.core.user_cache import cache_folder
from ftx.evaluating.measure import Measurements, measure, reference_logits
from ftx.evaluating.parity_images import ParityImages
from ftx.runs.artifacts import Artifact
from ftx.runs.machine import CPU, InstructionSet, cpu_flags, sets_of
from ftx.runs.views import View
from ftx.runtimes.device import repeated
from ftx.runtimes.openvino import OpenVinoPredictor
from ftx.runtimes.other_release import OtherRelease

_RELEASE = re.compile(r"\d{4}\.\d{1,2}(\.\d{1,2})?")
# More than all releases of two years.
_KEPT_RELEASES = 16


@dataclass(frozen=True)
class Cell:
    """One model on one instruction set with one release; no measurements if it cannot run, for the ``reason``.

    On a ``device`` that is not the CPU, the set is only that of the machine.
    """

    artifact: Artifact
    isa: InstructionSet
    openvino: str
    held: Measurements | None
    reason: str = ""
    device: str = CPU


def install_releases(
    releases: Sequence[str], wheels: Path | None = None, progress: Progress = SILENT
) -> Mapping[str, Path]:
    """The folder of each release: ``2025.4`` is its newest patch, ``2025.4.1`` this one.

    pip downloads them, or takes them from the folder ``wheels``.
    Raises: InputError for another name; EnvironmentFault if pip cannot install one.
    """
    for one in releases:
        if not _RELEASE.fullmatch(one):
            raise InputError(
                "--openvino must be releases of OpenVINO", found=one, fix="write it as --openvino 2025.4,2026.2"
            )
    homes: dict[str, Path] = {}
    with progress.track("Installing OpenVINO", len(releases)) as bar:
        for one in releases:
            homes[one] = _installed(one, wheels)
            bar.advance(release=one)
    return homes


def _installed(release: str, wheels: Path | None) -> Path:
    python = f"{sys.version_info.major}{sys.version_info.minor}"
    home = cache_folder("openvino-releases", f"{release}-python{python}", keep=_KEPT_RELEASES)
    if home is None:
        raise EnvironmentFault("the user's cache cannot be written", fix="set XDG_CACHE_HOME to another folder")
    if any(home.iterdir()):
        return home
    version = release if release.count(".") == 2 else f"{release}.*"
    source = ["--no-index", "--find-links", str(wheels)] if wheels else []
    with tempfile.TemporaryDirectory(dir=home.parent) as above:
        staged = Path(above, "openvino")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *source]
        done = subprocess.run(
            [*pip, "--only-binary", ":all:", "--target", str(staged), f"openvino=={version}"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise EnvironmentFault(
                f"pip cannot install OpenVINO {release}",
                found=(errors or done.stderr.splitlines() or [f"exit status {done.returncode}"])[-1][:300],
                fix="connect to a network, or give a folder with its wheels: --wheels DIR",
            )
        staged.replace(home)  # in one step, over the empty folder: an interrupted installation leaves nothing
    return home


def measure_in_releases(
    folders: Mapping[Artifact, Path],
    homes: Mapping[str, Path],
    sets: Sequence[InstructionSet],
    images: ParityImages,
    here: Measurements,
    progress: Progress = SILENT,
) -> Iterator[Cell]:
    """Each model on each set with each release, in the precision that the release chooses.

    Raises: DataError, ImageError for an image.
    """
    plain = replace(images, tinted=images.tinted[:0])
    known = sets_of(cpu_flags())
    with progress.track("Comparing releases of OpenVINO", len(folders) * len(homes) * len(sets)) as bar:
        for release, home in homes.items():
            for isa in sets:
                for artifact, folder in folders.items():
                    if isa not in known:
                        yield Cell(artifact, isa, release, None, "this CPU does not have it")
                    else:
                        yield _cell(artifact, folder, isa, release, home, plain, here)
                    bar.advance(release=release, isa=isa, artifact=artifact.name)


def _cell(
    artifact: Artifact,
    folder: Path,
    isa: InstructionSet,
    release: str,
    home: Path,
    images: ParityImages,
    here: Measurements,
) -> Cell:
    try:
        with OtherRelease(folder, home, isa) as predictor:
            return Cell(artifact, isa, predictor.version, measure_cell(artifact, predictor, images, here))
    except ExportError as error:
        return Cell(artifact, isa, release, None, f"{error.what}: {error.found}")


def measure_cell(
    artifact: Artifact,
    predictor: OpenVinoPredictor | OtherRelease,
    images: ParityImages,
    here: Measurements,
    device: str = CPU,
) -> Measurements:
    """One model in both views, and on the reference images next to it; in both views twice on AUTO."""
    held = Measurements(here.reference, here.table, partial=here.partial, spent=here.spent)
    views: tuple[View, ...] = ("graph", "files")
    with SILENT.track("", None) as bar:
        for _ in repeated(device):
            for view in views:
                held.add(measure(artifact, predictor, images, view, bar))
    held.on_reference[artifact] = [reference_logits(predictor, "graph")]
    return held
