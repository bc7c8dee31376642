"""No document makes ftx ask another machine, or a file system of fsspec's: each field that can hold a path is tried."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from tests.conftest import write_data
from tests.effects.lab import Said
from tests.effects.lab import call as call_in_words
from tests.gates.faults import edit_json, vouch

from ftx.core.addresses import SCHEMES

ADDRESSES = (
    "reference://::evil.tar/y.png",
    "http://127.0.0.1:9/x.tar/y.png",
    "https:/127.0.0.1/x.tar/y.png",
    "HTTP://127.0.0.1:9/x.tar/y.png",
    "file:///etc/outside.tar/y.png",
    "local://outside.tar/y.png",
    "simplecache::http://127.0.0.1:9/x.tar/y.png",
    "memory://x.tar/y.png",
    "github://who:what@main/x.tar/y.png",
    "s3://bucket/x.tar/y.png",
)


@pytest.fixture(autouse=True)
def nothing_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(address: object) -> NoReturn:
        pytest.fail(f"{address} was asked for")

    monkeypatch.setattr("ftx.data.shards.fetched._file_system", reached)


def call(*words: object) -> Said:
    return call_in_words(*map(str, words))


def csv(folder: Path, address: str, good: list[str]) -> str:
    (folder / "t.csv").write_text("path,label\n" + "".join(f"{one},{one[0]}\n" for one in good) + f"{address},r\n")
    return "t.csv"


def jsonl(folder: Path, address: str, good: list[str]) -> str:
    lines = [json.dumps({"path": one, "labels": [one[0]]}) for one in [*good, address]]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return "t.jsonl"


def metadata(folder: Path, address: str, good: list[str]) -> str:
    csv(folder, address, good)
    (folder / "t.csv").rename(folder / "metadata.csv")
    return "."


def coco(folder: Path, address: str, good: list[str]) -> str:
    names = [*good, address]
    document = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": number % 2} for number, _ in enumerate(names)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate("ab")],
    }
    (folder / "coco.json").write_text(json.dumps(document))
    return "coco.json"


def datumaro(folder: Path, address: str, good: list[str]) -> str:
    items = [
        {"id": name, "image": {"path": name}, "annotations": [{"id": 0, "type": "label", "label_id": 0}]}
        for name in [*good, address]
    ]
    labels = {"labels": [{"name": "a"}, {"name": "b"}]}
    (folder / "d.json").write_text(json.dumps({"categories": {"label": labels}, "items": items}))
    return "d.json"


@pytest.mark.parametrize("write", [csv, jsonl, metadata, coco, datumaro])
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_cell_of_a_data_set_names_an_address(
    write: Callable[[Path, str, list[str]], str], address: str, tmp_path: Path
) -> None:
    write_data(tmp_path, 2)
    good = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.png"))]
    named = write(tmp_path, address, good)
    with chdir(tmp_path):
        said = call("data", "check", named)
    assert said.status == 2
    assert "is a URL, and must be a path" in " ".join(said.err.split())


@pytest.mark.parametrize("words", [("data", "shard", "t.csv", "out"), ("train", "--data", "t.csv", "--dry-run")])
def test_other_commands_refuse_the_cell_as_well_and_name_its_line(words: tuple[str, ...], tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    csv(tmp_path, ADDRESSES[0], ["red/0.png", "blue/0.png"])
    with chdir(tmp_path):
        said = call(*words)
    assert said.status == 2
    assert "line 4: reference://::evil.tar/y.png is a URL" in " ".join(said.err.split())


@pytest.mark.parametrize("name", ["http://127.0.0.1:9/x.tar", "a::b.tar", "../x.tar", "x\x00.tar"])
def test_no_name_in_shards_json_leads_elsewhere(name: str, tmp_path: Path) -> None:
    shard = {"name": name, "images": 1, "bytes": 1, "sha256": "0" * 64}
    known = {"images": 1, "counts": {"none": 1}, "labels": {}, "shards": [shard]}
    (tmp_path / "shards.json").write_text(json.dumps(known))
    with chdir(tmp_path):
        assert call("data", "check", ".").status == 2


@pytest.mark.parametrize(
    ("command", "status", "address"),
    [
        *(("eval", 2, address) for address in (*ADDRESSES, "hf://datasets/x")),
        ("validate", 2, ADDRESSES[1]),
        pytest.param("export --precision fp32", 2, ADDRESSES[0], marks=pytest.mark.representative),
        ("merge", 0, ADDRESSES[1]),  # proves itself on noise
        ("report", 0, ADDRESSES[0]),  # says what it lacks
    ],
)
def test_the_root_of_a_runs_images_is_no_address(
    command: str, status: int, address: str, whole_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    edit_json(run / "run.json", lambda raw: raw.update(data_root=address))
    vouch(run)
    verb, *flags = command.split()
    said = call(verb, run, *flags)
    assert said.status == status
    told = " ".join((said.err + said.out).split())
    assert "must not contain a URL" in told
    assert not status or "where: " + str(run / "run.json") in told
    if status:  # what ftx would not open is not recommended
        opened = address.partition(":")[0].lower() in SCHEMES and "::" not in address
        named = f"{address.partition(':')[0].lower()}://{address.partition(':')[2].lstrip('/')}"
        assert told.replace("'", "").endswith(f"--data {named if opened else 'DIR'}")


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_image_of_a_run_is_at_an_address(address: str, whole_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    first, *rest = (run / "data.jsonl").read_text().splitlines()
    (run / "data.jsonl").write_text("\n".join([json.dumps(json.loads(first) | {"path": address}), *rest]))
    vouch(run)
    said = call("eval", run)
    assert said.status == 2
    # With one slash it could be a folder's name: it is looked for below the run's images, and is not there.
    told = "must be below the data folder" if "://" in address else "an image of the run is missing"
    assert told in " ".join(said.err.split())


def test_no_recipe_of_a_run_that_training_begins_with_names_one(whole_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["data"]["path"] = "https://127.0.0.1:9/{0..3}.tar"
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    vouch(run)
    said = call("train", "--from", run, "--dry-run")
    assert said.status == 2
    assert f"ftx train --from {run} --data 'https://127.0.0.1:9/{{0..3}}.tar'" in " ".join(said.err.split())


def test_an_address_that_is_typed_is_asked_for(whole_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else these tests could not fail."""
    asked: list[str] = []

    def noting(address: Any) -> NoReturn:
        asked.append(str(address))
        raise FileNotFoundError(str(address))

    monkeypatch.setattr("ftx.data.shards.fetched._file_system", noting)
    for words in (("data", "check"), ("eval", whole_run, "--data"), ("predict", "--artifact", whole_run)):
        call(*words, "https://127.0.0.1:9/0.tar")
    call("train", "--dry-run", "--set", "data.path=https://127.0.0.1:9/1.tar")
    there = "https://127.0.0.1:9"  # of the run no image is named that could lie in a shard
    assert asked == [f"{there}/shards.json", f"{there}/0.tar", f"{there}/shards.json"]


def test_a_recipe_file_may_name_one_and_a_runs_own_may_not(whole_run: Path, tmp_path: Path) -> None:
    from ftx.runs.run import Run

    recipe = yaml.safe_load((whole_run / "recipe.yaml").read_text())
    recipe["data"]["path"] = "file:///etc"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    said = call("train", "--config", tmp_path / "mine.yaml", "--dry-run")
    assert (said.status, "give the path: /etc" in said.err) == (2, True)
    assert Run.open(whole_run).recipe().data.path == Path(
        yaml.safe_load((whole_run / "recipe.yaml").read_text())["data"]["path"]
    )
