"""Where embedded weights, recipes and the sample are, in a checkout and in a wheel."""

from __future__ import annotations

from pathlib import Path

from ftx.errors import EnvironmentFault

# Name of an embedded model -> its timm architecture, and its file below the models folder.
EMBEDDED = {"dinov2-small": ("vit_small_patch14_dinov2", "dinov2-small/model.safetensors")}

SAMPLE_ARCHIVE = "sample/fashion-mnist.zip"


def models_folder() -> Path:
    """The folder that holds what travels with ftx.

    Raises: EnvironmentFault if the installation lacks it.
    """
    package = Path(__file__).resolve().parent
    # A wheel carries models/ inside the package; a checkout (and its editable install) beside src/.
    for folder in (package / "_models", package.parents[1] / "models"):
        if folder.is_dir():
            return folder
    raise EnvironmentFault(
        "this installation of ftx lacks its models folder", where=package, mend="install ftx-vit again"
    )


def embedded_weights(name: str) -> Path | None:
    """The weights that travel with ftx for a model of this name; None where there are none.

    Raises: EnvironmentFault if there should be some and the file is missing.
    """
    if name not in EMBEDDED:
        return None
    return _present(EMBEDDED[name][1])


def sample_archive() -> Path:
    """The sample data set, one archive.

    Raises: EnvironmentFault if the file is missing.
    """
    return _present(SAMPLE_ARCHIVE)


def embedded_recipe(name: str) -> Path:
    """A recipe of the zoo, by its name.

    Raises: EnvironmentFault if the file is missing.
    """
    return _present(f"recipes/{name}.yaml")


def _present(relative: str) -> Path:
    path = models_folder() / relative
    if not path.is_file():
        raise EnvironmentFault(
            f"this installation of ftx lacks {relative}", where=path.parent, mend="install ftx-vit again"
        )
    return path
