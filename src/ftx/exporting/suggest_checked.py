"""Whether int8-checked would pay on this machine: it is measured in a folder that is deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ftx.core.errors import DataError, ImageError, shell_command
from ftx.data.image_store import ImageStore
from ftx.evaluating.certify import certify
from ftx.evaluating.parity_images import certifying_images
from ftx.exporting.export_source import Source
from ftx.exporting.writers import write_checked
from ftx.runs.artifacts import EXPORT_IR
from ftx.runs.certificate import MOST_TIME, Certificate

# With these, at most 1 % of labels differ. A hint takes no more, and so a few seconds.
IMAGES = 299


def suggest_checked(source: Source) -> str | None:
    """A sentence: how many labels of fp32 int8 changes, and whether int8-checked keeps them in less time.

    It is measured as for a certificate, on images that have not made or chosen the int8 model; None without any.
    """
    entries, what = certifying_images(source.run)
    if not entries:
        return None
    try:
        store = ImageStore(source.run.data_root(source.data))
        with TemporaryDirectory() as folder:
            write_checked(source, Path(folder))
            known = certify(Path(folder), [store[entry] for entry in entries[:IMAGES]], what, source.progress)
    except (DataError, ImageError) as error:
        # The int8 model is written, and needs none of these images.
        return f"int8-checked was not measured: {error}"
    return hint(source.run.path, known)


def hint(run: Path, known: Sequence[Certificate]) -> str:
    """The sentence, from the certificates: of int8 first, and then of bf16 where the CPU has it."""
    int8, best = known[0], min(known, key=lambda one: one.time_vs_fp32)
    if not int8.changed:
        return f"int8 changes the labels of none of {int8.images:,} images: you do not need int8-checked"
    changed, part = f"int8 changes the labels of {int8.changed:,} of {int8.images:,} images", best.time_vs_fp32
    if part <= MOST_TIME:
        again = f"{shell_command(EXPORT_IR, run)} --precision int8-checked"
        return f"{changed}; int8-checked keeps those of fp32, in about {part:.2f} of its time: {again}"
    return f"{changed}; int8-checked does not pay on this machine: it takes about {part:.2f} of the time of fp32"
