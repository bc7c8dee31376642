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

from ftx.cli.command_list import COMMANDS, GROUPS, SUBCOMMANDS
from ftx.cli.help_page import CONTEXT, HelpfulCommand, write_commands
from ftx.core.errors import TERMINATING, InputError, Termination, stopped
from ftx.core.signals import postponed_by_import
from ftx.core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_VERBOSE = ("-v", "--verbose")
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
        if cmd_name in SUBCOMMANDS:
            return typer.main.get_command(module.subcommands)
        program = typer.Typer(add_completion=False, rich_markup_mode=None)
        program.command(cmd_name, cls=HelpfulCommand, context_settings=CONTEXT)(module.command)
        return typer.main.get_command(program)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)  # first: they are what one looks for
        with formatter.section("Options"):
            formatter.write_dl([record for one in self.get_params(ctx) if (record := one.get_help_record(ctx))])

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for heading, commands in GROUPS.items():
            write_commands(formatter, heading, commands)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return _reader_went_away()
        except KeyboardInterrupt as ended:  # Typer would make a bare status of it
            raise stopped(ended, found="nothing half-written is left") from None


app = typer.Typer(cls=CommandGroup, rich_markup_mode=None, context_settings=CONTEXT)


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
        bool, typer.Option("--debug", help="Show the traceback of an error.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show details of the results.")] = False,
) -> None:
    """Fine-tune a Vision Transformer to classify your images, export it for an Intel CPU, and verify that the exported
    model is as accurate as the trained one.

    Put your images into a folder, with one subfolder for each class. Then run:

    \b
      ftx data check photos
      ftx train --data photos
      ftx merge
      ftx export --precision fp32,int8
      ftx validate
      ftx predict new-photos

    Commands use your newest run, runs/latest, unless you name one. `ftx COMMAND -h` shows the options of a command;
    you can put --debug and -v anywhere.

    \b
    Exit status:
      0  done                  3   problem with the machine: no space, no network
      1  a model failed        4   done, but some images were skipped
      2  the input is wrong    70  a bug in ftx
      130, 143  stopped by Ctrl-C or the system; ftx train --resume RUN resumes
                interrupted training
    """  # noqa: D301  \b, the character, keeps click from filling a paragraph


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit status; everything that went wrong has been printed."""
    ours = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    debug, as_json = "--debug" in ours, "--json" in ours
    given = [word for word in ours if word not in ("--debug", *_VERBOSE)] + list(arguments[len(ours) :])
    if not debug:
        warnings.simplefilter("ignore")  # third parties' advice to programmers
    verbose = any(word in _VERBOSE for word in ours)
    if verbose or "ftx.cli.console" in sys.modules:  # a process may run several command lines
        from ftx.cli.console import show_details

        show_details(verbose)
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
            return f"{name} {following}" if following in SUBCOMMANDS.get(name, ()) else name
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
