"""Where embedded weights, recipes and the sample are, in a checkout and in a wheel."""

from __future__ import annotations

from pathlib import Path

from ftx.core.errors import EnvironmentFault, RecipeError, nearest

# Name of an embedded model -> its timm architecture, and its file below the models folder.
EMBEDDED = {"dinov2-small": ("vit_small_patch14_dinov2", "dinov2-small/model.safetensors")}

# What each embedded model comes from, by its name on the hub, and the licence of its weights (the model's own README).
ORIGINS = {"dinov2-small": ("facebook/dinov2-small", "apache-2.0")}


def models_folder() -> Path:
    """The folder that holds what travels with ftx.

    Raises: EnvironmentFault if the installation lacks it.
    """
    package = Path(__file__).resolve().parents[1]
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


def sample_file(name: str) -> Path:
    """A file of the sample data.

    Raises: EnvironmentFault if it is missing.
    """
    return _present(f"sample/{name}")


def architecture_table() -> Path:
    """What ftx supports of every architecture of timm.

    Raises: EnvironmentFault if it is missing.
    """
    return _present("architectures.json")


def recipe_names() -> list[str]:
    """The recipes that travel with ftx."""
    return sorted(path.stem for path in (models_folder() / "recipes").glob("*.yaml"))


def recipe_file(given: str | Path) -> Path:
    """A recipe: a file of the user's, or one that travels with ftx, by its name.

    Raises: RecipeError if there is neither.
    """
    path = Path(given)
    names = recipe_names()
    if path.is_file() or path.suffix:  # a file that is missing says so when it is read
        return path
    if str(given) in names:
        return models_folder() / "recipes" / f"{given}.yaml"
    alike = nearest(str(given), names)
    raise RecipeError(
        f"there is neither a file nor a recipe called '{given}'",
        mend=f"did you mean {alike}?" if alike else "`ftx recipes` lists the recipes",
    )


def _present(relative: str) -> Path:
    path = models_folder() / relative
    if not path.is_file():
        raise EnvironmentFault(
            f"this installation of ftx lacks {relative}", where=path.parent, mend="install ftx-vit again"
        )
    return path
