"""The frame of the command line: what it imports, what it prints where, and with which status it ends.

But for the schemas, each case is a fresh process, as a user's is.
"""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import ftx
from ftx.cli.app import COMMANDS, run, watch_for_termination
from ftx.cli.schema import SCHEMAS
from ftx.core.errors import EnvironmentFault

HEAVY = set("torch torchvision timm nncf onnx onnxruntime onnxscript regex torchmetrics openvino".split())
# What `ftx --help` has no use for either; numpy alone takes as long as all of typer.
NOT_FOR_HELP = HEAVY | {"numpy", "PIL", "pydantic", "yaml", "rich", "ctypes"}

# A verb of the test's own, registered as the others are, whose body is the statement on the command line.
PROBE = """
import sys, types
from ftx.cli import app
probe = types.ModuleType("ftx.cli.probe")
exec('''
import typer
def command(body: str, json: bool = typer.Option(False, "--json")) -> object:
    scope = {}
    exec(body, scope)
    return scope.get("status")
''', probe.__dict__)
sys.modules["ftx.cli.probe"] = probe
app.COMMANDS["probe"] = "what the test asks for"
sys.argv.insert(1, "probe")
app.main()
"""


def call(
    *words: str, program: str | None = None, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", program] if program else ["-m", "ftx"]), *words]
    # A folder for temporary files per process, so that the logs of bugs are found, and not left behind.
    with tempfile.TemporaryDirectory() as temporary:
        environment = {**plain_environment(), "TMPDIR": variables.pop("TMPDIR", temporary), **variables}
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=folder, check=False, timeout=120
        )


def plain_environment() -> dict[str, str]:
    colours = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "PYTHONWARNINGS")
    # The package under test, from whatever folder the process runs in.
    here = {"PYTHONPATH": str(Path(ftx.__file__).parents[1])}
    return {key: value for key, value in os.environ.items() if key not in colours} | here


