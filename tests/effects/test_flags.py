"""No flag does nothing: each of every verb has a row, and each row is seen to hold through the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from tests.effects.flags import FLAGS, Flag
from tests.effects.lab import Lab, marks

from ftx.cli import console
from ftx.cli.app import app
from ftx.cli.run import print_pipeline
from ftx.pipeline import PipelineReport


def parameters(command: Any, verb: str = "") -> Iterator[str]:
    """Every flag and argument of a command and of those below it, as ``train --lr`` and ``merge RUN``."""
    context = command.make_context(verb or "ftx", [], resilient_parsing=True)
    for parameter in command.params:
        name = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
        yield f"{verb} {name}".strip()
        if getattr(parameter, "hidden", False):
            HIDDEN.add(f"{verb} {name}")
    if hasattr(command, "list_commands"):
        for below in command.list_commands(context):
            yield from parameters(command.get_command(context, below), f"{verb} {below}".strip())


# Former spellings, which help does not show.
HIDDEN: set[str] = set()
PARAMETERS = list(parameters(typer.main.get_command(app)))


def test_every_flag_has_a_row() -> None:
    assert len(PARAMETERS) == len(set(PARAMETERS))
    assert {row.name for row in FLAGS} == set(PARAMETERS)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=f"{row.name} {row.value}".strip(), marks=marks(row.takes)) for row in FLAGS],
)
def test_a_flag_has_its_effect(lab: Lab, row: Flag) -> None:
    row.check(lab, row.name.split()[-1], row.value)


def test_a_verbs_help_names_its_flags(lab: Lab) -> None:
    for verb in sorted({" ".join(name.split()[:-1]) for name in PARAMETERS}):
        said = lab.done(*verb.split(), "--help").out
        for name in PARAMETERS:
            if name.rpartition(" ")[0] == verb:
                assert (name.split()[-1] + " " in said) is (name not in HIDDEN), name


def test_a_gate_that_fails_is_the_status_of_the_whole_run(lab: Lab) -> None:
    """Weights that fp16 cannot hold: what is exported does not answer as what was trained."""
    assert (lab.failing.status, lab.failing.json["ok"]) == (1, False)
    _, passed = lab.piped
    assert (passed.status, passed.json["ok"]) == (0, True)
    # Told to a person it is the same.
    report = PipelineReport.model_validate_json(passed.out)
    assert console.show(report, print_pipeline, json=False) == 0
    assert console.show(report.model_copy(update={"ok": False}), print_pipeline, json=False) == 1
