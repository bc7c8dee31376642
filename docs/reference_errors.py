"""The page of errors: exit statuses, the most frequent errors, and every error that the source raises."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from likely_errors import LIKELY
from reference_markdown import NOTE, cell

from ftx.core import errors

SOURCE = Path(__file__).resolve().parents[1] / "src" / "ftx"

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
            f"| {cell(what)} | {cell(fix) or 'see the fix in the message'} |" for what, fix in sorted(rows.items())
        ]
        parts.append("")
    return "\n".join(parts)


def messages() -> dict[str, dict[str, str]]:
    """By type of error: each message in the source, and its fix."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
                continue
            branch = getattr(errors, node.func.id, None)
            if not (isinstance(branch, type) and issubclass(branch, errors.FtxError)):
                continue
            what = _text(node.args[0])
            fix = next((_text(one.value) for one in node.keywords if one.arg == "fix"), "")
            if what and len(re.sub(r"\b[A-Z_]+\b|\W", "", what)) > 8:
                found.setdefault(node.func.id, {})[what] = fix
    return found


def _text(node: ast.expr) -> str:
    """A string of the source, each value in it as its name in capital letters; empty if it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(one.value) if isinstance(one, ast.Constant) else _name(one.value)  # pyright: ignore[reportAttributeAccessIssue]
            for one in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        both = _text(node.left), _text(node.right)
        return "".join(both) if all(both) else ""
    if isinstance(node, ast.IfExp):
        return _text(node.body) or _text(node.orelse)
    return ""


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name.upper()
        case ast.Attribute(attr=name):
            return name.upper()
        case ast.Call(func=function, args=[first, *_]):
            return "COMMAND" if isinstance(function, ast.Name) and "command" in function.id else _name(first)
        case _:
            return "..."
