"""The run folder keeps what it was given, and knows what no longer holds."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.conftest import Listener
from tests.core.test_file_cache import settle
from tests.gates.faults import edit_json

import ftx.runs.run
from ftx.core import files
from ftx.core.errors import EnvironmentFault, RunError
from ftx.core.files import sha256_file
from ftx.data.dataset import Entry
from ftx.data.preprocess import Preprocess
from ftx.runs.artifacts import DENSE, IR_FP32, IRS, ONNX, TRAINED
from ftx.runs.new_run import check_name_free, new_run, seal
from ftx.runs.run import Run
from ftx.runs.run_json import Manifest
from ftx.runs.runs_folder import fresh_out, latest_run, point_latest_at
from ftx.tasks.labels import Labels

# Every character that Python takes for the end of a line and a file's name may hold.
NAMES = ("a b", "ü", "<b>&amp;", "x\u2028y", "x\u0085y", "x\x0by", 'quote"', "new\nline")


def fill(folder: Path) -> None:
    """What a training leaves in a run."""
    entries = tuple(Entry(f"a/{name}.png", "0" * 64, ("a",), "train") for name in NAMES)
    (folder / "trained").mkdir()
    (folder / "trained" / "weights").write_text("one")
    manifest = Manifest(
        task="multiclass",
        model="m",
        architecture="m",
        method="full",
        base_digest="0",
        labels=Labels.multiclass(["a", "b"]),
        preprocess=Preprocess(32, 32, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        data_root="data",
    )
    seal(folder, manifest, entries)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    with new_run(tmp_path / "runs" / "x") as new:
        fill(new.folder)
    return Run.open(tmp_path / "runs" / "x")


def test_ctrl_c_after_all_is_written_costs_no_run(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), new_run(tmp_path / "x") as new:
        new.show()
        fill(new.folder)
        raise KeyboardInterrupt
    assert Run.open(tmp_path / "x").require(TRAINED)


def test_images_of_any_name_are_read_back(run: Run) -> None:
    assert [entry.path for entry in run.entries()] == [f"a/{name}.png" for name in NAMES]


def test_what_was_made_of_something_else_is_stale(run: Run) -> None:
    with run.add(DENSE) as folder:
        (folder / "weights").write_text("merged")
    with run.add(ONNX) as folder:
        (folder / "model").write_text("exported")
    assert run.require(ONNX) == run.path / "onnx"
    with run.add(DENSE) as folder:
        (folder / "weights").write_text("merged differently")
    with pytest.raises(RunError, match="onnx/ is stale"):
        run.require(ONNX)


def test_an_export_that_was_begun_before_the_model_was_merged_again_is_stale(run: Run) -> None:
    """It was made from what the run held when it began, whatever stands there when it ends."""
    with run.add(DENSE) as folder:
        (folder / "weights").write_text("merged")
    with run.add(ONNX) as folder:
        (folder / "model").write_text("exported")
        with Run.open(run.path).add(DENSE) as other:
            (other / "weights").write_text("merged differently")
    assert run.manifest.is_stale(ONNX)
    with pytest.raises(RunError, match="onnx/ is stale"):
        run.require(ONNX)
    with run.add(ONNX) as folder:
        (folder / "model").write_text("exported")
    assert run.require(ONNX).is_dir()


def test_a_folder_in_a_run_is_stale_as_its_artifact_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for artifact in (DENSE, IR_FP32):
        with run.add(artifact) as folder:
            (folder / "weights").write_text("first")
    (run.path / "elsewhere").mkdir()
    device = Path(shutil.copytree(run.folder(IR_FP32), run.path.parent / "openvino" / "fp32"))
    for fresh in (run.folder(IR_FP32), run.path / "elsewhere", device, Path("/")):
        Run.check_folder(fresh)
    with run.add(DENSE) as folder:
        (folder / "weights").write_text("second")
    Run.check_folder(device)
    monkeypatch.chdir(run.path / "openvino")
    for stale in (run.folder(IR_FP32), Path("fp32")):
        with pytest.raises(RunError, match="openvino/fp32/ is stale"):
            Run.check_folder(stale)
    monkeypatch.chdir(run.path)
    edit_json(run.path / "run.json", lambda raw: raw["files"].update({"trained/weights": "0" * 64}))
    with pytest.raises(RunError, match="openvino/fp32/ is stale"):
        Run.check_folder(Path("openvino/fp32"))
    with run.add(IR_FP32) as folder:
        (folder / "weights").write_text("second")
    with pytest.raises(RunError, match="dense/ is stale"):
        Run.check_folder(Path("openvino/fp32"))


def test_a_file_that_was_changed_is_named(run: Run) -> None:
    (run.path / "trained" / "weights").write_text("two")
    with pytest.raises(RunError, match="changed since ftx wrote it") as caught:
        run.require(TRAINED)
    assert "weights" in str(caught.value)


def test_a_verb_that_fails_leaves_the_run_as_it_was(run: Run) -> None:
    before = (run.path / "run.json").read_bytes()

    def fail() -> None:
        with run.add(DENSE) as folder:
            (folder / "weights").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (run.path / "run.json").read_bytes() == before
    assert sorted(path.name for path in run.path.iterdir()) == ["data.jsonl", "run.json", "trained"]


def test_a_verb_killed_before_its_folder_is_in_place_can_run_again(run: Run) -> None:
    with run.add(DENSE) as folder:
        (folder / "weights").write_text("merged")
    # What lies on the disk if the process dies between the hashes and the rename.
    (run.path / "dense" / "weights").unlink()
    (run.path / "dense").rmdir()
    with pytest.raises(RunError, match="missing") as caught:
        run.require(DENSE)
    assert "ftx merge" in str(caught.value)
    with run.add(DENSE) as folder:
        (folder / "weights").write_text("merged")
    assert run.require(DENSE).is_dir()


def test_a_link_to_nowhere_in_the_way_leaves_the_run_as_it_was(run: Run) -> None:
    before = (run.path / "run.json").read_bytes()

    def merge() -> None:
        with run.add(DENSE) as folder:
            (folder / "weights").write_text("merged")
            (run.path / "dense").symlink_to("gone")

    with pytest.raises(NotADirectoryError):
        merge()
    assert (run.path / "run.json").read_bytes() == before
    with pytest.raises(RunError, match="must not replace a folder"):  # it is there before
        merge()
    assert (run.path / "run.json").read_bytes() == before


def test_a_folder_of_the_users_is_not_replaced(run: Run) -> None:
    (run.path / "dense").mkdir()
    with pytest.raises(RunError, match="did not write"), run.add(DENSE):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "must have schema version 1"),
        ({"lineage": {"dense": {"made_from": "dense", "digest": ""}}}, "cannot have been made from"),
        ({"lineage": {"dense": {"made_from": "onnx", "digest": ""}}}, "cannot have been made from"),
        ({"lineage": {"dense": {"made_from": "trained", "digest": "", "spare": 1}}}, "is invalid"),
        ({"task": "guessing"}, "is invalid"),
        ({"spare": 1}, "is invalid"),
    ],
)
def test_a_manifest_that_does_not_hold_is_refused(run: Run, change: dict[str, object], message: str) -> None:
    path = run.path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match=message):
        Run.open(run.path)


def write_report(run: Run, progress: Listener) -> None:
    run.write_report("ours", run.manifest, progress)


def write_artifact(run: Run, progress: Listener) -> None:
    with run.add(DENSE, progress) as folder:
        (folder / "weights").write_text("merged")


@pytest.mark.parametrize(("write", "ours"), [(write_report, "reports/ours.json"), (write_artifact, "dense/weights")])
def test_who_waits_for_another_writer_keeps_what_that_one_wrote(
    write: Callable[[Run, Listener], None], ours: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the run holds is read when it is one's turn, not before."""
    monkeypatch.setattr(files, "_NOTED_AFTER_S", 0.01)
    waits = threading.Event()

    class Waiting(Listener):
        def note(self, text: str) -> None:
            waits.set()

    writer = threading.Thread(target=write, args=(run, Waiting()))
    with files.sole_writer(run.path, None):
        writer.start()
        assert waits.wait(timeout=60)
        edit_json(run.path / "run.json", lambda raw: raw["files"].update({"reports/theirs.json": "0" * 64}))
    writer.join(timeout=60)
    assert {ours, "reports/theirs.json"} < set(Run.open(run.path).manifest.files)


