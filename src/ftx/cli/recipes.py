"""``ftx recipes``."""

from __future__ import annotations

from ftx.cli import console
from ftx.cli.shared_options import JsonFlag
from ftx.core.closed_model import ClosedModel
from ftx.core.command_report import CommandReport
from ftx.core.shipped_files import recipe_file, recipe_names
from ftx.recipe.schema import Recipe


class RecipeLine(ClosedModel):
    """A bundled recipe."""

    name: str
    """The name for ``--config``."""
    task: str
    """The task that it trains for."""
    model: str
    """The model that it trains."""
    method: str
    """The training method, for example ``dora``."""
    about: str
    """What it is for: its first comment."""


class RecipesReport(CommandReport):
    """The bundled recipes."""

    verb: str = "recipes"
    recipes: list[RecipeLine]
    """The recipes, in the order of their names."""


def command(json: JsonFlag = False) -> int:
    """List the bundled recipes.

    `ftx train --config NAME --data DIR` trains with one; `ftx run NAME --data DIR` also exports and validates.
    """
    return console.show(RecipesReport(recipes=[_line(name) for name in recipe_names()]), _print, json=json)


def _print(report: RecipesReport) -> None:
    console.print_table(
        ("name", "task", "method", "what for"), [(one.name, one.task, one.method, one.about) for one in report.recipes]
    )
    console.print_note("next: ftx run NAME --data DIR", "dim")


def _line(name: str) -> RecipeLine:
    path = recipe_file(name)
    recipe = Recipe.load(path)
    about = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return RecipeLine(name=name, task=recipe.task, model=recipe.model.name, method=recipe.method, about=about)
