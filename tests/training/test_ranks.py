"""Several processes train what one trains; when one is lost the others end with one message, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tests.conftest import write_data
from tests.zygote import Zygote

import ftx
from ftx.core.progress import SILENT
from ftx.data.image_store import ImageStore
from ftx.data.shards.shard_wise import AT_HAND
from ftx.data.shards.write import write_shards
from ftx.runs.best_epoch import rank
from ftx.runs.run import Run
from ftx.runs.run_json import checkpoint_records
from ftx.runs.train_jsonl import read_epochs
from ftx.training.checkpoints import newest
from ftx.training.inputs import part_of
from ftx.training.ranks import Ranks

# At a port that is free, as another torchrun may have the usual one.
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
PROGRAM = Path(__file__).with_name("together.py")
TRAIN = ("train", "--data", "data", "--model", "test_vit", "--weights", "none", "--image-size", "32", "--peft", "lora")
TRAIN = (*TRAIN, "--set", "train.precision=f32")  # in bf16, which a CPU may have, sums differ by more
Trainer = Callable[..., tuple[str, str]]
OFTEN = ("--blocks", "all", "--batch-size", "6", "--set", "train.checkpoint_minutes=0.001")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ranks")
    write_data(root / "data", 11)
    return root


def started(folder: Path, processes: int, *words: str) -> subprocess.Popen[str]:
    """ftx in so many processes, each of one thread."""
    launcher = (*TORCHRUN, str(processes)) if processes > 1 else (sys.executable,)
    return subprocess.Popen(
        [*launcher, "-m", "ftx", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def ftx_in(fresh_ftx: Zygote) -> Trainer:
    """``ftx_in(2, folder, "train", ...)``: so many processes that are forked, which saves each its imports."""

    def done(processes: int, folder: Path, *words: str, cache_home: Path | None = None) -> tuple[str, str]:
        home = {} if cache_home is None else {"XDG_CACHE_HOME": str(cache_home)}
        ended = fresh_ftx(*words, cwd=folder, ranks=processes, environment=home)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout, ended.stderr

    return done


@given(st.integers(0, 40), st.integers(1, 9))
def test_the_parts_of_a_batch_are_the_batch(images: int, world: int) -> None:
    batch = list(range(images))
    parts = [Ranks(rank, world, rank, world).part(batch) for rank in range(world)]
    assert [image for part in parts for image in part] == batch
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_of_an_empty_part_an_image_stands_in_that_does_not_count() -> None:
    batch = [("view", 0)]
    parts = [part_of(batch, Ranks(rank, 2, rank, 2)) for rank in range(2)]  # pyright: ignore[reportArgumentType]
    assert [(list(part.mine), part.counts) for part in parts] == [(batch, 0), (batch, 1)]


@cache
def in_float64(
    fresh: Zygote, root: Path, task: str, processes: int, *more: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The weights, logits and losses of a training, which are the same in each process."""
    out = ended_in_float64(fresh, root, task, processes, *more)
    files = [out / f"{rank}.safetensors" for rank in range(processes)]
    with safe_open(files[0], "pt") as opened:
        losses = opened.metadata()
    for first, other in pairwise(map(load_file, files)):
        assert all(torch.equal(first[name], other[name]) for name in first)
    return load_file(files[0]), losses


def ended_in_float64(fresh: Zygote, root: Path, task: str, processes: int, *more: str) -> Path:
    out = root / " ".join([task, str(processes), *(Path(word).name for word in more)])
    out.mkdir()
    done = fresh(task, out, *more, ranks=processes, program=PROGRAM)
    assert done.returncode == 0, done.stderr
    return out


def assert_same(fresh: Zygote, root: Path, task: str, found: tuple[dict[str, torch.Tensor], dict[str, str]]) -> None:
    """What one process without a stop makes.

    Sums of some hundred products in another order, over five steps: 1e-15 was measured, and 1e-9 is far from any
    mistake in who computes what (an image that is counted twice moves a weight by 1e-3).
    """
    (alone, losses), (together, others) = in_float64(fresh, root, task, 1), found
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        assert torch.allclose(tensor, together[name], rtol=0, atol=1e-9), name
    assert all(abs(float(losses[name]) - float(others[name])) < 1e-9 for name in losses)


