"""Workers on Ray answer as one process does; one that is killed begins again, and no answer is lost or comes twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftx.core.errors import EnvironmentFault
from ftx.data.shards.write import write_shards
from ftx.evaluating.predict import predict
from ftx.scaling.job import parts_folder
from ftx.scaling.ray_driver import shares


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
    assert "this file is there already" in process.communicate(timeout=180)[1]


def test_each_worker_has_its_share_of_the_cores() -> None:
    def nodes(*cpus: float, gone: int = 0) -> list[dict[str, Any]]:
        alive = [{"Alive": True, "Resources": {"CPU": each} if each else {}} for each in cpus]
        return [*alive, *({"Alive": False, "Resources": {"CPU": 64}} for _ in range(gone))]

    assert shares(nodes(2), None) == (1, 2)
    assert shares(nodes(2), 2) == (2, 1)
    assert shares(nodes(64, 64, 0, gone=1), None) == (32, 4)
    assert shares(nodes(16, 2), None) == (5, 3)  # the large machine holds them all
    assert shares(nodes(64, 64), 3) == (3, 32)  # a third of all would leave room for two
    assert shares(nodes(7, 7, 7), 4) == (4, 3)
    assert shares(nodes(4), 9) == (4, 1)  # one a core is the most
    with pytest.raises(EnvironmentFault, match="no cores"):
        shares(nodes(0), None)


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
        ["error: Ray went away"],
        ["error: Ray ended the work"],
    )
    assert "run the command again" in err
    assert not (tmp_path / "out.jsonl").exists()
    # Paths that count from where the command was given, and not from where the cluster was started.
    assert done
    assert all(b'"error":' not in path.read_bytes() for path in done)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as opened:
        return opened.connect_ex(("127.0.0.1", port)) == 0
