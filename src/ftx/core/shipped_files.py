"""Where the files are that come with ftx.

Recipes and the table of architectures are next to this module, in every install: `ftx recipes` and `ftx models` read
them on a device too, and they take 30 kB of its wheel. Weights and the sample are 45 MB that only training reads:
they are a distribution of their own, ``ftx-vit-models``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ftx.core.errors import EnvironmentFault, RecipeError, nearest
from ftx.core.packages import INSTALL_AGAIN, install_command

# Name of a bundled model -> its timm architecture, and its file below the models folder.
BUNDLED = {"dinov2-small": ("vit_small_patch14_dinov2", "dinov2-small/model.safetensors")}

# The source of each bundled model, by its name on the hub, and the licence of its weights (the model's own README).
ORIGINS = {"dinov2-small": ("facebook/dinov2-small", "apache-2.0")}

_SHIPPED = Path(__file__).with_name("shipped")
_RECIPES = _SHIPPED / "recipes"


def models_folder() -> Path:
    """The folder of bundled weights and the sample.

    Raises: EnvironmentFault if it is not installed.
    """
    # A checkout's own come first: they are of the same commit as the code, whatever else the environment holds.
    checkout = Path(__file__).resolve().parents[3] / "models" / "ftx_models"
    if checkout.is_dir():
        return checkout
    found = find_spec("ftx_models")
    if found is None or found.origin is None:
        raise EnvironmentFault(
            "the bundled weights and sample must be installed for this",
            found="no package 'ftx_models'",
            fix=install_command("train"),
        )
    return Path(found.origin).parent


def bundled_weights(name: str) -> Path | None:
    """The bundled weights of a model of this name; None if there are none.

    Raises: EnvironmentFault if there should be some and the file is missing.
    """
    if name not in BUNDLED:
        return None
    return _present(models_folder() / BUNDLED[name][1])


def sample_file(name: str) -> Path:
    """A file of the sample data.

    Raises: EnvironmentFault if it is missing.
    """
    return _present(models_folder() / "sample" / name)


def architecture_table() -> Path:
    """The table of what ftx supports of every architecture of timm.

    Raises: EnvironmentFault if it is missing.
    """
    return _present(_SHIPPED / "architectures.json")


def recipe_names() -> list[str]:
    """The names of the bundled recipes."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def recipe_file(given: str | Path) -> Path:
    """A recipe: a file of the user's, or a bundled one, by its name.

    Raises: RecipeError if there is neither.
    """
    path = Path(given)
    names = recipe_names()
    if path.is_file() or path.suffix:  # reading it reports a missing file
        return path
    if str(given) in names:
        return _RECIPES / f"{given}.yaml"
    alike = nearest(str(given), names)
    raise RecipeError(
        "the recipe must be a file, or a name that `ftx recipes` lists",
        found=f"'{given}'",
        fix=f"did you mean {alike}?" if alike else "run `ftx recipes` to list the names",
    )


def _present(path: Path) -> Path:
    if not path.is_file():
        raise EnvironmentFault(
            f"this installation of ftx lacks {path.name}",
            where=path.parent,
            fix=INSTALL_AGAIN,
        )
    return path
