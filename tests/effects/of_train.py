"""What each flag of ``ftx train`` and ``ftx data check`` does."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.effects.lab import BASE, STILL, Lab, Trained

from ftx.training import step


def _flattened(made: Trained) -> dict[str, object]:
    """The resolved recipe by dotted keys."""
    document: Mapping[str, Any] = made.recipe
    return {
        f"{section}.{key}" if isinstance(inside, dict) else section: value
        for section, inside in document.items()
        for key, value in (inside.items() if isinstance(inside, dict) else [("", inside)])
    }


def sets(key: str, expected: object, *more: str) -> Callable[[Lab, str, str], None]:
    """The flag writes this value into this key of recipe.yaml, and nothing else into any other."""

    def check(lab: Lab, flag: str, value: str) -> None:
        made = _flattened(lab.train(words=(*more, flag, *([value] if value else []))))
        plain = _flattened(lab.train(words=more))
        assert made == plain | {key: expected}
        assert plain[key] != expected

    return check


def switches(key: str, *more: str) -> Callable[[Lab, str, str], None]:
    """The flag turns a key on, and its opposite turns off what the recipe turned on."""

    def check(lab: Lab, flag: str, value: str) -> None:
        sets(key, True, *more)(lab, flag, value)
        opposite = lab.train(f"{key}=true", *(["model.peft=none"] if more else []))
        assert _flattened(opposite)[key] is True
        config = lab.root / "switched.yaml"
        document = yaml.safe_load(BASE)
        section, _, leaf = key.partition(".")
        document[section] |= {leaf: True} | ({"peft": "none"} if more else {})
        config.write_text(yaml.safe_dump(document))
        made = lab.train(words=("--config", str(config), flag.replace("--", "--no-")))
        assert _flattened(made)[key] is False

    return check


def data(lab: Lab, flag: str, value: str) -> None:
    assert lab.train(words=(flag, value)).manifest["labels"]["names"] == ["common", "rare"]


def weights(lab: Lab, flag: str, value: str) -> None:
    path = str(lab.foundation / "model.safetensors")
    sets("model.weights", path)(lab, flag, path)


def config(lab: Lab, flag: str, value: str) -> None:
    """A recipe by its name; one in a file is what every run here begins with."""
    tiny = ("--model", "test_vit", "--weights", "none", "--image-size", "32", "--data", "noise", "--dry-run", "--json")
    assert lab.done("train", flag, value, *tiny).json["method"] == "linear"
    assert lab.done("train", *tiny).json["method"] == "dora"


def set_(lab: Lab, flag: str, value: str) -> None:
    assert lab.train(words=(flag, value)).recipe["train"]["weight_decay"] == 0.25
    assert lab.train().recipe["train"]["weight_decay"] == 0


def out(lab: Lab, flag: str, value: str) -> None:
    """The folder that is named, else one in runs/; never one that is there."""
    words = ("train", "--config", "base.yaml", "--json")
    assert lab.done(*words, flag, value).json["run"] == value
    assert (lab.root / value / "run.json").is_file()
    assert lab.done(*words).json["run"] == "runs/noise-lora"
    assert lab.call(*words, flag, value).status == 2


def preset(lab: Lab, flag: str, value: str) -> None:
    """Below what a flag says."""
    tiny = ("--model", "test_vit", "--weights", "none", "--image-size", "32", "--data", "noise", "--dry-run", "--json")
    for words, found in (
        ((), ("dora", "light")),
        ((flag, value), ("linear", "none")),
        ((flag, value, "--augment", "light", "--set", "train.head_init=random"), ("linear", "light")),
    ):
        report = lab.done("train", *tiny, *words).json
        assert (report["method"], report["augment"]) == found


def method(lab: Lab, flag: str, value: str) -> None:
    plain = _flattened(lab.train())
    for name, keys in (
        ("dora", {"model.peft": "dora"}),
        ("linear", {"model.peft": "none", "model.freeze_backbone": True}),
        ("full", {"model.peft": "none"}),
    ):
        made = _flattened(lab.train(words=(flag, name)))
        assert {key: made[key] for key in ("model.peft", "model.freeze_backbone")} == {
            key: keys.get(key, plain[key]) for key in ("model.peft", "model.freeze_backbone")
        }
    said = lab.call("train", "--config", "base.yaml", "--dry-run", flag, "dorra")
    assert (said.status, "did you mean 'dora'?" in said.err) == (2, True)
    assert lab.call("train", "--config", "base.yaml", "--dry-run", flag, "dora", "--peft", "dora").status == 2


def device(lab: Lab, flag: str, value: str) -> None:
    words = ("train", "--config", "base.yaml", "--dry-run", "--json", flag)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")
        assert lab.call(*words, value).status == (0 if torch.cuda.is_available() else 3)
        assert lab.call(*words, "gpu").status == 2
        assert lab.done(*words, "cpu").json["ok"]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def budget(lab: Lab, flag: str, value: str) -> None:
    seconds = float(value.removesuffix("s"))
    started = time.perf_counter()
    made = lab.train("train.epochs=10000", "train.patience=10000", words=(flag, value))
    assert 1 <= made.recipe["train"]["epochs"] < 10_000
    assert len(made.log) == made.recipe["train"]["epochs"]
    assert time.perf_counter() - started < 3 * seconds  # two tests may share a core


def begin_from(lab: Lab, flag: str, value: str) -> None:
    """The recipe is the run's but for what is given beside, and so are the tensors where nothing moves."""
    before = lab.train("adapter.rank=3", "train.batch_size=5")
    out = lab.root / "begun"
    said = lab.call("train", flag, before.path, "--set", STILL, "--epochs", "2", "--out", out, "--json")
    assert said.status == 0, said.err
    made = Trained(out, said)
    assert (made.recipe["adapter"]["rank"], made.recipe["train"]["batch_size"]) == (3, 5)
    assert made.recipe["train"]["epochs"] == 2
    assert made.recipe["model"]["from_run"] == str(before.path)
    for name, tensor in before.tensors.items():
        assert np.array_equal(made.tensors[name], tensor), name


