"""Workers on Ray answer as one process does; one that is killed begins again, and no answer is lost or comes twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
from tests.conftest import Listener, calibrate

from ftx.core.errors import EnvironmentFault
from ftx.data.shards.write import write_shards
from ftx.evaluating.predict import Prediction, predict
from ftx.runtimes import load
from ftx.scaling import on_ray as on_ray_module
from ftx.scaling import parts as parts_module
from ftx.scaling.on_ray import ray_workers
from ftx.scaling.parts import JobPart
from ftx.scaling.predict_to_file import RayCluster, predict_to_file
from ftx.scaling.ray_driver import Coordinator, DriverMessage, Worker, WorkerSetup, _own_cores, lead, workers_and_cores
from ftx.scaling.resumable_job import as_lines, parts_folder


def many(colour_model: Any, folder: Path, count: int) -> Path:
    folder.mkdir()
    source = sorted(colour_model.images.rglob("*.png"))
    for number in range(count):
        os.link(source[number % len(source)], folder / f"{number:05d}.png")
    return folder


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ftx", "predict", *words, "--engine", "ray", "--workers", "2", "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ADDRESS": ""},
    )


def workers(of: int) -> list[int]:
    """The processes of Ray that hold a model and descend from a process."""
    parents, found = dict[int, int](), list[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker(MapBatches(Worker)).submit"):
                found.append(int(folder.name))
        except OSError:
            continue

    def descends(process: int) -> bool:
        return process == of or (process in parents and descends(parents[process]))

    return sorted(filter(descends, found))


@pytest.mark.slow
def test_workers_that_are_killed_begin_again(colour_model: Any, tmp_path: Path) -> None:
    images, out = many(colour_model, tmp_path / "many", 20_000), tmp_path / "out.jsonl"
    process = started(tmp_path, "many", "--artifact", str(colour_model.folder), "--out", "out.jsonl")
    killed = 0
    while process.poll() is None and killed < 2:
        there = workers(process.pid)
        if len(list(parts_folder(out).glob("*.jsonl"))) > 3 * killed and len(there) == 2:
            os.kill(there[killed % 2], signal.SIGKILL)
            killed += 1
        time.sleep(0.02)
    said, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert killed == 2
    report = json.loads(said)  # and nothing else on stdout
    assert (report["engine"], report["workers"], report["images"]) == ("ray", 2, 20_000)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["path"] for line in lines] == sorted(str(path.relative_to(tmp_path)) for path in images.iterdir())
    alone = {one.path: one.labels for one in predict(images, colour_model.folder)}
    for line in lines:
        (label,) = alone[str(tmp_path / line["path"])]
        assert line["labels"] == [{"name": label.name, "score": label.score}]


@pytest.mark.slow
def test_shards_and_what_cannot_be_read_and_a_second_call(colour_model: Any, tmp_path: Path) -> None:
    write_shards(colour_model.images, tmp_path / "shards", per_shard=5)
    (tmp_path / "broken.png").write_bytes(b"no image")
    process = started(tmp_path, "shards", "broken.png", "--artifact", str(colour_model.folder), "--out", "out.jsonl")
    said, err = process.communicate(timeout=180)
    assert process.returncode == 4, err
    report = json.loads(said)
    assert (report["images"], report["skipped"], report["parts"]) == (13, 1, 4)
    own = [one.to_line() for one in predict([tmp_path / "shards", tmp_path / "broken.png"], colour_model.folder)]
    assert (tmp_path / "out.jsonl").read_text().replace("shards/", "").splitlines() == [
        line.replace(f"{tmp_path}/", "").replace("shards/", "") for line in own
    ]
    process = started(tmp_path, "shards", "--artifact", str(colour_model.folder), "--out", "out.jsonl")
    assert "--out must not exist yet" in process.communicate(timeout=180)[1]


def test_each_worker_has_its_share_of_the_cores() -> None:
    def nodes(*cpus: float, gone: int = 0) -> list[dict[str, Any]]:
        alive = [{"Alive": True, "Resources": {"CPU": each} if each else {}} for each in cpus]
        return [*alive, *({"Alive": False, "Resources": {"CPU": 64}} for _ in range(gone))]

    assert workers_and_cores(nodes(2), None) == (1, 2)
    assert workers_and_cores(nodes(2), 2) == (2, 1)
    assert workers_and_cores(nodes(64, 64, 0, gone=1), None) == (32, 4)
    assert workers_and_cores(nodes(16, 2), None) == (5, 3)  # the large machine holds them all
    assert workers_and_cores(nodes(64, 64), 3) == (3, 32)  # a third of all would leave room for two
    assert workers_and_cores(nodes(7, 7, 7), 4) == (4, 3)
    assert workers_and_cores(nodes(4), 9) == (4, 1)  # one a core is the most
    with pytest.raises(EnvironmentFault, match="at least one CPU core"):
        workers_and_cores(nodes(0), None)


@pytest.mark.slow
def test_a_cluster_that_goes_away_is_one_error_and_what_was_done_is_kept(colour_model: Any, tmp_path: Path) -> None:
    many(colour_model, tmp_path / "many", 60_000)
    port = free_port()
    alone = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": ""}
    start = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus", "2"]
    head = subprocess.Popen(
        [*start, "--port", str(port), "--include-dashboard", "false"],
        env=alone,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not answers(port):
            assert head.poll() is None
            time.sleep(0.1)
        words = ["predict", "many", "--artifact", str(colour_model.folder), "--out", "out.jsonl", "--engine", "ray"]
        process = subprocess.Popen(
            [sys.executable, "-m", "ftx", *words, "--workers", "2", "--address", f"127.0.0.1:{port}"],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            env=alone,
        )
        while not (done := list(parts_folder(tmp_path / "out.jsonl").glob("*.jsonl"))):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        for one in psutil.Process(head.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # Ray's processes end by themselves where another one is gone
                one.kill()
        head.kill()
        head.wait()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 3, err
    assert [line for line in err.splitlines() if line.startswith("error:")] in (
        ["error: Ray ended unexpectedly"],
        ["error: Ray ended the work"],
    )
    assert "run the command again" in err
    assert not (tmp_path / "out.jsonl").exists()
    # Paths that count from where the command was given, and not from where the cluster was started.
    assert done
    assert all(b'"error":' not in path.read_bytes() for path in done)


@pytest.fixture
def leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Let a few lines of Python lead in the place of Ray's process; where they keep what they were asked.

    They have ``asked``, and ``say`` something.
    """

    def leads(lines: str) -> Path:
        program = tmp_path / "leader"
        program.write_text(
            f"#!{sys.executable} -S\n"
            "import json, os, signal, sys, time\n"
            "def say(**told):\n    print(json.dumps(told), flush=True)\n"
            "asked = json.loads(sys.stdin.readline())\n"
            f"open({str(tmp_path / 'asked.json')!r}, 'w').write(json.dumps(asked))\n"
            f"open({str(tmp_path / 'argv.json')!r}, 'w').write(json.dumps(sys.argv))\n" + textwrap.dedent(lines)
        )
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        return tmp_path / "asked.json"

    return leads


