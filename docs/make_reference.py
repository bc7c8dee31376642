"""Write the pages that the program itself knows: commands, recipe keys, JSON fields, errors, and bundled recipes.

    python docs/make_reference.py

A test compares the files with what this would write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from reference_errors import error_list
from reference_json import json_fields
from reference_markdown import NOTE, cell, code

from ftx.cli.app import app
from ftx.cli.command_list import GROUPS, SUBCOMMANDS
from ftx.cli.help_page import examples
from ftx.core.shipped_files import recipe_file, recipe_names
from ftx.recipe.schema import Recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "pages"

# What each bundled recipe is for: when to use it, and what it costs.
_COOKBOOK = {
    "dora": (
        "for most data. An adapter in every block trains, which is usually the most accurate.",
        "the time of [the default training](../../benchmarks/default-training.md)",
    ),
    "lora": (
        "if another program must read the adapter. LoRA is DoRA without the trained length of each row.",
        "slightly less time for each step than DoRA",
    ),
    "linear": (
        "for a first look. Only the head trains, on the features of the frozen backbone.",
        "one pass over the images, in seconds to minutes",
    ),
    "full": (
        "for many images that do not look like photographs, on a GPU. All weights train.",
        "more time and memory than the other three methods",
    ),
    "quickstart": (
        "for small images, as in `ftx quickstart`.",
        "a few minutes on two cores",
    ),
}


def _help(text: str) -> str:
    """The help of a flag; click writes limits as ``[default: 0; 0<=x<=9]``."""
    text = re.sub(r"\[((?:default|required|x|\d)[^]]*)\]", r"(\1)", text)
    text = re.sub(r"\b([\d.]+)<=x<=([\d.]+)", r"\1 to \2", text)
    return cell(re.sub(r"\bx>=([\d.]+)", r"at least \1", text))


def commands() -> str:
    """Every command with its arguments, flags and examples."""
    program: Any = typer.main.get_command(app)
    context = program.make_context("ftx", [], resilient_parsing=True)
    parts = [
        "# Commands\n",
        NOTE,
        "`ftx COMMAND -h` prints this help in the terminal. Commands use your newest run unless you name a run.",
        "With every command, you can use `-v` (details) and `--debug` (the traceback of an error).\n",
    ]
    for group, listed in GROUPS.items():
        names = ", ".join(f"[`{name}`](#ftx-{name})" for name in listed)
        parts.append(f"- {group}: {names}")
    parts.append("")
    for listed in GROUPS.values():
        for name in listed:
            command = program.get_command(context, name)
            if name in SUBCOMMANDS:
                inner = command.make_context(name, [], parent=context, resilient_parsing=True)
                for sub in SUBCOMMANDS[name]:
                    parts += _command(f"ftx {name} {sub}", command.get_command(inner, sub))
            else:
                parts += _command(f"ftx {name}", command)
    # `#ftx-data` leads to the first of its commands.
    return "\n".join(parts).replace("(#ftx-data)", "(#ftx-data-check)")


def _command(title: str, command: Any) -> Iterator[str]:
    context = command.make_context(title, [], resilient_parsing=True)
    yield f"## {title}\n"
    usage = " ".join([title, *command.collect_usage_pieces(context)])
    yield f"```text\n{usage}\n```\n"
    yield from _prose(command.help or "")
    sections: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        argument = parameter.param_type_name == "argument"
        panel = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or "Options"
        name = str(parameter.metavar or parameter.name.upper()) if argument else record[0]
        sections.setdefault(panel, []).append(f"| {_flag(name)} | {_help(record[1])} |")
    for panel, rows in sections.items():
        yield f"| {panel} | |\n|:--|:--|"
        yield from rows
        yield ""
    if listed := examples(title):
        yield "```text"
        yield from listed
        yield "```\n"


def _flag(text: str) -> str:
    # A line may break between the spellings of a flag.
    return ", ".join(f"`{cell(one)}`" for one in text.split(", ")) if text.startswith("-") else f"`{cell(text)}`"


def _prose(text: str) -> Iterator[str]:
    r"""Help as Markdown; a paragraph that begins with ``\b`` keeps its lines."""
    for block in text.split("\n\n"):
        if block.startswith("\b"):
            yield "```text" + block.removeprefix("\b") + "\n```\n"
        else:
            yield " ".join(block.split()) + "\n"


def recipe_keys() -> str:
    """Each key of a recipe with its default and its description."""
    defaults = Recipe().model_dump(mode="json", by_alias=True)
    schema = Recipe.model_json_schema()
    parts = [
        "# Recipe keys\n",
        NOTE,
        "A recipe contains all settings of a training. Every key has a default. Set a key in a YAML file",
        "(`ftx train --config FILE`), or with `--set`, for example `--set train.lr=1e-4`. Common keys also have a",
        "flag. The `recipe.yaml` of a run contains the value that ftx chose for each `auto`.\n",
        "| Key | Default | Description |\n|:--|:--|:--|",
    ]
    for name, inside in schema["properties"].items():
        if "$ref" not in inside:
            parts.append(_key(name, defaults[name], inside))
    for name, inside in schema["properties"].items():
        if "$ref" in inside:
            section = schema["$defs"][inside["$ref"].rpartition("/")[2]]
            parts += [f"\n## {name}\n", section["description"] + "\n", "| Key | Default | Description |\n|:--|:--|:--|"]
            parts += [_key(f"{name}.{key}", defaults[name][key], one) for key, one in section["properties"].items()]
    return "\n".join(parts) + "\n"


def _key(key: str, default: object, schema: Mapping[str, Any]) -> str:
    written = json.dumps(default).replace('"', "")
    description = re.sub(
        r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", cell(code(schema["description"]))
    )
    return f"| `{key}` | `{written}` | {description} |"


def cookbook() -> str:
    """Every bundled recipe: when to use it, what it costs, and all of it."""
    parts = [
        "# Bundled recipes\n",
        NOTE,
        "A recipe is a YAML file with the settings of a training. ftx contains recipes for each task, with the methods",
        "dora, lora, linear and full, and the recipes of `ftx quickstart`. To train with a recipe, give its name:\n",
        "```sh\nftx train --config multiclass-lora --data photos --dry-run\n```\n",
        "To change keys, add `--set KEY=VALUE`. Or copy the text into your own file, and use",
        "`--config my-recipe.yaml`. [Recipe keys](../../reference/recipe-keys.md) describes every key.",
        "[Choose a method and a preset](choose.md) compares the methods.\n",
    ]
    for name in recipe_names():
        path = recipe_file(name)
        first, _, text = path.read_text(encoding="utf-8").partition("\n")
        use, cost = _COOKBOOK[name.split("-")[0] if name.startswith("quickstart") else name.split("-")[1]]
        parts += [f"## {name}\n", f"{first.removeprefix('# ').rstrip('.')}.\n", f"- When: {use}", f"- Cost: {cost}.\n"]
        parts += [f"```yaml\n{text.rstrip()}\n```\n"]
    return "\n".join(parts)


def decisions() -> str:
    """All decisions, a line each."""
    parts = [
        "# Decisions\n",
        NOTE,
        "Each page explains one decision about ftx: the reason, the evidence and the cost.\n",
    ]
    for path in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        parts.append(f"- [{title}]({path.name})")
    return "\n".join(parts) + "\n"


PLACES = {
    "commands": PAGES / "reference" / "commands.md",
    "recipe_keys": PAGES / "reference" / "recipe-keys.md",
    "json_fields": PAGES / "reference" / "json.md",
    "error_list": PAGES / "reference" / "errors.md",
    "cookbook": PAGES / "how-to" / "train" / "recipes.md",
    "decisions": ROOT / "docs" / "decisions" / "index.md",
}


if __name__ == "__main__":
    for made in (commands, recipe_keys, json_fields, error_list, cookbook, decisions):
        PLACES[made.__name__].write_text(made().rstrip() + "\n", encoding="utf-8")
