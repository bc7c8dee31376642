"""How help looks: options in groups, and examples at the end.

Plain text: rich's markup costs 0.15 s of import, half of what ``ftx --help`` may take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand

from ftx.cli.command_list import COMMANDS, SUBCOMMANDS, ListedCommand

# Of each command, and of the program.
CONTEXT = {"help_option_names": ["-h", "--help"]}


class HelpfulCommand(TyperCommand):
    """A command whose help groups the options by ``rich_help_panel``, and ends with the examples of its list."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """``[OPTIONS] IMAGES... [RUN]``."""
        found: list[str] = []
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                name = _name(parameter) + "..." * (parameter.nargs != 1)
                found.append(name if parameter.required else f"[{name}]")
        return ["[OPTIONS]", *found]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for the arguments, one for each group of options, and one for the examples."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                sections.setdefault("Arguments", []).append((_name(parameter), record[1]))
            else:
                panel = getattr(parameter, "rich_help_panel", None) or "Options"
                sections.setdefault(panel, []).append(record)
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)
        if listed := examples(ctx.command_path):
            with formatter.section("Examples"):
                for example in listed:
                    formatter.write_text(example)


def write_commands(formatter: Any, heading: str, commands: Mapping[str, ListedCommand]) -> None:
    """Write a section with a line for each command; the lines of several sections begin in one column."""
    with formatter.section(heading):
        formatter.write_dl([(f"{name:10}", listed.summary) for name, listed in commands.items()])


def _name(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def examples(command_path: str) -> tuple[str, ...]:
    """The examples of a command, as ``ftx train`` or ``ftx data check``."""
    _, *names = command_path.split()
    listed = COMMANDS if len(names) == 1 else SUBCOMMANDS.get(names[0], {}) if names else {}
    return listed[names[-1]].examples if names and names[-1] in listed else ()
