"""From shards to a device: what is trained, proved, evaluated and predicted on archives, and on files alike."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from tests.conftest import one_int8_setting, write_data
from tests.effects.lab import call

from ftx.data.shards.write import write_shards

TRAIN = ("train", "--data", "shards", "--model", "test_vit", "--weights", "none", "--image-size", "32", "--epochs", "2")


@pytest.mark.slow
def test_a_run_on_shards_goes_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(Path("data"), 24)
    write_shards(Path("data"), Path("shards"), per_shard=20)
    for words in (
        [*TRAIN, "--out", "run"],
        ["merge", "run"],
        ["export", "run", "--format", "openvino", "--precision", "fp32", "--precision", "int8"],
        ["validate", "run", "--data", "shards"],
        ["report", "run"],
        ["explain", "shards/0000.tar", "--artifact", "run", "--out", "maps"],
    ):
        with one_int8_setting():
            said = call(*words)
        assert said.status == 0, (words, said.err)
    last = len(list(Path("shards").glob("*.tar"))) - 1
    evaluated = call("eval", "run", "--data", f"shards/{{0000..{last:04d}}}.tar", "--json").json
    # The very images as files.
    Path("files").mkdir()
    for shard in sorted(Path("shards").glob("*.tar")):
        with tarfile.open(shard) as archive:
            archive.extractall(Path("files", shard.name), filter="data")
    answers = [answered(where) for where in ("shards", "files")]
    assert len(answers[0]) == 24 * 4
    assert [dict(one, path="") for one in answers[0]] == [dict(one, path="") for one in answers[1]]
    assert {str(one["path"]).removeprefix("shards/") for one in answers[0]} == {
        str(one["path"]).removeprefix("files/") for one in answers[1]
    }
    assert call("eval", "run", "--data", "files", "--json").json["accuracy"] == evaluated["accuracy"]
    assert [path.name for path in Path("maps").iterdir()]


def answered(where: str) -> list[dict[str, object]]:
    said = call("predict", where, "--artifact", "run/openvino/fp32", "--json")
    assert said.status == 0
    return [json.loads(line) for line in said.out.splitlines()]


def test_a_shard_that_is_cut_is_one_answer_and_the_rest_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(Path("data"), 3)
    write_shards(Path("data"), Path("shards"), per_shard=6)
    Path("shards/0000.tar").write_bytes(Path("shards/0000.tar").read_bytes()[:3000])
    from ftx.core.errors import ImageError
    from ftx.evaluating.predict import find_images

    found = find_images("shards")
    assert isinstance(found[0].image, ImageError)
    assert found[0].name == "shards/0000.tar"
    assert found[0].image.what.startswith("the shard is incomplete")
    assert len(found) == 7
