"""Verbs as a person calls them, where an answer costs little: what is told, where, and with which status."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ftx.backbones.architecture_table import read_architectures
from ftx.cli import models
from ftx.cli.adapters import _of_one_base
from ftx.cli.app import run
from ftx.cli.failure import report_failure
from ftx.cli.merge import _names
from ftx.core.errors import InputError
from ftx.recipe.adapter_targets import TARGETS
from ftx.runs.card_json import read_card, write_card

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_ir_is_validated_for_a_person_and_by_its_status(colour_model: Any, capsys: Capture) -> None:
    folder = shutil.copytree(colour_model.folder, "fp32")
    assert run(["validate", str(folder)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("compared with ")
    assert "openvino/fp32" in said.out
    assert "Traceback" not in said.err


def test_an_ir_that_answers_otherwise_ends_with_status_1(colour_model: Any, capsys: Capture) -> None:
    folder = Path(shutil.copytree(colour_model.folder, "other"))
    card = read_card(folder)
    with safe_open(folder / "reference.safetensors", "np") as file:
        metadata = file.metadata()
    tensors = load_file(folder / "reference.safetensors")
    save_file(tensors | {"logits": tensors["logits"] + 1}, folder / "reference.safetensors", metadata)
    write_card(folder, card)
    assert run(["validate", str(folder)]) == 1
    said = capsys.readouterr()
    assert "FAILED" in said.out
    assert "openvino/fp32: FAILED, " in said.err


def test_none_of_the_images_is_no_number_to_compare(capsys: Capture) -> None:
    assert run(["validate", "gone", "--images", "0"]) == 2
    assert "--images" in capsys.readouterr().err
    assert run(["validate", "gone", "--images", "1"]) == 2
    said = capsys.readouterr().err
    assert "gone" in said
    assert "--images" not in said


def test_a_run_that_is_not_there_is_named(capsys: Capture) -> None:
    for verb in ("eval", "merge", "export"):
        assert run([verb, "gone"]) == 2
        assert "gone" in capsys.readouterr().err, verb


def test_data_alone_shows_its_help_and_with_a_verb_none(colour_model: Any, capsys: Capture) -> None:
    assert run(["data"]) == 2
    shown = capsys.readouterr().out
    assert "check" in shown
    assert "completion" not in shown  # that is of the program
    assert run(["data", "check", str(colour_model.images)]) == 0
    out = capsys.readouterr().out
    assert "Usage" not in out
    assert "by label" in out
    assert "label tree" not in out  # one group has no levels


def test_models_of_a_family_as_a_table(capsys: Capture) -> None:
    assert run(["models", "swinv2_tiny"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["model", "swinv2_tiny_window8_256", "swinv2_tiny_window16_256"]


def test_another_timm_than_that_of_the_table_is_noted(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    known = read_architectures().timm
    for installed in (known, "0.0.1"):
        monkeypatch.setattr(models, "version", lambda _, installed=installed: installed)
        assert run(["models", "resnet18"]) == 0
        assert ("timm 0.0.1 is installed" in capsys.readouterr().err) is (installed != known)


def test_a_port_below_0_is_none(capsys: Capture) -> None:
    assert run(["serve", "runs/x", "--port", "-1"]) == 2
    assert "--port" in capsys.readouterr().err


def test_what_a_model_is_and_how_it_is_trained(capsys: Capture) -> None:
    known = {
        "dinov2-small": ("dinov2-small, bundled: timm's vit_small_patch14_dinov2", "dora, lora, lokr, linear, full"),
        "resnet18": ("resnet18", "linear, full"),
        "gemma4_vit_167m_enc": ("gemma4_vit_167m_enc", "none: it takes no head"),
    }
    for name, (model, methods) in known.items():
        assert run(["models", name]) == 0
        facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line[0] != " ")
        assert (facts["model"], facts["methods"]) == (model, methods)


def test_a_family_has_the_targets_of_any_of_its_models(capsys: Capture) -> None:
    found: dict[str, set[str]] = {}
    for one in read_architectures().architectures:
        found.setdefault(one.family, set()).update(one.layers)
    assert run(["models"]) == 0
    rows = {line.split()[0]: line.replace(",", "").split() for line in capsys.readouterr().out.splitlines() if line}
    for family, targets in found.items():
        words = ["all"] if len(targets) == len(TARGETS) else [name for name in TARGETS if name in targets] or ["-"]
        assert rows[family][6 : 6 + len(words)] == words, family


def test_the_help_says_no_default_of_a_flag_that_is_off(capsys: Capture) -> None:
    assert run(["--help"]) == 0
    assert "default" not in capsys.readouterr().out


def test_a_word_that_is_no_text_is_refused(capsys: Capture) -> None:
    assert run(["predict", "a\udcff.png"]) == 2
    said = capsys.readouterr().err
    assert "not valid text" in said
    assert r"a\udcff.png" in said


def test_a_bug_under_debug_is_reported_with_what_stands_above(capsys: Capture) -> None:
    with pytest.raises(KeyError) as raised:
        raise KeyError("boom")
    assert report_failure(raised.value, arguments=["x"], command=None, as_json=False, debug=True) == 70
    said = capsys.readouterr().err
    assert said.index("Traceback") < said.index("error: this is a bug in ftx: KeyError: 'boom'")
    assert "report it with the traceback above" in said


def test_a_bug_leaves_a_log_with_the_command_and_the_traceback(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyError) as raised:
        raise KeyError("boom")
    assert report_failure(raised.value, arguments=["x", "a b"], command=None, as_json=False, debug=False) == 70
    (log,) = tmp_path.glob("ftx-bug-*.log")
    assert str(log) in capsys.readouterr().err
    assert "ftx x 'a b'" in log.read_text()
    assert "KeyError: 'boom'" in log.read_text()


def test_labels_are_words_between_commas() -> None:
    assert _names("u, two words,") == ["u", "two words"]
    assert _names(None) == []


@pytest.mark.parametrize("digest", ["one", "two"])
def test_adapters_of_the_newest_runs_base(digest: str, capsys: Capture) -> None:
    with pytest.raises(InputError, match="there is no adapter in runs/"):
        _of_one_base()
    for name, base in {"a": "one", "b": "one", "c": digest}.items():
        folder = Path("runs", name, "trained")
        folder.mkdir(parents=True)
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["qkv"], "ftx": {"base_digest": base}}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder.parent / "run.json").write_text("{}")
        os.utime(folder.parent / "run.json", (0, ord(name)))
    Path("runs/linear/trained").mkdir(parents=True)
    Path("runs/linear/run.json").write_text("{}")
    assert {path.name for path in _of_one_base()} == ({"a", "b", "c"} if digest == "one" else {"c"})
    said = capsys.readouterr().err
    assert ("are left out: runs/a, runs/b" in said) == (digest == "two")


def test_a_whole_run_tells_how_it_goes(colour_model: Any, capsys: Capture) -> None:
    """As far as the weights, which are not there."""
    recipe = "model: {name: vit_tiny_patch16_224, weights: gone.safetensors}\ndata: {classes: 7}\n"
    Path("recipe.yaml").write_text(recipe)
    assert run(["run", "recipe.yaml", "--data", str(colour_model.images)]) == 2
    said = capsys.readouterr().err
    assert "data.classes is 7 in the recipe, but the data has 3 labels: training uses 3" in said
    assert "gone.safetensors" in said
