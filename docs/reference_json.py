"""The page of JSON fields: what commands print with ``--json``, and the files of a run."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import pairwise
from typing import Any, get_args

from pydantic import BaseModel
from reference_markdown import NOTE, cell, code

from ftx.cli.schema import SCHEMAS

# Files of a run and of an exported folder, that no command prints.
_FILES = {
    "run.json": ("ftx.runs.run_json", "Manifest"),
    "card.json": ("ftx.runs.card_json", "Card"),
    "proof.json": ("ftx.runs.proof_json", "Proof"),
    "tuning.json": ("ftx.runs.tuning_json", "Tuning"),
    "certificate.json": ("ftx.runs.certificate_json", "Certificates"),
    "quantize.json": ("ftx.runs.quantize_json", "QuantizeReport"),
    "update.json": ("ftx.runs.update_zip", "Update"),
}


def json_fields() -> str:
    """The fields of what each command prints with ``--json``, and writes into the run folder."""
    parts = [
        "# JSON fields\n",
        NOTE,
        "With `--json`, a command prints one JSON object, and `ftx predict` prints one for each image.",
        "`ftx schema COMMAND` prints the JSON schema. The files in `reports/` of a run folder contain the same",
        "objects. The other files of a [run folder](run-folder.md) are at the end of this page.\n",
        "In the column Type, an object of integers has names as keys and integers as values.\n",
    ]
    seen: set[type[BaseModel]] = set()
    for name, (module, model_name) in (SCHEMAS | _FILES).items():
        model = getattr(import_module(module), model_name)
        if name == "recipe" or model in seen:
            continue
        parts += [f"## {name}\n", *_object(model)]
        seen.add(model)
        for inner in _inside(model):
            if inner not in seen:
                parts += [f"### {inner.__name__}\n", *_object(inner)]
                seen.add(inner)
    return "\n".join(parts)


def _object(model: type[BaseModel]) -> Iterator[str]:
    schema, described = model.model_json_schema(), _described(model)
    yield code(inspect.getdoc(model) or "") + "\n"
    yield "| Field | Type | Meaning |\n|:--|:--|:--|"
    in_json = {name: field.alias or name for name, field in model.model_fields.items()}
    for name, field in model.model_fields.items():
        one = schema["properties"][in_json[name]]
        default = field.get_default(call_default_factory=True)
        written = "" if field.is_required() else f"Default: `{cell(json.dumps(one.get('default', default)))}`."
        meaning = one.get("description") or described.get(name, "")
        yield f"| `{in_json[name]}` | {cell(kind(one))} | {cell(code(f'{meaning} {written}'))} |"
    yield ""


def _inside(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models that the fields of a model contain, at any depth."""
    for field in model.model_fields.values():
        for found in _models(field.annotation):
            yield found
            yield from _inside(found)


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _described(model: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field, also of the classes that the model inherits from."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            (defined,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(defined, ast.ClassDef)
            for field, text in pairwise(defined.body):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        found[name] = words
                    case _:
                        pass
    return found


def kind(schema: Mapping[str, Any]) -> str:
    """The type of a field in words."""
    return _kind(schema, several=False)


def _kind(schema: Mapping[str, Any], *, several: bool) -> str:
    """``several``: in the plural, as in a list of them."""
    *others, last = _choices(schema, several=several)
    either = f"{', '.join(others)} or {last}" if others else last
    return f"({either})" if several and others else either


def _choices(schema: Mapping[str, Any], *, several: bool) -> list[str]:
    """What a field may be: types, or values."""
    if "$ref" in schema:
        return [schema["$ref"].rpartition("/")[2]]
    if choices := schema.get("anyOf", schema.get("oneOf")):
        return list(dict.fromkeys(text for one in choices for text in _choices(one, several=several)))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return [f"`{one}`" for one in values]
    name = schema.get("type")
    if name is None:
        return ["any value"]
    plural = f"{name.replace('array', 'list')}{'s' if several and name != 'null' else ''}"
    if fixed := schema.get("prefixItems"):
        return [f"{plural} of {len(fixed)} {_kind(fixed[0], several=True)}"]
    inside = schema.get("items" if name == "array" else "additionalProperties")
    return [f"{plural} of {_kind(inside, several=True)}" if isinstance(inside, dict) else plural]