def test_a_report_is_where_it_is_said_to_be(run: Run) -> None:
    report = run.manifest
    path = run.write_report("measured", report)
    assert path == run.path / "reports" / "measured.json"
    assert Manifest.model_validate_json(path.read_bytes()) == report
    assert run.file("reports/measured.json") == path
    path.write_text("{}")
    with pytest.raises(RunError, match="changed since ftx wrote it"):
        run.file("reports/measured.json")


def test_an_artifact_that_is_made_again_leaves_nothing_of_the_one_before(run: Run) -> None:
    """And of another whose name begins as its own does everything."""
    with run.add(DENSE) as folder:
        (folder / "weights").write_text("merged")
    for artifact in (IRS["int8"], IRS["int8-weights"]):
        with run.add(artifact) as folder:
            (folder / "weights").write_text("first")
            (folder / "proof").write_text("first")
    with run.add(IRS["int8"]) as folder:
        (folder / "weights").write_text("second")
    assert {name for name in run.manifest.files if name.startswith("openvino/")} == {
        "openvino/int8/weights",
        "openvino/int8-weights/weights",
        "openvino/int8-weights/proof",
    }
    assert not (run.path / "openvino" / "int8" / "proof").exists()
    for artifact in (IRS["int8"], IRS["int8-weights"]):
        assert run.require(artifact).is_dir()


