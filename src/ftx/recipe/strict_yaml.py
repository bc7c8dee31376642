"""YAML as a settings file needs it: plain data, no surprises.

Scalars follow YAML 1.2 (``1e-4`` is a number, ``no`` is text; PyYAML's own 1.1 rules read them as text and
False). Tags, anchors, aliases and duplicate keys are errors.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node

from ftx.core.errors import RecipeError, shown
from ftx.core.untrusted_input import JsonError, check_extremes, read_file

# Section 10.3.2 of YAML 1.2.2 (the core schema), without octal and hexadecimal numbers and without a
# leading zero: `010` is text and no one has to guess its base.
_RESOLVERS = (
    ("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"""^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?
                |[-+]?[0-9]+[eE][-+]?[0-9]+
                |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
            re.VERBOSE,
        ),
        list("-+.0123456789"),
    ),
)


# Of a recipe with a list of all blocks of the deepest network; what has more was not written by hand.
MOST_NODES = 20_000
MOST_LEVELS = 32


class YamlError(Exception):
    """Text that is not the plain YAML we take; the message has the line and the reason."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  PyYAML's own class attribute, emptied here

    _nodes = _level = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event: Any = self.peek_event()
        line = event.start_mark.line + 1
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise YamlError(f"line {line}: more than {MOST_NODES:,} keys and values")
        if self._level >= MOST_LEVELS:
            raise YamlError(f"line {line}: the YAML must have at most {MOST_LEVELS} levels")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise YamlError(f"line {line}: anchors and aliases (& and *) are not supported, write the value out")
        if event.tag is not None:
            raise YamlError(f"line {line}: YAML tags are not supported, found '{event.tag}'")
        self._level += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._level -= 1

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = _as_text(self.construct_object(key_node, deep=True))
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise YamlError(f"line {line}: a key must be text, found {shown(key)}")
            if key in seen:
                raise YamlError(f"line {line}: the key {shown(key)} appears twice here")
            seen.add(key)
        return {_as_text(key): value for key, value in super().construct_mapping(node, deep=deep).items()}


def _as_text(key: object) -> object:
    # Blocks are named by their numbers, as in {4: 0.7}.
    return str(key) if type(key) is int else key


class _Dumper(yaml.SafeDumper):
    pass


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    # On top of PyYAML's own: text is quoted if readers of either YAML would take it for something else.
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)

_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Single quotes fold a next-line character (U+0085) into a space; double quotes escape it.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


def parse_yaml(text: str) -> object:
    """Read one YAML document as dicts with text keys, lists, text, numbers, booleans and None.

    Raises: YamlError if it is not well formed or holds what we do not take.
    """
    try:
        value: object = yaml.load(text, Loader=_Loader)  # a SafeLoader with less in it
        check_extremes(value)
    except (ConstructorError, yaml.MarkedYAMLError) as error:
        mark = error.problem_mark
        raise YamlError(f"line {mark.line + 1 if mark else 1}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise YamlError(str(error).replace("\n", " ")) from error
    except RecursionError as error:
        raise YamlError(f"the YAML must have at most {MOST_LEVELS} levels") from error
    except JsonError as error:
        raise YamlError(str(error)) from error
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise YamlError("numbers must fit in 64 bits") from None
    return value


def _numbered(value: object) -> object:
    """The same with keys that are whole numbers as such, which stand there without quotes."""
    if not isinstance(value, dict):
        return value
    given = cast("dict[str, object]", value)
    return {int(key) if str(key).isdecimal() else key: _numbered(one) for key, one in given.items()}


def dump_yaml(value: object) -> str:
    """Write plain data as YAML, keys in the order given, lists on one line."""
    return yaml.dump(_numbered(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


# A recipe is a page of text; whatever is larger was not meant to be one.
MAX_RECIPE_BYTES = 1 << 20


def read_document(path: Path, document: str = "recipe") -> dict[str, object]:
    """The keys and values of a YAML file: a recipe, or what ``document`` calls it in the messages.

    Raises: RecipeError if it cannot be read, or holds no plain YAML.
    """
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise RecipeError(
                f"the {document} must have at most {MAX_RECIPE_BYTES:,} bytes",
                where=path,
                found=f"{path.stat().st_size:,} bytes",
                fix=f"give the YAML file of the {document}",
            )
        text = read_file(path).decode()
    except OSError as error:
        raise RecipeError(
            f"the {document} cannot be read", where=path, found=error.strerror, fix="check the path of the file"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"the {document} must be UTF-8 text", where=path, found=str(error), fix="save the file as UTF-8"
        ) from error
    return parse_document(text, path, document)


def parse_document(text: str, where: Path | None = None, document: str = "recipe") -> dict[str, object]:
    """The keys and values of a recipe's text, which stands in the file ``where`` if in any.

    Raises: RecipeError if it is no plain YAML.
    """
    try:
        value = parse_yaml(text)
    except YamlError as fault:
        raise RecipeError(
            f"the {document} must be plain YAML: {fault}",
            where=where,
            fix="write plain keys and values, as in recipe.yaml",
        ) from fault
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecipeError(
            f"the {document} must be keys with values",
            where=where,
            found=type(value).__name__,
            fix="write a key and its value on each line, as in 'seed: 0'",
        )
    return cast("dict[str, object]", value)