def setup_of(colour_model: Any, address: str | None = None) -> WorkerSetup:
    return WorkerSetup(folder=colour_model.folder, scores=False, address=address, workers=None)


def test_what_was_asked_comes_to_ray_and_what_it_tells_into_the_file_and_the_report(
    colour_model: Any, tmp_path: Path, leader: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order, and more than once where a worker was lost."""
    monkeypatch.setattr(parts_module, "FILES", 5)
    monkeypatch.chdir(colour_model.folder.parent)
    kept = leader(
        """
        say(workers=3)
        for nth, part in json.loads(sys.stdin.readline())[::-1]:
            paths = [one if isinstance(one, str) else one["path"] for one in json.loads(part)["files"]]
            for lost in (2, 0):
                say(nth=nth, lost=lost, lines="".join(json.dumps({"path": path}) + "\\n" for path in paths))
        say(ended=True)
        """
    )
    images, out, listener = sorted(colour_model.images.rglob("*.png")), tmp_path / "out.jsonl", Listener()
    report = predict_to_file(
        [*images, tmp_path / "none.png"],
        out,
        Path(colour_model.folder.name),
        scores=True,
        ray=RayCluster("there:7", 9),
        progress=listener,
        coverage=0.9,
    )
    assert json.loads(kept.read_text()) == {
        "folder": str(colour_model.folder),
        "scores": True,
        "coverage": 0.9,
        "address": "there:7",
        "workers": 9,
    }
    assert (report.engine, report.workers, report.parts, report.kept, report.images) == ("ray", 3, 3, 0, 13)
    lines = [json.loads(line)["path"] for line in out.read_text().splitlines()]
    assert lines == [*map(str, images), str(tmp_path / "none.png")]
    assert len([text for text in listener.said if text.startswith("a worker was lost")]) == 3


def test_without_words_about_workers_ray_decides(colour_model: Any, leader: Callable[[str], Path]) -> None:
    kept = leader("say(workers=4)")
    with ray_workers(setup_of(colour_model), Listener()) as on_ray:
        assert on_ray.number == 4
    # The folder of the call is no place to import from: it may hold a random.py.
    assert "-P" in json.loads(kept.with_name("argv.json").read_text())
    told = json.loads(kept.read_text())
    assert (told["scores"], told["address"], told["workers"]) == (False, None, None)


def test_a_ray_that_does_not_end_is_ended(
    colour_model: Any, leader: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray_module, "_END_S", 0.2)
    leader(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say(workers=1)
        time.sleep(20)
        """
    )
    with (
        pytest.raises(KeyboardInterrupt),
        ray_workers(setup_of(colour_model), Listener()) as on_ray,
    ):
        raise KeyboardInterrupt
    assert on_ray._driver.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (
            "print('one', file=sys.stderr); print('why', file=sys.stderr); print(':info_message: x', file=sys.stderr)",
            "why",
        ),
        ("sys.exit(7)", "exit status 7"),
        ("print('{', end='')", "exit status 0"),
    ],
    ids=["last words", "no words", "half a word"],
)
def test_a_ray_that_goes_away_is_one_error_with_its_last_words(
    colour_model: Any, leader: Callable[[str], Path], lines: str, found: str
) -> None:
    leader(lines)
    with (
        pytest.raises(EnvironmentFault, match="Ray ended unexpectedly") as caught,
        ray_workers(setup_of(colour_model, "there:7"), Listener()),
    ):
        pass
    assert (caught.value.found, caught.value.where) == (found, "there:7")
    assert "run the command again" in str(caught.value.fix)


