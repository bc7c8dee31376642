"""Help: what every page of it has, and that its examples are valid."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from ftx.cli.app import app
from ftx.cli.command_list import COMMANDS, GROUPS, SUBCOMMANDS

PROGRAM: Any = typer.main.get_command(app)


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that runs something, by its words."""
    context = PROGRAM.make_context("ftx", [], resilient_parsing=True)
    for name in COMMANDS:
        command = PROGRAM.get_command(context, name)
        if name not in SUBCOMMANDS:
            yield name, command
        for below in SUBCOMMANDS.get(name, ()):
            yield f"{name} {below}", command.get_command(context, below)


ALL = list(commands())


def help_of(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    from ftx.cli.app import run

    assert run([*words.split(), "-h"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("words", "command"), ALL, ids=[words for words, _ in ALL])
def test_a_page_of_help_names_what_is_given_and_no_type(
    words: str, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    page = help_of(words, capsys)
    assert not re.search(r"<[a-z]|list\[|\{[A-Z]", page)
    assert max(map(len, page.splitlines())) <= 80
    usage = page.splitlines()[0]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            named = parameter.metavar + "..." * (parameter.nargs != 1)
            assert (named if parameter.required else f"[{named}]") in usage
    assert "\n  -h, --help" in page


@pytest.mark.parametrize(("words", "command"), ALL, ids=[words for words, _ in ALL])
def test_each_example_is_a_valid_command_line(words: str, command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    page = help_of(words, capsys)
    listed = {
        **COMMANDS,
        **{f"{name} {below}": one for name in SUBCOMMANDS for below, one in SUBCOMMANDS[name].items()},
    }
    assert listed[words].examples
    for example in listed[words].examples:
        assert f"\n  {example}\n" in page
        program, *given = shlex.split(example)
        assert (program, " ".join(given[: len(words.split())])) == ("ftx", words)
        command.make_context(words, given[len(words.split()) :])  # raises for what it does not take


def test_the_programs_help_groups_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    page = help_of("", capsys)
    at = [page.index(f"\n{heading}:\n") for heading in GROUPS]
    assert at == sorted(at)
    for heading, group in GROUPS.items():
        section = page.partition(f"\n{heading}:\n")[2].partition("\n\n")[0]
        assert re.findall(r"^  (\w+)", section, re.MULTILINE) == list(group)
        assert all(listed.summary in section for listed in group.values())


def test_trainings_options_begin_with_what_a_newcomer_needs(capsys: pytest.CaptureFixture[str]) -> None:
    page = help_of("train", capsys)
    headings = re.findall(r"^(\w[\w ]+):$", page, re.MULTILINE)
    assert headings[0] == "Start here"
    first = page.partition("Start here:")[2].partition("\n\n")[0]
    assert re.findall(r"^  (--[a-z-]+)", first, re.MULTILINE)[:4] == ["--data", "--task", "--model", "--method"]
    assert "--preset" in first
    assert "--peft" not in page