@pytest.mark.parametrize(
    ("task", "processes"),
    [
        pytest.param("multiclass", 2, marks=pytest.mark.representative),
        pytest.param("multilabel", 2, marks=pytest.mark.slow),
        pytest.param("hierarchical", 4, marks=pytest.mark.slow),
    ],
)
def test_in_float64_an_epoch_of_sgd_ends_with_the_weights_of_one_process(
    task: str, processes: int, fresh_ftx: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp()
    assert_same(fresh_ftx, root, task, in_float64(fresh_ftx, root, task, processes))


@pytest.mark.parametrize(
    "processes", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.representative)]
)
def test_a_batch_that_is_computed_in_parts_is_the_same_batch(
    processes: int, fresh_ftx: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp()
    assert_same(fresh_ftx, root, "hierarchical", in_float64(fresh_ftx, root, "hierarchical", processes, "--parts", "2"))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_training_goes_on_with_another_number_of_processes_to_the_same_weights(
    before: int, after: int, fresh_ftx: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp()
    begun = ended_in_float64(fresh_ftx, root, "hierarchical", before, "--cut", "3")
    assert (begun / "record.json").is_file()
    assert_same(
        fresh_ftx, root, "hierarchical", in_float64(fresh_ftx, root, "hierarchical", after, "--begun", str(begun))
    )


@pytest.mark.slow
def test_with_adamw_logits_are_apart_by_what_rounding_makes_of_it(
    fresh_ftx: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """AdamW divides by small second moments, so it enlarges rounding, by how much float64 tells.

    With another number of processes nothing but the order of sums is another. What of that reaches the logits goes, as
    long as it is small, with the unit roundoff: 2^-53 in float64, and 2^29 times that in float32.
    """
    root = tmp_path_factory.getbasetemp()

    def apart(*more: str) -> float:
        alone, *others = (
            in_float64(fresh_ftx, root, "multilabel", number, "--adamw", *more)[0]["logits"] for number in (1, 2, 4)
        )
        return max(float((alone - other).abs().max()) for other in others)

    in_64, in_32 = apart(), apart("--float32")
    # The largest of 48 logits, once of few errors and once of others, differ by less than this.
    by_chance = 8
    assert 0 < in_32 < by_chance * 2**29 * in_64
    assert in_64 < 1e-12  # and not since float64's are far apart as well


@pytest.mark.slow
@pytest.mark.parametrize("trained_part", ["all", "2", "head"])  # "2": the others are computed once, and kept
def test_with_adamw_the_same_epoch_is_the_best_and_logits_agree(
    trained_part: str, ftx_in: Trainer, here: Path, tmp_path: Path
) -> None:
    part = ("--peft", "none", "--freeze-backbone") if trained_part == "head" else ("--blocks", trained_part)
    words = (*TRAIN, *part, "--epochs", "4", "--batch-size", "6", "--set", "train.augment=light")
    runs: list[Run] = []
    for processes in (1, 2, 4):
        name = f"{trained_part}-{processes}"
        out, err = ftx_in(processes, here, *words, "--out", name, cache_home=tmp_path / name)
        assert out.count("best epoch") == 1  # it is said once
        assert err.count("next: ftx merge") == 1
        runs.append(Run.open(here / name))
    logits = [held_out(run) for run in runs]
    for run, found in zip(runs[1:], logits[1:], strict=True):
        alone, together = read_epochs(runs[0].path), read_epochs(run.path)
        for one, other in zip(alone, together, strict=True):
            assert other.metrics == pytest.approx(one.metrics, abs=1e-6)
            assert other.loss == pytest.approx(one.loss, rel=1e-5)
        best, same = (max(epochs, key=partial(rank, metric="accuracy")).epoch for epochs in (alone, together))
        assert best == same
        # Of 20 steps each rounds sums in another order (2e-7 of the largest logit was measured), which AdamW's division
        # by small second moments may enlarge; an image too many or too few in a batch moves logits by some percent.
        assert np.abs(found - logits[0]).max() < 1e-4 * np.abs(logits[0]).max()


@pytest.mark.slow
def test_images_of_many_shards_are_trained_on_alike_and_the_run_goes_on(ftx_in: Trainer, tmp_path: Path) -> None:
    """So many that their order goes from shard to shard; one process is stopped amid an epoch, and two go on."""
    write_data(tmp_path / "data", 34)
    write_shards(tmp_path / "data", tmp_path / "shards", per_shard=1)
    words = (*TRAIN, "--data", "shards", *OFTEN, "--epochs", "3", "--set", "train.augment=light")
    for processes in (1, 2):
        ftx_in(processes, tmp_path, *words, "--out", f"{processes}")
    alone, together = (Run.open(tmp_path / f"{processes}") for processes in (1, 2))
    process = started(tmp_path, 1, *words, "--out", "stopped")
    while not checkpoint_records(tmp_path / "stopped"):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode in (0, 143)
    ftx_in(2, tmp_path, "train", "--resume", "stopped")
    assert len(alone.entries("train")) > AT_HAND
    losses = [one.loss for one in read_epochs(alone.path)]
    for other in (together.path, tmp_path / "stopped"):
        assert [epoch.loss for epoch in read_epochs(other)] == pytest.approx(losses, rel=1e-5)


def held_out(run: Run) -> np.ndarray:
    store = ImageStore(run.path.parent / "data")
    model = ftx.load(run.path / "trained")
    return np.stack(list(model.logits_from_files([store[one] for one in run.report_entries()])))


@pytest.fixture(params=[0, 1])
def killed(here: Path, request: pytest.FixtureRequest) -> tuple[Path, str, float]:
    """A run of three processes one of which was killed in the third epoch; what was said, and how long it took.

    Alone the store by which they met goes with the first.
    """
    run = here / "killed"
    shutil.rmtree(run, ignore_errors=True)
    process = started(here, 3, *TRAIN, *OFTEN, "--epochs", "40", "--out", "killed")
    while len(read_epochs(run)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(workers(process.pid)[request.param], signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    return run, err, time.monotonic() - began


def workers(launcher: int) -> list[int]:
    """The processes that torchrun started, by rank."""
    found: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            said = dict(one.split("=", 1) for one in (folder / "environ").read_text().split("\0") if "=" in one)
        except (OSError, ValueError):
            continue
        if parent == launcher and "RANK" in said:
            found[int(said["RANK"])] = int(folder.name)
    return [found[rank] for rank in sorted(found)]


@pytest.mark.slow
def test_a_lost_process_ends_all_with_one_message_and_the_run_goes_on(
    killed: tuple[Path, str, float], here: Path
) -> None:
    run, err, seconds = killed
    assert seconds < 60
    ours = [line for line in err.splitlines() if line.startswith("error:")]
    assert ours == ["error: another process of this training was lost"]
    process = started(here, 1, "train", "--resume", run.name)  # with another number of processes
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "started with 3 processes" in err
    epochs = read_epochs(run)
    assert [one.epoch for one in epochs] == list(range(1, len(epochs) + 1))
    assert Run.open(run).manifest.labels.names


@pytest.mark.slow
def test_what_all_meet_is_said_once(here: Path) -> None:
    process = started(here, 2, "train", "--data", "absent")
    out, err = process.communicate(timeout=120)
    assert out == ""
    assert err.count("error:") == 1
    process = started(here, 2, *TRAIN, "--lr", "evil")
    assert process.communicate(timeout=120)[1].count("error:") == 1


@pytest.mark.parametrize(
    ("different", "of_the_second", "found"),
    [
        pytest.param(  # as through a mount of its own, in which an image is another
            "images", "words[2] = 'b'", "their digest: ", marks=pytest.mark.representative
        ),
        pytest.param("recipes", "words += ['--lr', '2e-3']", "in rank 0, 0.002 in rank 1\n", marks=pytest.mark.slow),
        pytest.param(
            "versions",
            "import torch; torch.__version__ = '2.0.0'",
            "in rank 0, 2.0.0 in rank 1\n",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_processes_that_differ_end_with_one_error(
    different: str, of_the_second: str, found: str, fresh_ftx: Zygote, here: Path, tmp_path: Path
) -> None:
    first, second = (tmp_path / name for name in ("a", "b"))
    shutil.copytree(here / "data", first)
    shutil.copytree(here / "data", second)
    Image.new("RGB", (40, 40), "white").save(next(second.rglob("*.png")))
    script = program(tmp_path, of_the_second, of_all="words[2] = 'a'")
    process = fresh_ftx(cwd=tmp_path, ranks=2, program=script)
    assert process.returncode != 0
    assert process.stderr.count("error:") == 1, process.stderr
    assert f"different {different}" in process.stderr, process.stderr
    assert found in process.stderr, process.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_the_second", "said"),
    [
        ("words += ['--config', 'absent.yaml']", "absent.yaml"),  # as on a machine that has not the whole folder
        ("import torch; torch.cuda.device_count = lambda: 1", "--nproc-per-node must be at most 1"),
    ],
)
def test_what_one_meets_before_the_others_is_said_by_that_one(
    of_the_second: str, said: str, here: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    process = by_torchrun(here, program(tmp_path, of_the_second))
    assert process.returncode != 0
    assert process.stderr.count("error:") == 1, process.stderr
    assert said in process.stderr.partition("error:")[2], process.stderr
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_budget_is_asked_of_a_process_s_part_of_a_batch(fresh_ftx: Zygote, here: Path, tmp_path: Path) -> None:
    told = (
        "import ftx.training.estimate as budget; known = budget.rehearse\n"
        "def rehearse(found):\n"
        "    os.write(1, f'rehearsed with {found.recipe.train.batch_size}\\n'.encode())\n"
        "    return known(found)\n"
        "budget.rehearse = rehearse\n"
        "words += ['--budget', '1h', '--batch-size', '7', '--epochs', '1']"
    )
    process = fresh_ftx(cwd=here, ranks=2, program=program(tmp_path, "pass", of_all=told))
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("rehearsed with 4\n") == 2
    assert Run.open(tmp_path / "run").recipe().train.batch_size == 7


@pytest.mark.slow
def test_attention_is_computed_as_the_first_process_has_chosen(fresh_ftx: Zygote, here: Path, tmp_path: Path) -> None:
    """However little memory is free where another looks."""
    told = (
        "import ftx.training.loop as loop\n"  # two processes share the pipe, which takes a write at once
        "def tell(module):\n"
        "    found = {one.fused_attn for one in module.modules() if hasattr(one, 'fused_attn')}\n"
        "    os.write(1, f'fused: {found}\\n'.encode())\n"
        "loop.prove_reach = tell\n"
        "words += ['--epochs', '1', '--blocks', 'all']"
    )
    no_memory = "import ftx.training.opening as it; it.available_bytes = lambda: 0"
    process = fresh_ftx(cwd=here, ranks=2, program=program(tmp_path, no_memory, of_all=told))
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("fused: {False}\n") == 2, process.stdout


@pytest.mark.slow
def test_what_would_fit_is_said_of_a_process(fresh_ftx: Zygote, here: Path, tmp_path: Path) -> None:
    full = (
        "import torch, ftx.training.loop as loop\n"
        "def full(module):\n"
        "    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')\n"
        "loop.prove_reach = full"
    )
    process = fresh_ftx(cwd=here, ranks=2, program=program(tmp_path, "pass", of_all=full))
    assert process.stderr.count("error:") == 1, process.stderr
    assert "not enough memory" in process.stderr
    assert " in each process\n" in process.stderr


@pytest.mark.slow
def test_a_process_that_falls_silent_in_a_step_is_missed(here: Path, tmp_path: Path) -> None:
    """As a machine without power, which closes no connection."""
    patience = "import datetime, ftx.training.ranks as ranks\nranks._LONGEST_STEP = datetime.timedelta(seconds=8)"
    silent = (
        "import signal, ftx.training.loop as loop\n"
        "    loop.prove_reach = lambda module: os.kill(os.getpid(), signal.SIGSTOP)"  # in its first step
    )
    process = by_torchrun(here, program(tmp_path, silent, of_all=patience))
    assert process.returncode != 0
    ours = [line for line in process.stderr.splitlines() if line.startswith("error:")]
    assert ours == ["error: another process of this training was lost"], process.stderr


def program(folder: Path, of_the_second: str, of_all: str = "") -> Path:
    """A training as the command line begins it, in which the second process has something of its own."""
    path = folder / "program.py"
    path.write_text(
        "import os, sys\n"
        "from ftx.cli.app import run\n"
        f"words = {[*TRAIN, '--out', str(folder / 'run')]!r}\n"
        f"{of_all}\n"
        "if os.environ['RANK'] == '1':\n"
        f"    {of_the_second}\n"
        "sys.exit(run(words))\n"
    )
    return path


def by_torchrun(here: Path, script: Path) -> subprocess.CompletedProcess[str]:
    """What two processes of a program say; torchrun ends the other where one fails."""
    return subprocess.run([*TORCHRUN, "2", script], cwd=here, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_a_signal_to_all_leaves_one_checkpoint_and_one_message(here: Path) -> None:
    shutil.rmtree(here / "stopped", ignore_errors=True)
    process = started(here, 2, *TRAIN, *OFTEN, "--epochs", "400", "--out", "stopped")
    while len(read_epochs(here / "stopped")) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert err.count("ftx train --resume stopped") == 1, err
    assert newest(here / "stopped", SILENT).checkpoint.record.position.epoch >= 2