class Actor:
    """A process of Ray's that is in this one."""

    def __init__(self, made: object) -> None:
        self._made = made

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._made, name))


class RayHere(ModuleType):
    """As much of Ray as ftx calls, in this process: what it is told is kept, and each part is begun ``times``."""

    def __init__(self, cpus: Sequence[float] = (8,), times: int = 1) -> None:
        super().__init__("ray")
        self.begun: list[str] = []
        self.pools: list[tuple[int, float]] = []
        self.folders: list[object] = []
        self.actors: dict[str, Actor] = {}
        self.ended, self.fails = False, None
        self._cpus, self._times = cpus, times
        self.data = ModuleType("ray.data")
        self.data.__dict__.update(
            from_items=self._from_items,
            ActorPoolStrategy=lambda size: size,
            DataContext=SimpleNamespace(get_current=lambda: SimpleNamespace(enable_progress_bars=True)),
        )

    def init(self, address: str, **_more: object) -> None:
        self.begun.append(address)
        if self.fails:
            raise ConnectionError(self.fails)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": cpus}} for cpus in self._cpus]

    def shutdown(self) -> None:
        self.ended = True

    def get(self, answer: object) -> object:
        return answer

    def get_actor(self, name: str) -> Actor:
        return self.actors[name]

    def remote(self, **_options: object) -> Callable[[type[Any]], Any]:
        return lambda kind: SimpleNamespace(
            options=lambda name: SimpleNamespace(
                remote=lambda *given: self.actors.setdefault(name, Actor(kind(*given)))
            )
        )

    def _from_items(self, rows: Sequence[Mapping[str, Any]], override_num_blocks: int) -> Any:
        assert override_num_blocks == len(rows)

        def map_batches(
            kind: type[Any], batch_size: int, compute: int, num_cpus: float, fn_constructor_args: Sequence[object]
        ) -> Any:
            assert batch_size == 1
            self.pools.append((compute, num_cpus))
            self.folders.append(fn_constructor_args[-1])

            def iter_rows() -> Iterator[dict[str, Any]]:
                made = kind(*fn_constructor_args)
                for row in rows:
                    for _ in range(self._times):
                        predictions = made({name: [value] for name, value in row.items()})
                    yield {name: values[0] for name, values in predictions.items()}
                made._folder.cleanup()

            return SimpleNamespace(iter_rows=iter_rows)

        return SimpleNamespace(map_batches=map_batches)

    def here(self, monkeypatch: pytest.MonkeyPatch) -> RayHere:
        monkeypatch.setitem(sys.modules, "ray", self)
        monkeypatch.setitem(sys.modules, "ray.data", self.data)
        return self


