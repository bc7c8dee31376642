"""The program ``ftx``: its commands, each loaded when it runs, and what becomes of an error."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperGroup

from ftx.core.errors import TERMINATING, InputError, Termination, stopped
from ftx.core.signals import postponed_by_import
from ftx.core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

# Command -> its line in `ftx --help`, in the order of the work. It is in ftx.cli.<command>, which is
# imported when the command runs: the list must not cost the imports of all.
COMMANDS = {
    "data": "`data check PATH`, `data look DATA`: a data set before training, and its wrong labels",
    "train": "Train an adapter, a head or the whole model on images",
    "merge": "Turn the trained model into one dense model, with proof",
    "export": "Write the dense model as OpenVINO IR or ONNX",
    "validate": "Compare each artifact with the trained model: a gate",
    "eval": "Accuracy, per-class figures and confusion of an artifact",
    "predict": "Label images with an exported model or a run",
    "explain": "Draw over images what a model's predictions come from",
    "report": "Write what a run is worth on one HTML page: verdict, errors, parity, latency",
    "apply": "Merge an update into a base IR on a device, without torch",
    "bench": "Time the models of a run on this machine, and find their fastest setting",
    "serve": "Serve over HTTP, with a page to try it",
    "tune": "Search for the recipe that suits the data",
    "run": "Train, merge, export and validate from one recipe",
    "runs": "List runs, compare them, remove them",
    "adapters": "Compare adapters of one base, layer by layer",
    "models": "List the models that can be trained, and what ftx supports of each",
    "recipes": "List the recipes that come with ftx",
    "quickstart": "All of it on the bundled model and sample",
    "schema": "Print the JSON schema of a command's --json object",
}

# Those that have commands of their own; the field `verb` of a report has both words.
_SUBCOMMANDS = {"data": ("check", "look", "sample", "shard")}

# 128 + SIGPIPE, as the shell reports a program whose reader went away (`ftx predict ... | head`).
BROKEN_PIPE = 141


class CommandGroup(TyperGroup):
    """The commands, each imported when it runs."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # Typer looks for the nearest name among these keys; the commands come from get_command.
        self.commands = cast("Any", dict.fromkeys(COMMANDS))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"ftx.cli.{cmd_name}")
        if cmd_name in _SUBCOMMANDS:
            return typer.main.get_command(module.subcommands)
        program = typer.Typer(add_completion=False, rich_markup_mode=None)
        program.command(cmd_name)(module.command)
        return typer.main.get_command(program)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return _reader_went_away()
        except KeyboardInterrupt as ended:  # Typer would make a bare status of it
            raise stopped(ended, found="nothing half-written is left") from None


# Plain help: rich's markup costs 0.15 s of import, half of what `ftx --help` may take.
app = typer.Typer(cls=CommandGroup, rich_markup_mode=None)


def _print_version(given: bool) -> None:
    if given:
        typer.echo(f"ftx {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[  # its callback acts on it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[  # run() reads it, from anywhere on the line
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere on the line.")
    ] = False,
) -> None:
    """Fine-tune a Vision Transformer, merge it, and run it on an Intel CPU with proof of its accuracy.

    In a folder that holds data/, one subfolder of images for each class:

    \b
      ftx data check data
      ftx train --data data --peft dora
      ftx merge
      ftx export --format openvino
      ftx validate

    Commands use your newest finished run, runs/latest, unless you name one.

    \b
    Exit status:
      0  done                          3   the machine: no space, no network, an extra missing
      1  a gate failed                 4   done, but some inputs were skipped
      2  the input is wrong            70  a bug of ftx
      130  interrupted, 143  terminated: a training can be resumed (ftx train --resume)
    """  # noqa: D301  \b, the character, keeps click from filling a paragraph


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit status; everything that went wrong has been printed."""
    ours = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    debug, as_json = "--debug" in ours, "--json" in ours
    given = [word for word in ours if word != "--debug"] + list(arguments[len(ours) :])
    if not debug:
        warnings.simplefilter("ignore")  # third parties' advice to programmers
    if as_json:
        from ftx.cli.console import reserve_stdout

        reserve_stdout()
    try:
        _check_text(arguments)
        command = typer.main.get_command(app)
        status: object = command.main(args=given or ["--help"], prog_name="ftx", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_went_away()
    except Exception as error:
        from ftx.cli.failure import report_failure

        return report_failure(error, arguments=arguments, command=_command_of(given), as_json=as_json, debug=debug)
    if not given:
        return InputError.exit_code  # the help was shown, but no command was given
    return status if isinstance(status, int) else 0


def _command_of(words: Sequence[str]) -> str | None:
    """The command among the words, as its report's field ``verb`` names it."""
    names = [word for word in words if not word.startswith("-")]
    for name, following in zip(names, [*names[1:], ""], strict=True):
        if name in COMMANDS:
            return f"{name} {following}" if following in _SUBCOMMANDS.get(name, ()) else name
    return None


def _check_text(arguments: Sequence[str]) -> None:
    """Check that every word is text: others could be written neither into a report nor into a run."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InputError(
                "a word of the command line is not valid text", found=ascii(word), fix="rename the file or folder"
            ) from None


def _reader_went_away() -> int:
    from ftx.cli.console import abandon_stdout

    abandon_stdout()
    return BROKEN_PIPE


def _open_closed_streams() -> None:
    """Give a program started with closed streams (``>&-``) ones that lead nowhere: files would take their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _end_cleanly(number: int, frame: FrameType | None) -> None:
    if not postponed_by_import(number, frame):
        raise Termination if number in TERMINATING else KeyboardInterrupt


def watch_for_termination() -> None:
    """Let Ctrl-C, SIGTERM and a terminal that is closed end the program with nothing half-written left.

    Signals that the process ignores, as under nohup, stay ignored.
    """
    for number in (signal.SIGINT, *TERMINATING):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end_cleanly)


def main() -> NoReturn:
    """Entry point of the command ``ftx``."""
    # torch's threads wait for each other by spinning, which starves them as soon as another program wants a core:
    # on 2 cores, one of them busy, a training step took 2.6 times as long as with threads that sleep. With both
    # cores free the two are equally fast. Read when torch is loaded; the user's own choice stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _open_closed_streams()
    watch_for_termination()
    sys.exit(run(sys.argv[1:]))