def resume(lab: Lab, flag: str, value: str) -> None:
    sets = ("train.epochs=2", "train.batch_size=16")
    whole = lab.train(*sets)
    run = lab.root / "ended"
    words = ("--config", "base.yaml", "--data", lab.root / "noise", *(f"--set={one}" for one in sets))
    forward_backward = step.forward_backward

    def then_end(*arguments: Any) -> Any:
        answer = forward_backward(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "forward_backward", then_end)
        said = lab.call("train", *words, "--out", run)
    assert said.status == 143
    assert f"ftx train --resume {run}" in said.err
    assert not (run / "run.json").exists()
    for more in (("--set", "train.epochs=3"), ("--epochs", "3")):  # the recipe is the run's
        assert lab.call("train", flag, run, *more).status == 2
    with lab.moved("noise") as elsewhere:
        assert lab.call("train", flag, run).status == 2
        lab.done("train", flag, run, "--data", elsewhere)
    (made,), (expected,) = ((one / "trained").glob("*.safetensors") for one in (run, whole.path))
    assert made.read_bytes() == expected.read_bytes()
    assert lab.call("train", flag, run).status == 2  # it has ended


def strict(lab: Lab, flag: str, value: str) -> None:
    words = ("train", "--config", "base.yaml", "--set=data.classes=3", "--dry-run")
    assert lab.call(*words, flag).status == 2
    assert lab.call(*words).status == 0
    assert lab.call(*words[:-1], "--out", lab.root / "strict", flag).status == 2  # a training, too
    assert not (lab.root / "strict").exists()


def dry_run(lab: Lab, flag: str, value: str) -> None:
    said = lab.done("train", "--config", "base.yaml", "--out", "dry", flag, "--json").json
    assert not (lab.root / "dry").exists()
    # rank (64 + 64) of each of q, k, v and proj, rank (64 + 192) of fc1 and fc2, in six blocks; 64 · 2 + 2 of the head
    assert said["trainable_parameters"] == 6 * 4 * (4 * 128 + 2 * 256) + 130
    assert len(said["layers"]) == 24
    # Of what a budget leaves of the epochs, as the training itself would.
    sets = ("--set=train.epochs=5000", "--set=train.compile=none")
    words = ("train", "--config", "base.yaml", *sets, flag, "--json")
    whole, fewer = (lab.done(*words, *more).json for more in ((), ("--budget", "2s")))
    assert whole["epochs"] == 5000
    assert 1 <= fewer["epochs"] < 5000
    assert fewer["seconds"] < whole["seconds"]
    assert lab.call(*words, "--budget", "soon").status == 2


def check_path(lab: Lab, flag: str, value: str) -> None:
    said = lab.done("data", "check", value, "--json").json
    assert said["counts"] == {"common": {"train": 20, "val": 2}, "rare": {"train": 2, "val": 2}}
    assert lab.call("data", "check", "nowhere").status == 2


def check_task(lab: Lab, flag: str, value: str) -> None:
    said = [lab.done("data", "check", "noise", *words, "--json").json for words in ((), (flag, value))]
    assert [(one["task"], one["task_named"]) for one in said] == [("multiclass", False), ("multilabel", True)]


def check_format(lab: Lab, flag: str, value: str) -> None:
    said = lab.call("data", "check", "noise", flag, value)
    assert said.status in (2, 3)
    assert "datumaro" in said.err
    assert lab.call("data", "check", "noise").status == 0


def check_links(lab: Lab, flag: str, value: str) -> None:
    assert lab.call("data", "check", lab.linked()).status == 2
    assert lab.call("data", "check", lab.linked(), flag).status == 0


def check_more(lab: Lab, flag: str, value: str) -> None:
    plain, measured = (lab.done("data", "check", "noise", *words, "--json").json for words in ((), (flag,)))
    assert not any("learning curve" in warning for warning in plain["warnings"])
    assert any("no learning curve: " in warning for warning in measured["warnings"])  # of so few images


def links(lab: Lab, flag: str, value: str) -> None:
    words = ("train", "--config", "base.yaml", "--data", lab.linked(), "--dry-run")
    assert lab.call(*words, "--no-follow-links").status == 2
    assert lab.call(*words, flag).status == 0


def as_json(*words: str, verb: str, status: int = 0) -> Callable[[Lab, str, str], None]:
    """One JSON object on stdout in the place of what a person reads."""

    def check(lab: Lab, flag: str, value: str) -> None:
        said, plain = lab.call(*words, flag), lab.call(*words)
        assert (said.status, plain.status) == (status, status), said.err
        assert said.json["verb"] == verb
        assert said.json["ok"] == (status == 0)
        try:
            answer: object = json.loads(plain.out)
        except ValueError:
            return
        raise AssertionError(answer)

    return check
