"""The flags that stand for keys of the recipe, and the recipe of a command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from operator import attrgetter
from typing import Annotated, Any, cast

import typer

from ftx.cli import console
from ftx.core.shipped_files import recipe_file
from ftx.recipe.adapter_targets import TARGETS, WORDS
from ftx.recipe.method_defaults import ADAPTERS
from ftx.recipe.schema import Recipe, notes_on_otx
from ftx.tasks.task_names import TASK_CHOICES


@dataclass(frozen=True)
class RecipeFlag:
    """A flag, the recipe's key that it sets, how help names its value (a switch has none), and its help text.

    ``default`` is what help shows if the recipe's own default would not be understood.
    """

    flag: str
    key: str
    metavar: str | None
    text: str
    default: str | None = None

    @property
    def name(self) -> str:
        """The flag as a parameter of a function."""
        return self.flag.removeprefix("--").replace("-", "_")

    def parameter(self) -> inspect.Parameter:
        """The parameter that typer makes the flag of."""
        if self.metavar is None:
            spelled = f"{self.flag}/{self.flag.replace('--', '--no-')}"
            annotation: Any = Annotated[bool | None, typer.Option(spelled, show_default=False, help=self.text)]
        else:
            value: object = attrgetter(self.key)(Recipe())
            default = self.default or (f"{value:g}" if isinstance(value, float) else value)
            text = f"{self.text}  [default: {default}]"
            # The value stays text here: the recipe checks all of them together and reports every error at once.
            option = typer.Option(self.flag, metavar=self.metavar, show_default=False, help=text)
            annotation = Annotated[str | None, option]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


FLAGS = (
    RecipeFlag(
        "--data",
        "data.path",
        "PATH",
        "Folder of images, one subfolder a class, a .csv or .jsonl table, or COCO or Datumaro annotations.",
    ),
    RecipeFlag(
        "--follow-links",
        "data.follow_links",
        None,
        "Follow links in the data folder that lead out of it; else an error.",
    ),
    RecipeFlag("--task", "task", "TASK", f"{TASK_CHOICES}."),
    RecipeFlag("--model", "model.name", "NAME", "dinov2-small, which is bundled, or a model of timm."),
    RecipeFlag("--weights", "model.weights", "auto|none|FILE", "Pretrained, seeded random, or a .safetensors file."),
    RecipeFlag(
        "--image-size",
        "data.image_size",
        "auto|PIXELS|HxW",
        "Side of the square image, or height and width as 224x160.",
        default="auto: the pretrained size, 224 for dinov2",
    ),
    RecipeFlag("--peft", "model.peft", "|".join((*ADAPTERS, "none")), "The adapter; none trains everything."),
    RecipeFlag(
        "--freeze-backbone",
        "model.freeze_backbone",
        None,
        "Train only the head (linear probing); goes with --peft none, which is then the default.",
    ),
    RecipeFlag("--rank", "adapter.rank", "R", "Rank of the adapter, or of each target: attn=4,mlp=16."),
    RecipeFlag("--alpha", "adapter.alpha", "A", "The adapter is scaled by alpha / rank; also one for each target."),
    RecipeFlag("--rslora", "adapter.rslora", None, "Scale by alpha / sqrt(rank) instead."),
    RecipeFlag(
        "--targets",
        "adapter.targets",
        "LIST",
        f"Which layers, out of {','.join(TARGETS)}, or {', '.join(WORDS)}.",
        default="all of them",
    ),
    RecipeFlag(
        "--blocks",
        "adapter.blocks",
        "auto|all|N|first:N|LIST",
        "All transformer blocks, the last N, the first N, or those listed, counted from 0, as 0,3,6-8; auto: all. "
        "Training only the last N is faster: the blocks before them are computed once.",
    ),
    RecipeFlag(
        "--layers",
        "adapter.layers",
        "REGEX",
        "Instead of targets: the linear layers whose whole name the expression matches, for families that ftx does "
        "not know.",
    ),
    RecipeFlag(
        "--dropout",
        "adapter.dropout",
        "P",
        "Dropout on the adapter's input, with peft's meaning; above 0 the layer cannot compute with the merged weight "
        "while it trains, which is slower.",
    ),
    RecipeFlag(
        "--epochs",
        "train.epochs",
        "auto|N",
        "Epochs at most; auto: 16 for an adapter in all blocks, otherwise 10.",
    ),
    RecipeFlag("--lr", "train.lr", "LR", "Peak learning rate."),
    RecipeFlag("--batch-size", "train.batch_size", "N", "Images in a step."),
    RecipeFlag(
        "--augment",
        "train.augment",
        "auto|light|none",
        "How training images are augmented; auto: not at all if blocks in front are computed once.",
    ),
    RecipeFlag("--precision", "train.precision", "auto|f32|bf16", "auto is bf16 where the hardware computes in it."),
    RecipeFlag("--seed", "seed", "N", "Seed of everything random."),
)


def with_recipe_flags(function: Callable[..., int]) -> Callable[..., int]:
    """A command with all flags of the table; its parameter ``flags`` has their values by key, None if not given."""

    @wraps(function)
    def command(**given: object) -> int:
        flags = {flag.key: given.pop(flag.name) for flag in FLAGS}
        return function(**given, flags=flags)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        parameters += [flag.parameter() for flag in FLAGS] if parameter.name == "flags" else [parameter]
    read_by_typer = cast("Any", command)
    read_by_typer.__signature__ = inspect.Signature(parameters)
    read_by_typer.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def read_recipe(
    config: str | None, overrides: Sequence[str], flags: Mapping[str, object], preset: str | None = None
) -> Recipe:
    """The recipe of a file or a name, with overrides, and images that exist; a note shows one in OTX's form in ours.

    The images are checked here, before torch is imported, as a mistyped name must not cost seconds.
    """
    from ftx.data.sources.folder import check_data_path

    path = None if config is None else recipe_file(config)
    recipe = Recipe.build(path, overrides, flags, preset)
    notes = None if path is None else notes_on_otx(path)
    if notes is not None:
        console.print_note("this OTX recipe is in ftx (other keys have their defaults):", "strong")
        for line in recipe.dumps(defaults=False).splitlines():
            console.print_note(line)
        for note in notes:
            console.print_note(f"note: {note}", "dim")
    check_data_path(recipe.data.path)
    return recipe
