"""The page of errors: exit statuses, the most frequent errors, and every error that the source raises."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from likely_errors import LIKELY
from reference_markdown import NOTE, cell

from ftx.core import errors
from ftx.runs import artifacts

SOURCE = Path(__file__).resolve().parents[1] / "src" / "ftx"

# What names stand for, in one place of the source.
Values = Mapping[str, ast.expr]

STATUS = {
    0: "success",
    1: "a model has the verdict `failed`, or a result exceeds a limit that you set",
    2: "the input is wrong: an option, a recipe, the data or a run",
    3: "the machine has a problem: no space, no network, or a missing package",
    4: "success, but ftx skipped some images",
    70: "a bug in ftx",
    130: "Ctrl-C stopped the command",
    143: "the system stopped the command (SIGTERM)",
}


def error_list() -> str:
    """Exit statuses, and every error by its type, with its fix."""
    parts = [
        "# Exit statuses and errors\n",
        NOTE,
        "An error shows a message, the place, what ftx found there, and a fix. `--debug` adds the traceback. With",
        "`--json`, an error is a JSON object ([fields of an error](json.md#error)). To search by symptom, see",
        "[Troubleshooting](../help/troubleshooting.md).\n",
        "| Exit status | Meaning |\n|--:|:--|",
        *(f"| {status} | {meaning} |" for status, meaning in STATUS.items()),
        "",
        "Search this page for some words of your message. Words in capital letters stand for your own names and",
        "numbers. The first tables list the most frequent errors, and the others list all errors.\n",
    ]
    for area, rows in LIKELY.items():
        parts += [f"## {area}\n", "| Message | Usual cause | What to do |\n|:--|:--|:--|"]
        parts += [f"| {message} … | {cause} | {fix} |" for message, (cause, fix) in rows.items()]
        parts.append("")
    found = messages()
    for name, rows in sorted(found.items(), key=lambda one: -len(one[1])):
        branch = getattr(errors, name)
        purpose = " ".join((branch.__doc__ or "").split())
        parts += [f"## {name}\n", f"{purpose} Exit status {branch.exit_code}.\n", "| Message | What to do |\n|:--|:--|"]
        parts += [
            f"| {cell(what)} | {cell(fix) or 'see the fix below the message'} |" for what, fix in sorted(rows.items())
        ]
        parts.append("")
    return "\n".join(parts)


def messages() -> dict[str, dict[str, str]]:
    """By type of error: each message in the source, and its fix."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
                continue
            branch = getattr(errors, node.func.id, None)
            if not (isinstance(branch, type) and issubclass(branch, errors.FtxError)):
                continue
            known = _constants(path) | _locals(functions, node)
            what = _text(node.args[0], known)
            fix = next((_text(one.value, known) for one in node.keywords if one.arg == "fix"), "")
            if what and len(re.sub(r"\b[A-Z_]+\b|\W", "", what)) > 8:
                found.setdefault(node.func.id, {})[what] = fix
    return found


@cache
def _constants(path: Path) -> Values:
    """The values of the names that a module defines for itself, or imports from another of ftx."""
    found: dict[str, ast.expr] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ftx."):
            other = SOURCE.joinpath(*node.module.split(".")[1:]).with_suffix(".py")  # pyright: ignore[reportOptionalMemberAccess]
            values = _constants(other) if other.is_file() else {}
            found |= {one.asname or one.name: values[one.name] for one in node.names if one.name in values}
        found |= _assigned(node)
    # What is no text is clearer as its name.
    return {name: ast.Constant(text) for name, value in found.items() if (text := _text(value, found))}


def _locals(functions: Sequence[ast.FunctionDef | ast.AsyncFunctionDef], raised: ast.Call) -> Values:
    """The variables that have one text before an error, in the function that raises it."""
    around = [one for one in functions if one.lineno <= raised.lineno <= (one.end_lineno or 0)]
    before = (
        [node for node in ast.walk(around[-1]) if isinstance(node, ast.stmt) and node.lineno < raised.lineno]
        if around
        else []
    )
    found = [item for node in before for item in _assigned(node).items()]
    times = Counter(name for name, _ in found)
    return {name: value for name, value in found if times[name] == 1 and not _is_number(value)}


def _is_number(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and not isinstance(value.value, str)


def _assigned(node: ast.stmt) -> Values:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return {name: value}
        case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
            return {one.id: value for one, value in zip(names, values, strict=True) if isinstance(one, ast.Name)}
        case _:
            return {}


def _text(node: ast.expr, known: Values) -> str:
    """A string of the source, each value in it as its name in capital letters; empty if it is none."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Constant(value=int(number)):
            return f"{number:,}"
        case ast.Name(id=name) if name in known:
            return _text(known[name], {other: value for other, value in known.items() if other != name})
        case ast.JoinedStr(values=parts):
            return "".join(
                _text(one.value, known) or _name(one.value)
                if isinstance(one, ast.FormattedValue)
                else _text(one, known)
                for one in parts
            )
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            both = _text(left, known), _text(right, known)
            return "".join(both) if all(both) else ""
        case ast.IfExp(body=body, orelse=orelse):
            return _text(body, known) or _text(orelse, known)
        case ast.Call(func=ast.Name(id="shell_command"), args=[command, *_]) if text := _text(command, known):
            return f"{text} {_name(node.args[1])}"
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            return str(getattr(getattr(artifacts, owner, None), name, ""))
        case _:
            return ""


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name.strip("_").upper()
        case ast.Attribute(attr=name):
            return name.strip("_").upper()
        case ast.Call(func=function, args=[first, *_]):
            return "COMMAND" if isinstance(function, ast.Name) and "command" in function.id else _name(first)
        case _:
            return "..."
