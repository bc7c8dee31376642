"""The flags that stand for keys of the recipe, and the recipe of a command line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import wraps
from operator import attrgetter
from typing import Annotated, Any, cast, get_args

import typer

from ftx.cli import console
from ftx.cli.shared_options import note_old_spelling
from ftx.core.errors import DataError, InputError, RecipeError, check_known
from ftx.core.shipped_files import recipe_file
from ftx.recipe.adapter_targets import TARGETS
from ftx.recipe.method_defaults import ADAPTERS, METHODS
from ftx.recipe.schema import Recipe, notes_on_otx
from ftx.tasks.task_names import TASK_HELP

# The groups of options in `ftx train --help`.
START, TIME, ADAPTER, RESUME, OTHER = "Start here", "Time and memory", "Adapter", "Continue from a run", "Other options"


@dataclass(frozen=True)
class RecipeFlag:
    """A flag, the recipe's key that it sets, how help names its value (a switch has none), and its help text.

    ``default`` is what help shows if the recipe's own default would not be understood.
    """

    flag: str
    key: str
    metavar: str | None
    text: str
    group: str
    default: str | None = None

    @property
    def name(self) -> str:
        """The flag as a parameter of a function."""
        return self.flag.removeprefix("--").replace("-", "_")

    def parameter(self) -> inspect.Parameter:
        """The parameter that typer makes the flag of."""
        if self.metavar is None:
            spelled = f"{self.flag}/{self.flag.replace('--', '--no-')}"
            annotation: Any = _switch(spelled, help=self.text, rich_help_panel=self.group)
        else:
            value: object = attrgetter(self.key)(Recipe())
            default = self.default or (f"{value:g}" if isinstance(value, float) else value)
            text = f"{self.text}  [default: {default}]"
            # The value stays text here: the recipe checks all of them together and reports every error at once.
            annotation = _text(self.flag, metavar=self.metavar, help=text, rich_help_panel=self.group)
        return _parameter(self.name, annotation)


FLAGS = (
    RecipeFlag(
        "--data",
        "data.path",
        "PATH",
        "A folder with one subfolder of images for each class, a .csv or .jsonl table, an annotation file (COCO, "
        "Datumaro), or shards (.tar).",
        START,
    ),
    RecipeFlag("--task", "task", "TASK", TASK_HELP, START),
    RecipeFlag(
        "--model", "model.name", "NAME", "dinov2-small, which is bundled, or any model that `ftx models` lists.", START
    ),
    RecipeFlag(
        "--image-size",
        "data.image_size",
        "auto|PIXELS|HxW",
        "The size that images are resized to: one number, for example 112, or HEIGHTxWIDTH, for example 224x160. "
        "Training is faster with a smaller size.",
        TIME,
        default="auto, the size of pretraining: 224 for dinov2",
    ),
    RecipeFlag(
        "--epochs",
        "train.epochs",
        "auto|N",
        "The maximum number of epochs. auto: 16 for an adapter in all blocks, otherwise 10. Method linear usually "
        "makes one pass over the images instead, without epochs.",
        TIME,
    ),
    RecipeFlag(
        "--blocks",
        "adapter.blocks",
        "auto|all|N|first:N|LIST",
        "The transformer blocks that get an adapter: all, the last N, the first N, or a list of block numbers, which "
        "start at 0, for example 0,3,6-8. With only the last N, training is faster, because ftx computes the other "
        "blocks once. auto: all.",
        TIME,
    ),
    RecipeFlag("--batch-size", "train.batch_size", "N", "Images in each step.", TIME),
    RecipeFlag(
        "--precision",
        "train.precision",
        "auto|fp32|bf16",
        "The precision of training. auto: bf16 if the hardware has it.",
        TIME,
    ),
    RecipeFlag(
        "--rank",
        "adapter.rank",
        "R",
        "Rank of the adapter, or one rank for each target, for example attn=4,mlp=16.",
        ADAPTER,
    ),
    RecipeFlag("--alpha", "adapter.alpha", "A", "The adapter is scaled by alpha / rank.", ADAPTER),
    RecipeFlag(
        "--rslora",
        "adapter.rslora",
        None,
        "Scale the adapter by alpha / sqrt(rank) instead of alpha / rank (rank-stabilized LoRA).",
        ADAPTER,
    ),
    RecipeFlag(
        "--targets",
        "adapter.targets",
        "LIST",
        f"The layers of each block that get an adapter: some of {','.join(TARGETS)}; or attn (q,k,v,proj), "
        "mlp (fc1,fc2), all.",
        ADAPTER,
        default="all of them",
    ),
    RecipeFlag(
        "--layers",
        "adapter.layers",
        "REGEX",
        "Use this instead of --targets if `ftx models NAME` shows no targets for the model. Linear layers whose full "
        "name matches REGEX get an adapter. auto: those that --targets selects.",
        ADAPTER,
    ),
    RecipeFlag(
        "--dropout",
        "adapter.dropout",
        "P",
        "Dropout on the adapter's input, as in peft. With dropout, training is slower.",
        ADAPTER,
    ),
    RecipeFlag(
        "--lr", "train.lr", "LR", "Peak learning rate. auto: depends on the method, 1e-3 for dora and lora.", OTHER
    ),
    RecipeFlag(
        "--augment",
        "train.augment",
        "auto|light|none",
        "light: crop and flip training images at random. auto: light. If the first blocks are frozen, auto is none, "
        "because ftx computes these blocks only once.",
        OTHER,
    ),
    RecipeFlag("--seed", "seed", "N", "Seed of everything random.", OTHER),
    RecipeFlag(
        "--weights",
        "model.weights",
        "auto|none|FILE",
        "auto: pretrained weights. none: random weights. Or a .safetensors file.",
        OTHER,
    ),
    RecipeFlag(
        "--follow-links",
        "data.follow_links",
        None,
        "Follow links that lead out of the data folder. Without this option, such links are an error.",
        OTHER,
    ),
)


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _text(flag: str, **settings: Any) -> Any:
    return Annotated[str | None, typer.Option(flag, show_default=False, **settings)]


def _switch(flag: str, **settings: Any) -> Any:
    return Annotated[bool | None, typer.Option(flag, show_default=False, **settings)]


# One flag for two keys of the recipe, model.peft and model.freeze_backbone; and what it was before.
_METHOD_FLAGS = (
    _parameter(
        "method",
        _text(
            "--method",
            metavar="|".join(METHODS),
            help="What ftx trains. dora, lora, lokr: a small adapter and the head. linear: only the head. full: all "
            "weights.  [default: dora]",
            rich_help_panel=START,
        ),
    ),
    _parameter("peft", _text("--peft", metavar="|".join((*ADAPTERS, "none")), hidden=True)),
    _parameter("freeze_backbone", _switch("--freeze-backbone/--no-freeze-backbone", hidden=True)),
)


def method_keys(method: str | None, peft: str | None, freeze_backbone: bool | None) -> dict[str, object]:
    """The keys that ``--method`` sets, or the flags that it replaces.

    Raises: InputError for an unknown method, or for both spellings.
    """
    keys: dict[str, object] = {"model.peft": peft, "model.freeze_backbone": freeze_backbone}
    if method is None:
        if peft is not None or freeze_backbone is not None:
            old = [*([] if peft is None else [f"--peft {peft}"]), *(["--freeze-backbone"] if freeze_backbone else [])]
            new = "linear" if freeze_backbone else "full" if peft == "none" else peft
            note_old_spelling(" ".join(old) or "--no-freeze-backbone", f"--method {new or 'full'}")
        return keys
    if peft is not None or freeze_backbone is not None:
        raise InputError(
            "--method replaces --peft and --freeze-backbone",
            found="both spellings",
            fix=f"give only --method {method}",
        )
    check_known("--method", [method], tuple(METHODS))
    adapter = method if method in ADAPTERS else "none"
    return {"model.peft": adapter, "model.freeze_backbone": method == "linear"}


# Options that other commands have as well, in groups only in the help of training.
_GROUP_OF_SHARED = {"out": START, "set_": OTHER, "strict": OTHER, "json": OTHER}


def _in_group(parameter: inspect.Parameter) -> inspect.Parameter:
    """The parameter with its option in the group that the table has for it; others as they are."""
    if parameter.name not in _GROUP_OF_SHARED:
        return parameter
    kind, option = get_args(parameter.annotation)
    grouped = copy(option)
    grouped.rich_help_panel = _GROUP_OF_SHARED[parameter.name]
    return parameter.replace(annotation=Annotated[kind, grouped])


def with_recipe_flags(function: Callable[..., int]) -> Callable[..., int]:
    """A command with all flags of the table; its parameter ``flags`` has their values by key, None if not given."""

    @wraps(function)
    def command(**given: object) -> int:
        flags: dict[str, object] = {flag.key: given.pop(flag.name) for flag in FLAGS}
        method = method_keys(*(cast("Any", given.pop(flag.name)) for flag in _METHOD_FLAGS))
        try:
            return function(**given, flags=flags | method)
        except RecipeError as error:
            error.what = _by_flags(error.what, flags)
            raise

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        of_recipe = [flag.parameter() for flag in FLAGS]
        both = [*of_recipe[:3], *_METHOD_FLAGS, *of_recipe[3:]]
        parameters += both if parameter.name == "flags" else [_in_group(parameter)]
    read_by_typer = cast("Any", command)
    read_by_typer.__signature__ = inspect.Signature(parameters)
    read_by_typer.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _by_flags(what: str, given: Mapping[str, object]) -> str:
    """The lines of a recipe's error, each with the flag that was typed for its key."""
    for flag in FLAGS:
        if given[flag.key] is not None:
            what = re.sub(rf"(?m)^( *){re.escape(flag.key)}(?=:)", rf"\1{flag.flag}", what)
    return what


def read_recipe(
    config: str | None, overrides: Sequence[str], flags: Mapping[str, object], preset: str | None = None
) -> Recipe:
    """The recipe of a file or a name, with overrides, and images that exist; a note shows one in OTX's form in ours.

    The images are checked here, before torch is imported, as a mistyped name must not cost seconds.
    """
    from ftx.data.sources.folder import check_data_path

    path = None if config is None else recipe_file(config)
    recipe = Recipe.build(path, overrides, flags, preset)
    if preset == "fast" and recipe.method != "linear":
        raise InputError(
            "--preset fast trains only the head, so --method must be linear",
            found=f"--method {recipe.method}",
            fix="run the command without --method, or without --preset",
        )
    notes = None if path is None else notes_on_otx(path)
    if notes is not None:
        console.print_note("this OTX recipe is in ftx (other keys have their defaults):", "strong")
        for line in recipe.dumps(defaults=False).splitlines():
            console.print_note(line)
        for note in notes:
            console.print_note(f"note: {note}", "dim")
    try:
        check_data_path(recipe.data.path)
    except DataError as error:
        if "path" not in recipe.data.model_fields_set:
            error.what = "--data must be given, as the default folder does not exist"
        raise
    return recipe