def test_a_card_that_is_written_anew_makes_nothing_stale(run: Run) -> None:
    for artifact in (DENSE, ONNX):
        with run.add(artifact) as folder:
            (folder / "weights").write_text(artifact.name)
            (folder / "README.md").write_text("not measured yet")
    run.write_file(f"{DENSE}/README.md", b"measured")
    assert run.require(ONNX).is_dir()
    assert (run.require(DENSE) / "README.md").read_text() == "measured"
    (run.path / "dense" / "README.md").write_text("measured by hand")
    with pytest.raises(RunError, match="changed since ftx wrote it"):
        run.require(DENSE)


def test_labels_that_were_renamed_are_refused(run: Run) -> None:
    path = run.path / "run.json"
    path.write_text(path.read_text().replace('"a"', '"renamed"'))
    with pytest.raises(RunError, match=r"the labels in data\.jsonl"):
        run.entries()


def test_commands_that_are_suggested_can_be_pasted(run: Run, tmp_path: Path) -> None:
    moved = Run(run.path.rename(tmp_path / "it's a run"))
    with pytest.raises(RunError) as caught:
        moved.require(DENSE)
    assert shlex.split(str(caught.value.fix)) == ["run:", "ftx", "merge", str(moved.path)]


# Adds reports and artifacts to one run, as fast as it can.
ADD = """
import sys
from pathlib import Path
from pydantic import BaseModel
from ftx.runs.artifacts import IRS
from ftx.runs.run import Run

class Report(BaseModel):
    by: str

run, by = Run(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(8):
    run.write_report(f"{by}-{number}", Report(by=by))
    with run.add(IRS[by]) as folder:
        (folder / "weights").write_text(f"{by} {number}")
"""
AT_ONCE = ("fp32", "fp16", "int8")


