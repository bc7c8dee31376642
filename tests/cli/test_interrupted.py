"""Ctrl-C and worse, while ``ftx train`` runs as a user runs it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WORDS = "train --data data --model vit_tiny_patch16_224 --weights none --image-size 32 --epochs 500 --json"
PATIENT = ("--set", "train.patience=500")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path


def ftx(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ftx", *words], cwd=cwd, capture_output=True, text=True, check=False)


def train_until(
    folder: Path, line: str, number: signal.Signals, words: str = WORDS, more: tuple[str, ...] = PATIENT
) -> tuple[int, str]:
    """Start training, send the signal once the line appears on stderr; status and what stood on stdout."""
    command = [sys.executable, "-m", "ftx", *words.split(), *more]
    # A group of its own: Ctrl-C reaches every process of a group.
    with subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for said in process.stderr:
            if said.startswith(line):
                os.killpg(process.pid, number)
                break
        rest = process.stderr.read()
        assert "Traceback" not in rest
        return process.wait(), process.stdout.read()


@pytest.mark.slow
def test_ctrl_c_keeps_the_best_epoch_and_says_130(folder: Path) -> None:
    status, answer = train_until(folder, "epoch 2:", signal.SIGINT)
    assert status == 130
    report = json.loads(answer)
    assert report["interrupted"]
    assert report["best_epoch"] >= 1
    # It is a whole run: the next verb takes it.
    merged = ftx("merge", cwd=folder)
    assert merged.returncode == 0, merged.stderr


@pytest.mark.slow
def test_ctrl_c_in_the_training_of_a_whole_run_stops_it_there(folder: Path) -> None:
    sets = "model.name=vit_tiny_patch16_224 model.weights=none data.image_size=32 train.epochs=500".split()
    words = " ".join(["run multiclass-lora --data data --json", *(f"--set {one}" for one in sets)])
    status, answer = train_until(folder, "epoch 2:", signal.SIGINT, words)
    assert status == 130
    error = json.loads(answer)["error"]
    assert "contains the best epoch so far" in error["found"]
    run = folder / error["fix"].rpartition(" ")[2]
    assert (run / "trained").is_dir()
    assert not (run / "dense").exists()


@pytest.mark.representative
def test_ctrl_c_before_there_is_anything_to_keep_leaves_nothing(folder: Path) -> None:
    status, _ = train_until(folder, "there is no test/", signal.SIGINT)
    assert status == 130
    assert not list(folder.glob("runs/*"))


@pytest.mark.slow
@pytest.mark.usefixtures("can_hang_up")
def test_a_terminal_that_is_closed_saves_the_training(folder: Path) -> None:
    command = [sys.executable, "-m", "ftx", *WORDS.split(), *PATIENT]
    ours, its = pty.openpty()
    with subprocess.Popen(
        command, cwd=folder, stdin=its, stdout=its, stderr=its, start_new_session=True, preexec_fn=_take_terminal
    ) as process:
        os.close(its)
        said = b""
        while b"epoch 2:" not in said:
            said += os.read(ours, 4096)
        os.close(ours)  # from now on there is nobody to write to
        assert process.wait(60) == 143
    (run,) = (path for path in folder.glob("runs/*") if not path.name.startswith("."))
    assert list(run.glob("checkpoints/*.json"))


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_an_ended_training_is_no_run_until_it_was_resumed(folder: Path, number: signal.Signals, status: int) -> None:
    found, answer = train_until(folder, "epoch 2:", number)
    assert found == status
    (run,) = (path for path in folder.glob("runs/*") if not path.name.startswith("."))
    resume = f"ftx train --resume runs/{run.name}"
    if number == signal.SIGTERM:
        assert resume == json.loads(answer)["error"]["fix"]
    refused = ftx("merge", f"runs/{run.name}", cwd=folder)
    assert refused.returncode == 2
    assert resume in refused.stderr
    # It goes on with the epoch that it was in, and a Ctrl-C keeps what it has, to be gone on with again.
    goes_on, answer = train_until(folder, "epoch 4:", signal.SIGINT, f"train --resume runs/{run.name} --json", ())
    assert goes_on == 130
    report = json.loads(answer)
    assert report["interrupted"]
    assert report["run"] == f"runs/{run.name}"
    lines = (run / "reports" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    assert ftx("merge", cwd=folder).returncode == 0
    assert list(run.glob("checkpoints/*.json"))
    if number == signal.SIGTERM:
        terminate_export(folder, run)


def terminate_export(folder: Path, run: Path) -> None:
    """Once it has begun to write: nothing of it stays."""
    command = [sys.executable, "-m", "ftx", "export", "--format", "openvino"]
    with subprocess.Popen(command, cwd=folder, text=True, stderr=subprocess.PIPE) as process:
        while process.poll() is None and not list(run.glob("openvino/.ftx-partial-*")):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
    assert process.returncode == 143
    assert "error: terminated" in said
    assert not list(run.glob("openvino/*"))
    assert not list(run.glob("openvino/.ftx-partial-*"))
