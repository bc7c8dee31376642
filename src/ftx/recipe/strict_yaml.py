"""YAML as a settings file needs it: plain data, no surprises.

Scalars follow YAML 1.2 (``1e-4`` is a number, ``no`` is text; PyYAML's own 1.1 rules read them as text and
False). Tags, anchors and aliases, and keys given twice are refused.
"""

from __future__ import annotations

import re
from typing import Any, cast

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node

from ftx.core.errors import shown
from ftx.core.untrusted_input import JsonError, check_extremes

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
    """Text that is not the plain YAML we take; the message says where and why."""


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
            raise YamlError(f"line {line}: nested too deeply, in more than {MOST_LEVELS} levels")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise YamlError(f"line {line}: anchors and aliases (& and *) are not taken, write the value out")
        if event.tag is not None:
            raise YamlError(f"line {line}: YAML tags are not taken, found '{event.tag}'")
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
                raise YamlError(f"line {line}: the key {shown(key)} stands here a second time")
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
        raise YamlError("nested too deeply") from error
    except JsonError as error:
        raise YamlError(str(error)) from error
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise YamlError("a whole number beyond 64 bits") from None
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