@pytest.mark.representative
def test_verbs_that_add_at_once_lose_nothing(run: Run) -> None:
    with run.add(DENSE) as folder:
        (folder / "weights").write_text("merged")
    for _ in range(2):
        started = [
            subprocess.Popen(
                [sys.executable, "-c", ADD, str(run.path), by], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for by in AT_ONCE
        ]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in started:
            process.communicate()
            assert process.returncode == 0
        expected = {f"reports/{by}-{number}.json" for by in AT_ONCE for number in range(8)}
        expected |= {f"openvino/{by}/weights" for by in AT_ONCE} | {"trained/weights", "dense/weights", "data.jsonl"}
        assert set(run.manifest.files) == expected
        for name, digest in run.manifest.files.items():
            assert sha256_file(run.path / name) == digest
        for by in AT_ONCE:
            assert run.require(IRS[by]).is_dir()


def test_a_run_that_cannot_be_written_is_said_and_the_answer_is_kept(run: Run) -> None:
    listener = Listener()
    before = (run.path / "run.json").read_bytes()
    with unprivileged(run.path):
        with pytest.raises(EnvironmentFault, match="cannot be written") as caught:
            run.write_report("parity", run.manifest)
        run.keep_report("parity", run.manifest, listener)
    assert caught.value.where == str(run.path)
    assert listener.said == ["reports/parity.json is not kept: this path cannot be written to (Permission denied)"]
    assert (run.path / "run.json").read_bytes() == before


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """A folder of another user: for root nothing is read-only, so it is somebody else meanwhile."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.parents)}
    private = {path: mode for path, mode in modes.items() if path == folder or mode & 0o011 != 0o011}
    for path, mode in private.items():
        path.chmod(0o555 if path == folder else mode | 0o055)
    me = os.geteuid()
    try:
        if me == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(me)
        for path, mode in private.items():
            path.chmod(mode)


def test_no_run_is_called_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even while there is none, as in a folder where nothing was trained yet."""
    monkeypatch.chdir(tmp_path)
    for out in (Path("runs", "latest"), tmp_path / "runs" / "latest"):
        with pytest.raises(RunError, match="keeps the newest run"):
            check_name_free(out)


def test_latest_is_the_newest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path.parent.parent)
    with pytest.raises(RunError, match="must be a finished run"):
        latest_run()
    point_latest_at(run.path)
    assert latest_run() == Path("runs/x")
    shutil.copytree(run.path, run.path.with_name("y"))
    point_latest_at(run.path.with_name("y"))
    assert latest_run() == Path("runs/y")
    point_latest_at(run.path)
    assert latest_run() == Path("runs/x")
    # Where links are not allowed it is a file of one line.
    (run.path.parent / "latest").unlink()
    (run.path.parent / "latest").write_text("x\n")
    assert latest_run() == Path("runs/x")
    assert fresh_out("x") == Path("runs/x-2")


def test_latest_is_found_where_runs_is_a_link_to_another_disk(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "mnt" / "deep" / "disk"
    disk.mkdir(parents=True)
    here = tmp_path / "here"
    here.mkdir()
    (here / "runs").symlink_to(disk, target_is_directory=True)
    monkeypatch.chdir(here)
    shutil.copytree(run.path, "elsewhere")
    point_latest_at(Path("elsewhere"))
    assert (disk / "latest").resolve() == here / "elsewhere"
    assert Run.open(latest_run()).path.resolve() == here / "elsewhere"


def test_a_run_that_is_not_there_is_answered_with_those_that_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path.parent.parent)
    point_latest_at(run.path)
    shutil.copytree(run.path, run.path.with_name("flowers"))
    # runs/latest is no run of its own.
    for name, found in (("flower", "nearest: runs/flowers"), ("0", "runs here: flowers, x")):
        with pytest.raises(RunError, match="the run does not exist") as caught:
            Run.open(f"runs/{name}")
        assert caught.value.found == found
    shutil.rmtree("runs")
    with pytest.raises(RunError, match="the run does not exist") as caught:
        Run.open("runs/flower")
    assert caught.value.found == "no runs below runs/"