def probe(body: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return call(body, *words, program=PROBE, **variables)


def imported_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys; sys.stderr.write(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = call(program=program)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_predictions_need_nothing_of_a_server() -> None:
    """asyncio takes 30 ms to import, which each ``ftx predict`` would wait for; filelock 3.20 imports it too."""
    assert "asyncio" not in imported_by("import ftx.evaluating.predict") - imported_by("import filelock")


def test_help_imports_what_help_needs() -> None:
    imported = imported_by("from ftx.cli.app import run\nassert run(['--help']) == 0")
    assert "typer" in imported
    assert not imported & NOT_FOR_HELP


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_of_a_verb_imports_nothing_heavy(verb: str) -> None:
    imported = imported_by(f"from ftx.cli.app import run\nassert run(['{verb}', '--help']) == 0")
    assert not imported & HEAVY


@pytest.mark.parametrize(
    "room",
    "adapters.merge_weight adapters.peft_file data.check data.sources data.open_dataset data.preprocess".split()
    + "evaluating.evaluate evaluating.parity evaluating.predict recipe.schema runs.card_json runs.run runtimes".split()
    + "tasks.labels tasks.output_meaning".split(),
)
def test_what_a_device_runs_imports_nothing_of_the_extra(room: str) -> None:
    assert not imported_by(f"import ftx.{room}") & (HEAVY - {"openvino"})


def test_importing_ftx_imports_no_room() -> None:
    assert not imported_by("import ftx") & NOT_FOR_HELP


def test_help_lists_every_verb() -> None:
    done = call("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert all(f"\n  {verb} " in done.stdout for verb in COMMANDS)
    assert "\n    ftx merge\n" in done.stdout  # the example keeps its lines


def test_no_words_are_a_wrong_input_answered_with_the_help() -> None:
    done = call()
    assert done.returncode == 2
    assert done.stdout == call("--help").stdout


def test_version() -> None:
    done = call("--version")
    assert (done.returncode, done.stdout) == (0, f"ftx {ftx.__version__}\n")


def test_public_names() -> None:
    assert len(ftx.__all__) <= 20
    assert set(dir(ftx)) == set(ftx.__all__)
    rooms = {path.stem for path in Path(ftx.__file__).parent.iterdir()}
    assert not rooms & set(ftx.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ftx.trian  # noqa: B018


def test_every_public_name_is_there() -> None:
    assert all(getattr(ftx, name) is not None for name in ftx.__all__)


def test_a_missing_extra_is_said_as_such() -> None:
    # The import system is listed that torch is not installed, as it is on a device.
    program = "import sys; sys.modules['torch'] = None\nfrom ftx.cli.app import run\nsys.exit(run(sys.argv[1:]))"
    done = call("train", "--data", ".", program=program)
    assert done.returncode == 3
    assert "fix: pip install " in done.stderr
    assert "[train]" in done.stderr
    assert "Traceback" not in done.stderr
    program = "import sys; sys.modules['torch'] = None\nimport ftx\nftx.train"
    assert call(program=program).stderr.count("EnvironmentFault") == 1


WRITTEN = Path(__file__).parents[1] / "written" / "v1" / "multiclass-dora"


@pytest.mark.parametrize(
    "words",
    [
        "train --data nowhere",
        "train --dry-run --data nowhere/x.csv",
        "train --resume nowhere",
        "train --from nowhere",
        "run quickstart-multiclass --data nowhere",
        "tune quickstart-multiclass --data nowhere",
        "data check nowhere",
        "data look nowhere",
        "merge nowhere",
        "export nowhere",
        "export nowhere --format ovms",
        "eval nowhere",
        "report nowhere",
        "report nowhere elsewhere",
        "validate nowhere",
        "bench nowhere",
        "predict nowhere",
        "merge RUN --data nowhere",
        "export RUN --data nowhere",
        "eval RUN --data nowhere",
        "merge --adapter nowhere",
        "adapters nowhere RUN",
        "train --from RUN --data nowhere",
    ],
)
def test_what_is_not_there_is_said_without_torch(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = words.replace("RUN", str(WRITTEN))
    program = (
        "import sys\nfrom ftx.cli.app import run\nstatus = run(sys.argv[1:])\n"
        "assert not {'torch', 'timm', 'nncf'} & sys.modules.keys()\nsys.exit(status)"
    )
    done = call(*words.split(), program=program)
    assert done.returncode == 2, done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["data check", "data look", "data shard", "data sample", "train --data", "merge"])
def test_a_failure_in_json_names_its_verb_in_one_line(verb: str, tmp_path: Path) -> None:
    words = {"data shard": ["nowhere", "out"], "data sample": ["--task", "nothing"]}.get(verb, ["nowhere"])
    done = call(*verb.split(), *words, "--json", folder=tmp_path)
    assert done.returncode == 2
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["verb"] == verb.partition(" --")[0]
    assert json.loads(line)["error"]["what"]


def test_another_missing_module_is_no_missing_extra() -> None:
    assert ftx.missing_extra(ModuleNotFoundError(name="torchx")) is None
    assert isinstance(ftx.missing_extra(ModuleNotFoundError(name="torch.nn")), EnvironmentFault)


def test_an_unknown_verb_gets_the_nearest() -> None:
    done = call("trian")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: ftx has no command trian\n  fix: did you mean ftx train?\n"


def test_an_unknown_flag_is_a_wrong_input() -> None:
    done = call("train", "--rnak", "3")
    assert done.returncode == 2
    assert "--rnak" in done.stderr
    assert "--rank" in done.stderr
    assert "ftx train -h" in done.stderr


def test_a_wrong_recipe_says_everything_and_writes_nothing(tmp_path: Path) -> None:
    words = ["train", "--rank", "0", "--lr", "fast", "--peft", "dorra", "--set", "train.lrate=3", "--targets", "qvk"]
    done = call(*words, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    for key in ("--rank:", "--lr:", "'dora'", "train.lrate", "q, v, k"):
        assert key in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        ("errors.GateFailed('x')", 1),
        ("errors.DataError('x')", 2),
        ("errors.EnvironmentFault('x')", 3),
        ("OSError(errno.ENOSPC, 'no space', 'f')", 3),
        ("MemoryError()", 3),
        ("OSError(errno.EIO, 'i/o error', 'f')", 3),
        ("OSError(errno.ENAMETOOLONG, 'file name too long', 'f')", 2),
        ("FileNotFoundError(errno.ENOENT, 'no such file', 'f')", 70),
        ("KeyError('x')", 70),
        ("KeyboardInterrupt()", 130),
    ],
)
def test_exit_statuses(raised: str, status: int) -> None:
    done = probe(f"import errno\nfrom ftx.core import errors\nraise {raised}")
    assert done.returncode == status
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_verb_gives_its_own_status() -> None:
    assert probe("status = 4").returncode == 4
    assert probe("status = None").returncode == 0


def test_an_error_names_what_where_found_and_mend() -> None:
    done = probe(
        "from ftx.core.errors import RunError; raise RunError('what [q] [/b]', where='w', found='f\\ng', fix='m')"
    )
    assert done.stderr == "error: what [q] [/b]\n  where: w\n  found: f\n    g\n  fix: m\n"


def test_long_lines_are_not_cut_in_a_pipe() -> None:
    path = "/".join(["a" * 60] * 10)
    assert path in probe(f"from ftx.core.errors import RunError; raise RunError('x', where='{path}')").stderr


def test_a_bug_is_one_line_with_a_log(tmp_path: Path) -> None:
    done = probe("secret = {}['boom']", TMPDIR=str(tmp_path))
    assert done.returncode == 70
    (log,) = tmp_path.glob("ftx-bug-*.log")
    assert done.stderr.splitlines()[0] == "error: this is a bug in ftx: KeyError: 'boom'"
    assert str(log) in done.stderr
    assert "CONTRIBUTING.md" in done.stderr
    text = log.read_text()
    assert ftx.__version__ in text
    assert "Traceback" in text
    assert "KeyError: 'boom'" in text


def test_a_bug_is_told_where_no_log_can_be_written() -> None:
    done = probe("{}['boom']", TMPDIR="/nowhere", PATH="")
    assert done.returncode == 70
    assert "KeyError: 'boom'" in done.stderr


@pytest.mark.parametrize("raised", ["{}['boom']", "from ftx.core.errors import RunError; raise RunError('boom')"])
def test_debug_shows_the_traceback_from_anywhere_on_the_line(raised: str, tmp_path: Path) -> None:
    done = probe(raised, "--debug", TMPDIR=str(tmp_path))
    assert "Traceback" in done.stderr
    assert "boom" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_after_two_dashes_is_an_argument() -> None:
    done = probe("--", "--debug")  # runs as the probe's body: minus minus debug
    assert done.returncode == 70
    assert "NameError: name 'debug'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["trian"], ["train", "--rnak"], ["train", "--rank", "0"]])
def test_errors_are_json_too_if_that_was_asked_for(words: list[str]) -> None:
    done = call(*words, "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 2
    assert answer["ok"] is False
    assert answer["ftx"] == ftx.__version__
    assert answer["verb"] == (words[0] if words[0] in COMMANDS else "")
    assert answer["run"] is None
    assert set(answer["error"]) == {"what", "where", "found", "fix", "mend"}
    assert answer["error"]["mend"] == answer["error"]["fix"]
    assert answer["error"]["what"] in done.stderr


def test_stdout_holds_json_alone_whoever_else_prints() -> None:
    body = (
        "import os; print('python'); os.write(1, b'library\\n'); os.system('echo child')\n"
        "from ftx.cli.console import print_json, TerminalProgress\n"
        "from ftx.core.command_report import CommandReport\n"
        "TerminalProgress().note('note'); print_json(CommandReport(verb='probe'))"
    )
    done = probe(body, "--json")
    assert json.loads(done.stdout) == {"ftx": ftx.__version__, "verb": "probe", "run": None, "ok": True}
    assert all(word in done.stderr for word in ("python", "library", "child", "note"))


@pytest.mark.parametrize("words", [[], ["--json"]])
@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_streams_that_are_closed_or_full_do_not_stop_the_work(
    words: list[str], redirection: str, tmp_path: Path
) -> None:
    body = (
        "from pathlib import Path\nfrom ftx.cli import console\n"
        "with (progress := console.TerminalProgress()).track('working', 3) as bar:\n"
        "    progress.note('half way')\n"
        "    bar.advance()\n"
        "console.print_note('next')\nconsole.print_facts([('a', 'b')])\nconsole.print_line('{}')\n"
        f"Path({str(tmp_path / 'done')!r}).write_text('')"
    )
    command = shlex.join([sys.executable, "-c", PROBE, body, *words])
    done = subprocess.run(
        ["bash", "-c", f"{command} {redirection}"], capture_output=True, text=True, env=plain_environment(), check=False
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_an_answer_that_cannot_be_written_is_the_machines_fault(words: list[str]) -> None:
    body = "from ftx.cli import console\nconsole.print_line('{}')"
    command = shlex.join([sys.executable, "-c", PROBE, body, *words])
    done = subprocess.run(
        ["bash", "-c", f"{command} >/dev/full"], capture_output=True, text=True, env=plain_environment(), check=False
    )
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_told_in_json_too() -> None:
    done = probe("raise KeyboardInterrupt", "--json")
    assert done.returncode == 130
    assert json.loads(done.stdout)["error"]["what"] == "interrupted"


def test_control_characters_do_not_reach_the_terminal() -> None:
    name = "a\x1b[31m\nb.png"
    done = probe(
        f"from ftx.cli import console\nconsole.print_table(('image',), [({name!r},)])\nconsole.print_note({name!r})"
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert "a\\x1b[31m" in done.stdout


@pytest.mark.usefixtures("can_hang_up")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_ends_quietly_whatever_catches_errors(number: signal.Signals, status: int) -> None:
    body = """
import time
try:
    print('ready', flush=True)
    time.sleep(60)
except Exception:
    pass
"""
    process = subprocess.Popen(
        [sys.executable, "-c", PROBE, body],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=plain_environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert errors.startswith("error: interrupted" if status == 130 else "error: terminated")
    assert "Traceback" not in errors


def test_a_signal_that_the_process_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(signal, "getsignal", lambda number: found[number])
    handlers: dict[int, object] = {}
    monkeypatch.setattr(signal, "signal", lambda number, handler: handlers.update({number: handler}))
    watch_for_termination()
    assert list(handlers) == [signal.SIGTERM]


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Termination")])
def test_a_signal_inside_of_an_import_waits_for_its_end(number: int, raised: str, tmp_path: Path) -> None:
    """As C code imports: what it catches is gone, and so would be the signal."""
    (tmp_path / "slow.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\nwhole = True\n")
    program = (
        "import signal, time\n"
        "from ftx.cli.app import watch_for_termination\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "watch_for_termination()\n"
        "try:\n"
        "    import slow\n"
        "except BaseException:\n"
        "    print('lost')\n"
        "try:\n"
        "    time.sleep(20)\n"
        "except BaseException as error:\n"
        "    print(type(error).__name__, slow.whole)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == f"{raised} True\n", done.stderr


@pytest.mark.parametrize(
    ("words", "printing"),
    [([], "print_line('x' * 100)"), (["--json"], "print_line('x' * 100)"), ([], "print_facts([('name', 'x' * 100)])")],
)
def test_a_reader_that_goes_away_is_no_error(words: list[str], printing: str) -> None:
    body = f"from ftx.cli.console import *\nfor _ in range(10_000): {printing}"
    process = subprocess.Popen(
        [sys.executable, "-c", PROBE, body, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=plain_environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def on_terminal(body: str, **variables: str) -> str:
    """What the probe writes to a terminal."""
    leader, follower = pty.openpty()
    environment = {**plain_environment(), "TERM": "xterm-256color", "COLUMNS": "100", **variables}
    process = subprocess.Popen([sys.executable, "-c", PROBE, body], stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    written = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            part = os.read(leader, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        written += part
    process.wait(timeout=30)
    os.close(leader)
    return written.decode()


BAR = (
    "from ftx.cli.console import TerminalProgress, print_note\nimport time\n"
    "with (progress := TerminalProgress()).track('fitting [x]', 40) as bar:\n"
    "    progress.note('epoch 1 [done]')\n"
    "    for _ in range(40): bar.advance(1, loss='0.41'); time.sleep(0.01)\n"
    "print_note('all good', 'good')"
)


def test_a_terminal_gets_a_bar_with_count_and_fields() -> None:
    shown = on_terminal(BAR)
    assert "fitting [x]" in shown
    assert "/40" in shown
    assert "loss 0.41" in shown
    assert "/s" in shown
    assert "epoch 1 [done]" in shown
    assert "\x1b[32mall good" in shown


def test_no_color_takes_the_colours_away() -> None:
    shown = on_terminal(BAR, NO_COLOR="1")
    assert "fitting [x]" in shown
    assert not any(f"\x1b[{code}m" in shown for code in (31, 32, 36, "1;31", "38;5;197"))


def test_a_pipe_and_a_dumb_terminal_get_notes_alone() -> None:
    done = probe(BAR, FORCE_COLOR="")
    assert (done.stdout, done.stderr) == ("", "epoch 1 [done]\nall good\n")
    shown = on_terminal(BAR, TERM="dumb")
    assert "fitting" not in shown
    assert "epoch 1 [done]" in shown


def test_nested_bars_end_with_the_outer_one() -> None:
    body = (
        "from ftx.cli.console import TerminalProgress\nimport time\nprogress = TerminalProgress()\n"
        "with progress.track('outer', 2) as outer:\n"
        "    for _ in range(2):\n"
        "        with progress.track('inner', None) as inner: inner.advance(7); time.sleep(0.15)\n"
        "        outer.advance()\n"
        "with progress.track('again', 1): time.sleep(0.15)"
    )
    shown = on_terminal(body)
    assert all(word in shown for word in ("outer", "inner", "again"))
    assert shown.rstrip().endswith("\x1b[2K\x1b[?25h")  # the last bar is cleared and the cursor is back


def test_a_table_in_a_pipe_is_whole() -> None:
    body = (
        "from ftx.cli.console import print_table\n"
        f"print_table(('name', 'share'), [('{'a' * 300}', '1.5'), ('[b]', '-')], styles=['bad', 'plain'])"
    )
    lines = probe(body).stdout.splitlines()
    assert lines[1].split() == ["a" * 300, "1.5"]
    assert lines[2].split() == ["[b]", "-"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", name]) == 0
    schema = json.loads(capsys.readouterr().out)
    if name not in ("recipe", "predict"):
        assert {"ftx", "verb", "run", "ok"} <= set(schema["properties"])


def test_an_unknown_schema_gets_the_nearest() -> None:
    done = call("schema", "expotr")
    assert done.returncode == 2
    assert "did you mean 'export'?" in done.stderr
