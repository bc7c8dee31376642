"""Tables and annotation files that strangers wrote: read, or refused in one error, and soon."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.strangers.documents import EXTREMES, as_json, damaged, damaged_bytes, refused_or_read, strange

from ftx.core.errors import DataError, InputError
from ftx.data.check import check
from ftx.data.sources import list_images
from ftx.tasks.label_tree import tree_of

# hypothesis', where it draws seventy thousand brackets.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
# Every document of this file is read or refused within so many seconds of one core.
MOST_S = 5


@functools.cache
def pictures() -> Path:
    """Eight small images, which all documents name; kept for the whole run, as making them costs more than reading."""
    folder = Path(tempfile.mkdtemp(prefix="ftx-test-sources-"))
    for number in range(8):
        Image.new("RGB", (8, 8), (30 * number, 9, 9)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _removed() -> Any:
    yield
    for path in pictures().iterdir():
        path.unlink()
    pictures().rmdir()
    pictures.cache_clear()


def written(name: str, content: bytes) -> Path:
    path = pictures() / name
    path.write_bytes(content)
    return path


def seconds(read: Callable[[], object]) -> float:
    before = time.process_time()
    read()
    return time.process_time() - before


# --- any document is read or refused

ROW = {"path": "0.png", "labels": ["animal/cat", "wet"], "split": "train", "group": "farm 7"}
ROWS = [{**ROW, "path": f"{number}.png", "group": f"farm {number}"} for number in range(6)]
COCO = {
    "images": [{"id": number, "file_name": f"{number}.png", "width": 8, "height": 8} for number in range(4)],
    "annotations": [{"id": number, "image_id": number, "category_id": number % 2} for number in range(4)],
    "categories": [{"id": 0, "name": "cat", "supercategory": "animal"}, {"id": 1, "name": "dog", "supercategory": ""}],
}
DATUMARO = {
    "categories": {
        "label": {
            "labels": [{"name": "cat", "parent": "pet"}, {"name": "dog", "parent": "pet"}, {"name": "pet"}],
            "label_groups": [{"name": "pets", "group_type": "exclusive", "labels": ["cat", "dog"]}],
        }
    },
    "items": [
        {"id": f"{number}", "annotations": [{"label_id": number % 2}], "image": {"path": f"{number}.png"}}
        for number in range(4)
    ],
}


def looked_at(path: Path) -> None:
    """As ``ftx data check`` does, to its JSON."""
    refused_or_read(lambda: check(path).model_dump_json(), InputError)


def test_the_documents_that_are_damaged_below_hold() -> None:
    lines = "\n".join(map(json.dumps, ROWS)).encode()
    for name, content in (("a.jsonl", lines), ("coco.json", as_json(COCO)), ("datumaro.json", as_json(DATUMARO))):
        assert len(list_images(written(name, content)).files) >= 4


@strange
@given(damaged(ROWS))
def test_json_lines(rows: object) -> None:
    lines = rows if isinstance(rows, list) else [rows]
    looked_at(written("lines.jsonl", b"\n".join(as_json(line) for line in lines)))


@strange
@given(
    st.lists(st.sampled_from(["path", "labels", "split", "group", "", "PATH", "file_name", "x" * 200_000]), max_size=5),
    st.lists(st.lists(st.one_of(st.sampled_from(["0.png", "1.png", "a/b", "a;b", *filter(
        lambda value: isinstance(value, str), EXTREMES)]), st.text(max_size=5)), max_size=5), max_size=5),
)  # fmt: skip
def test_csv(columns: list[str], rows: list[list[str]]) -> None:
    text = "\n".join(",".join(cells) for cells in [["path", "labels", *columns], *rows, columns])
    looked_at(written("cells.csv", text.encode(errors="surrogatepass")))


@strange
@given(damaged_bytes(b'path,labels,split,group\n0.png,a;b,train,p\n1.png,b,val,\n"2.png",,,q\n'))
def test_bytes_of_a_table(content: bytes) -> None:
    looked_at(written("bytes.csv", content))


@strange
@given(damaged(COCO))
def test_coco(document: object) -> None:
    looked_at(written("coco.json", as_json(document)))


@strange
@given(damaged(DATUMARO))
def test_datumaro(document: object) -> None:
    looked_at(written("datumaro.json", as_json(document)))


@strange
@given(damaged_bytes(as_json(DATUMARO)))
def test_bytes_of_annotations(content: bytes) -> None:
    looked_at(written("bytes.json", content))


# --- what took long, or the program down

DEEP = "path,labels\n0.png," + "/".join("a" * 3000) + "\n1.png,b\n2.png,b\n"


def chain(levels: int) -> dict[str, Any]:
    labels = [{"name": f"c{level}", "parent": f"c{level + 1}" if level + 1 < levels else ""} for level in range(levels)]
    items = [
        {"id": str(number), "annotations": [{"label_id": number}], "image": {"path": f"{number}.png"}}
        for number in range(8)
    ]
    return {"categories": {"label": {"labels": labels}}, "items": items}


CIRCLE = [{"name": f"c{level}", "parent": f"c{(level + 1) % 8}"} for level in range(8)]
COLUMNS = ",".join(map("labelz{}".format, range(60_000))) + "\n" + "x," * 59_999 + "x"
NAMES = [f"label {number}" for number in range(3000)]
# What is said of each.
REFUSED: dict[str, tuple[str, bytes]] = {
    "3000.csv": ("5,999 characters, at most 4,095", DEEP.encode()),
    "brackets.jsonl": ("recursion", b"[" * 100_000),
    "brackets.json": ("recursion limit", b'{"categories": 1, "images": ' + b"[" * 100_000),
    "brackets-2.json": ("recursion limit", b'{"categories": 1, "items": ' + b'{"a":' * 100_000),
    "digits.jsonl": ("must fit in 64 bits", b'{"path": "0.png", "labels": [1' + b"0" * 400 + b"]}"),
    "digits-2.jsonl": ("digits", b'{"path": "0.png", "labels": [1' + b"0" * 4400 + b"]}"),
    "group.jsonl": ("cannot be printed", b'{"path": "0.png", "labels": ["a"], "group": "\\ud800"}'),
    "side.jsonl": ("cannot be printed", b'{"path": "0.png", "labels": ["a"], "split": "\\udcff"}'),
    "path.jsonl": ("is not a path of a file", b'{"path": "\\ud800.png", "labels": ["a"]}'),
    "label.jsonl": ("cannot be printed", b'{"path": "0.png", "labels": ["\\ud800"]}'),
    "column.jsonl": ("must have a column path", b'{"\\ud800": "0.png", "labels": ["a"]}'),
    "long.jsonl": ("is not a path of a file", as_json({"path": "x" * 5000, "labels": ["a"]})),
    "long-name.jsonl": ("is too long", as_json({"path": "x" * 300, "labels": ["a"]})),
    "many.jsonl": ("3,000 labels, at most 1,000", as_json({"path": "0.png", "labels": NAMES})),
    "types.jsonl": ("a list is not a path", b'{"path": ["0.png"], "labels": {"a": 1}, "split": [], "group": {}}'),
    "surrogate.json": ("surrogate", as_json({**COCO, "categories": [{"id": 0, "name": "\ud800"}]})),
    "id.json": ("which is not listed", as_json({**COCO, "images": [{"id": 10**400, "file_name": "0.png"}]})),
    "columns.csv": ("and 59990 more", COLUMNS.encode()),
    "twice.json": (
        "a different name",
        as_json({**DATUMARO, "categories": {"label": {"labels": [{"name": "a"}] * 30_000}}}),
    ),
    "types.json": (
        "the annotations have invalid values: 60000",
        as_json({**COCO, "images": [{"id": [], "file_name": 3}] * 20_000}),
    ),
    "unlisted.json": (
        "the annotations have invalid entries: 20000",
        as_json({**COCO, "annotations": [{"image_id": 99, "category_id": 0}] * 20_000}),
    ),
    "parents.json": ("levels", as_json(chain(1600))),
    "circle.json": ("must not be its own parent", as_json({**chain(8), "categories": {"label": {"labels": CIRCLE}}})),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_one_error_of_status_2(name: str) -> None:
    told, content = REFUSED[name]
    path = written(name, content)
    before = time.process_time()
    with pytest.raises(InputError) as caught:
        check(path)
    assert time.process_time() - before < MOST_S
    assert caught.value.exit_code == 2
    assert told in str(caught.value)
    assert len(str(caught.value).encode()) < 5000  # and no lone surrogate, which could not be printed


@pytest.mark.parametrize("row", ["0.png,a", "a/b/c/d/e/f/g/h/{}.png,a"])
def test_rows_take_some_ten_microseconds_each(row: str) -> None:
    table = written("rows.csv", "\n".join(["path,labels", *map(row.format, range(30_000))]).encode())
    # 100,000 took 7 s, as each asked the system for each folder on its way; a slow machine needs 1.1 for these 30,000.
    assert seconds(lambda: list_images(table)) < 1.6


def test_a_fault_in_each_of_many_rows_is_told_ten_times_and_counted() -> None:
    rows = "path,labels\n" + "".join(f"/{number}.png,a\n" for number in range(20_000))
    with pytest.raises(DataError) as caught:
        list_images(written("absolute.csv", rows.encode()))
    assert caught.value.what == "the table has invalid lines: 20000"
    assert (caught.value.found or "").count("is absolute") == 10
    assert (caught.value.found or "").endswith("; and 19990 more")


def test_labels_that_stand_together_cost_the_square_of_their_number_at_most() -> None:
    from ftx.tasks.labels import LabelDeclaration

    names = tuple(f"l{number:04}" for number in range(1000))
    carried = {"all.png": names, "first.png": names[:1], "last.png": names[-1:]}
    found: list[Any] = []
    assert seconds(lambda: found.append(tree_of(carried, LabelDeclaration(), "x")[0])) < 3
    # Each stands beside each other, so that but one must be a single; the last that is left stands alone in an image.
    assert len(found[0].singles) == 1000


def test_folders_nested_without_end_are_refused(tmp_path: Path) -> None:
    deep = tmp_path / "data"
    for level in ("a", *("b" * 120)):
        deep = deep / level
    deep.mkdir(parents=True)
    (tmp_path / "data" / "c").mkdir()
    with pytest.raises(DataError, match="nested at most"):
        list_images(tmp_path / "data", nested=True)


# --- no regular file


@pytest.mark.parametrize("place", ["table", "metadata", "annotations", "image of a table", "link in a class"])
def test_a_pipe_is_not_waited_for(place: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for number in range(40):
        name = tmp_path / "ab"[number % 2] / f"{number}.png"
        name.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (5 * number, 9, 9)).save(name)
    if place == "link in a class":
        (tmp_path / "a" / "link.png").symlink_to(pipe)
        report = check(tmp_path)
        assert report.unreadable == ["a/link.png: this must be a regular file: a named pipe"]
        return
    if place == "image of a table":
        pipe.rename(tmp_path / "pipe.png")
        rows = [f"{'ab'[number % 2]}/{number}.png,{'ab'[number % 2]}" for number in range(40)]
        (tmp_path / "t.csv").write_text("\n".join(["path,labels", *rows, "pipe.png,a"]))
        assert check(tmp_path / "t.csv").unreadable == ["pipe.png: this must be a regular file: a named pipe"]
        return
    named = {
        "table": tmp_path / "t.csv",
        "metadata": tmp_path / "metadata.csv",
        "annotations": tmp_path / "annotations" / "instances_train.json",
    }[place]
    named.parent.mkdir(exist_ok=True)
    pipe.rename(named)
    # Inside a folder a pipe is no table, and the class folders beside it are the data; annotations say what is wrong.
    read = refused_or_read(lambda: list_images(named if place == "table" else tmp_path))
    assert (read is None) == (place != "metadata")


def test_the_command_line_says_the_same_in_one_error() -> None:
    path = written("cli.jsonl", b'{"path": "0.png", "labels": ["a"], "group": "\\ud800"}')
    program = "import sys; from ftx.cli.app import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "data", "check", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["what"] == "the table has invalid lines: 1"
    assert done.stderr.count("the table has invalid lines") == 1
    assert "Traceback" not in done.stderr