def test_a_run_without_a_model_names_what_there_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path.parent.parent)
    for name in ("later", "older"):
        shutil.copytree(run.path, run.path.with_name(name))
    with pytest.raises(RunError, match="the run does not contain this folder") as caught:
        Run.open("runs/x/openvino/int9")
    assert (caught.value.where, caught.value.fix) == (
        "runs/x/openvino/int9",
        "name the run, runs/x, or a model in it: trained",
    )
    with pytest.raises(RunError, match="this run has no dense/ yet") as caught:
        run.require(DENSE)
    assert caught.value.found is None
    for number, name in enumerate(("later", "older")):
        with Run.open(f"runs/{name}").add(DENSE) as staged:
            (staged / "weights").write_text("one")
        os.utime(f"runs/{name}/run.json", (1e9 - number, 1e9 - number))
    with pytest.raises(RunError, match="this run has no dense/ yet") as caught:
        run.require(DENSE)
    assert caught.value.found == "runs/later has one"
    (Path("runs") / "later" / "run.json").write_text("{")  # what cannot be read is passed over
    assert run.another_with(DENSE) == "runs/older has one"
    assert Run.open("runs/older").another_with(IR_FP32, DENSE) is None


# Counts how often each file of a run is opened while every artifact is required, twice.
COUNT = """
import json, sys
from collections import Counter
from pathlib import Path
from ftx.runs.run import Run

folder, opened = Path(sys.argv[1]), Counter()

def count(event, arguments):
    if event == "open" and str(arguments[0]).startswith(f"{folder}/"):
        opened[str(Path(arguments[0]).relative_to(folder))] += 1

sys.addaudithook(count)
run = Run.open(folder)
for artifact in [*run.artifacts(), *run.artifacts()]:
    run.require(artifact)
    assert run.has(artifact) and run.task and run.entries()
print(json.dumps(opened))
"""


@pytest.mark.representative
def test_each_file_is_read_once_a_process(run: Run) -> None:
    for artifact in (DENSE, ONNX, *IRS.values()):
        with run.add(artifact) as folder:
            (folder / "weights").write_text(artifact.name)
    settled(run)
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(run.path)], capture_output=True, text=True, check=True, timeout=60
    )
    opened = json.loads(done.stdout)
    # Its lines are read each time, and its hash once.
    assert opened.pop("data.jsonl") == 1 + 2 * (3 + len(IRS))
    assert opened == {"run.json": 1} | {f"{artifact}/weights": 1 for artifact in (TRAINED, DENSE, ONNX, *IRS.values())}


@pytest.mark.slow
def test_what_others_write_is_seen_and_kept(run: Run) -> None:
    settled(run)
    other = Run.open(run.path)
    assert run.manifest is run.manifest
    assert run.require(TRAINED)
    other.write_report("theirs", other.manifest)
    assert "reports/theirs.json" in run.manifest.files
    settled(run)
    assert run.manifest is run.manifest
    other.write_report("more", other.manifest)
    run.write_report("ours", run.manifest)
    with run.add(DENSE) as folder:
        (folder / "weights").write_text("merged")
        other.write_report("meanwhile", other.manifest)
    reports = {f"reports/{name}.json" for name in ("theirs", "more", "ours", "meanwhile")}
    assert set(other.manifest.files) == set(run.manifest.files)
    assert set(run.manifest.files) == reports | {"trained/weights", "dense/weights", "data.jsonl"}
    (run.path / "trained" / "weights").write_text("two")
    with pytest.raises(RunError, match="changed since ftx wrote it"):
        run.require(DENSE)


def settled(run: Run) -> None:
    """Wait until a change of any file of the run would show."""
    settle(*(path for path in run.path.rglob("*") if path.is_file()))


def test_a_report_that_cannot_be_written_leaves_the_one_before(validated_run: Path, tmp_path: Path) -> None:
    """With its hash: else the run would be of no use any more."""
    run = Run.open(shutil.copytree(validated_run, tmp_path / "run"))
    before = (run.path / "reports" / "parity.json").read_bytes(), (run.path / "run.json").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        original = ftx.runs.run.write_atomic

        def full(path: Path, content: bytes) -> None:
            if path.name == "parity.json":
                raise EnvironmentFault("the disk is full", where=path)
            original(path, content)

        patch.setattr("ftx.runs.run.write_atomic", full)
        with pytest.raises(EnvironmentFault):
            run.write_file("reports/parity.json", b"{}")
    assert before == ((run.path / "reports" / "parity.json").read_bytes(), (run.path / "run.json").read_bytes())
    run.check_report(Path("reports/parity.json"), "ftx validate")