@pytest.fixture
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Locks of cores of its own, and the cores and the folder of this process as they were afterwards."""
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "locks"))
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.chdir(tmp_path)
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize(
    ("address", "by_environment", "expected"),
    [
        (None, "auto", "auto"),
        ("ours", "auto", "ours"),
        ("ours", "", "ours"),
        (None, "", "local"),
        (None, None, "local"),
    ],
)
def test_the_cluster_is_the_one_that_is_named(
    address: str | None, by_environment: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = RayHere().here(monkeypatch)
    if by_environment is None:
        monkeypatch.delenv("RAY_ADDRESS")
    else:
        monkeypatch.setenv("RAY_ADDRESS", by_environment)
    asked = WorkerSetup(folder=Path("none"), scores=False, address=address, workers=None)
    assert next(lead(asked, iter(()))) == DriverMessage(workers=2)  # of eight cores
    assert ray.begun == [expected]
    ray.fails = "no\n  such Ray  \n"
    with pytest.raises(EnvironmentFault, match="Ray does not respond") as caught:
        next(lead(asked, iter(())))
    assert (caught.value.where or None, caught.value.found) == (address or by_environment or None, "such Ray")


@pytest.mark.usefixtures("own_machine")
def test_each_worker_has_the_model_the_folder_and_the_flags_of_the_job(
    colour_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = RayHere(cpus=(16, 2)).here(monkeypatch)
    os.link(next(colour_model.images.rglob("*.png")), tmp_path / "here.png")
    elsewhere = sorted(map(str, colour_model.images.rglob("*.png")))
    parts = [JobPart(files=("here.png",)), JobPart(files=(*elsewhere[:2], Prediction(path="x", error="none")))]
    folder = calibrate(Path(shutil.copytree(colour_model.folder, tmp_path / "ir")), [0.5, 0.6, 0.7, 0.8, 0.9, 0.999])
    for scores, coverage in ((True, 0.99), (False, 0.8)):
        asked = WorkerSetup(folder=folder, scores=scores, coverage=coverage, address=None, workers=3)
        given = json.dumps([(nth, part.to_json()) for nth, part in zip((4, 9), parts, strict=True)])
        first, *told, last = lead(asked, iter([given]))
        assert (first, last) == (DriverMessage(workers=3), DriverMessage(ended=True))
        assert ray.pools.pop() == (3, 5)  # Ray by itself would have five workers here
        model = load(folder, coverage=coverage)
        assert [(one.nth, one.lost) for one in told] == [(4, 0), (9, 0)]
        assert [one.lines for one in told] == [as_lines(part.predictions(model, scores=scores)) for part in parts]
    assert ray.folders == [str(tmp_path)] * 2
    assert ray.ended
    # A machine needs no folder of this name where all paths are whole.
    asked = WorkerSetup(folder=colour_model.folder, scores=False, address=None, workers=5)
    assert len(list(lead(asked, iter([json.dumps([(0, parts[1].to_json())])])))) == 3
    assert ray.folders[-1] is None
    with pytest.raises(RuntimeError, match="no folder /nowhere"):
        Worker(next(iter(ray.actors)), False, 0.95, 1, "/nowhere")


@pytest.mark.usefixtures("own_machine")
def test_images_at_which_workers_are_lost_are_given_up_after_five(
    colour_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part counts its own losses."""
    ray = RayHere().here(monkeypatch)
    files = {path.name: path.read_bytes() for path in colour_model.folder.iterdir()}
    coordinator = Coordinator(files)
    ray.actors["coordinator"] = Actor(coordinator)
    worker = Worker("coordinator", False, 0.95, 1, None)
    many = load(colour_model.folder, goal="throughput")
    assert worker._predictor.batch == many.batch  # pyright: ignore[reportAttributeAccessIssue]
    one, other = (JobPart(files=(str(path),)) for path in sorted(colour_model.images.rglob("*.png"))[:2])
    assert [coordinator.begin(7) for _ in range(4)] == [0, 1, 2, 3]
    for lost in (4, 5):
        done = worker({"nth": [7, lost], "part": [one.to_json(), other.to_json()]})
        assert (done["nth"], done["lost"]) == ([7, lost], [lost, 0])
        (first,), (second,) = (map(json.loads, lines.splitlines()) for lines in done["lines"])
        assert second["labels"]
        if lost == 4:
            assert first["labels"]
        else:
            assert first["error"].startswith("5 workers were lost, one after the other")
    worker._folder.cleanup()


@pytest.mark.usefixtures("own_machine")
def test_no_two_workers_have_a_core_in_common(colour_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as they live."""
    ray = RayHere().here(monkeypatch)
    ray.actors["coordinator"] = Actor(
        Coordinator({path.name: path.read_bytes() for path in colour_model.folder.iterdir()})
    )
    there = os.sched_getaffinity(0)
    worker = Worker("coordinator", False, 0.95, 1, None)
    first = os.sched_getaffinity(0)
    assert len(first) == 1
    os.sched_setaffinity(0, there)
    others = _own_cores(1)  # as another process would
    assert len(others) == (len(there) > 1)
    if others:
        assert os.sched_getaffinity(0).isdisjoint(first)
        os.sched_setaffinity(0, there)
    assert _own_cores(len(there)) == []  # too few are left
    assert os.sched_getaffinity(0) == there
    worker._folder.cleanup()
    del worker
    for lock in others:
        lock.release()
    assert len(_own_cores(len(there))) == len(there)  # those of whoever ended


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as opened:
        return opened.connect_ex(("127.0.0.1", port)) == 0
