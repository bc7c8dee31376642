"""What each flag of ``ftx data look`` does."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import url2pathname

from tests.effects.lab import Lab

SMALL = ("--model", "test_vit", "--weights", "none", "--image-size", "32")


def _look(lab: Lab, name: str, *words: object, small: tuple[str, ...] = SMALL) -> tuple[object, ...]:
    return ("data", "look", "hues", *small, "--out", f"look-{name}.csv", "--json", *words)


def data(lab: Lab, flag: str, value: str) -> None:
    """Without one it is data/, which is not there."""
    words = (*SMALL, "--out", "look-data.csv", "--json")
    assert lab.done("data", "look", value, *words).json["images"] == 24
    assert lab.call("data", "look", *words).status == 2


def task(lab: Lab, flag: str, value: str) -> None:
    said = [lab.done(*_look(lab, f"task{len(more)}", *more)).json for more in ((), (flag, value))]
    assert [one["task"] for one in said] == ["multiclass", value]


def form(lab: Lab, flag: str, value: str) -> None:
    said = lab.call(*_look(lab, "format", flag, value))
    assert said.status in (2, 3)
    assert "datumaro" in said.err


def links(lab: Lab, flag: str, value: str) -> None:
    words = ("data", "look", lab.linked(), "--model", "test_vit", "--weights", "none", "--image-size", "32", "--json")
    assert lab.call(*words, "--out", "linked.csv").status == 2
    assert lab.call(*words, "--out", "linked.csv", flag).status == 0


def model(lab: Lab, flag: str, value: str) -> None:
    """Of noise each network's features say something else."""
    words = ("data", "look", "unsplit", "--weights", "none", "--image-size", "32", "--json", "--out")
    other, usual = (lab.done(*words, f"look-{name}.csv", flag, name).json for name in (value, "test_vit"))
    assert other["model"] == value
    assert other["labels"] != usual["labels"]


def weights(lab: Lab, flag: str, value: str) -> None:
    """A file of another network does not fit; one of this network is taken."""
    own = lab.foundation / "model.safetensors"
    lab.done(*_look(lab, "weights", small=("--model", "test_vit", flag, str(own), "--image-size", "32")))
    assert lab.call(*_look(lab, "weights2", small=("--model", "test_vit2", flag, str(own)))).status == 2


def image_size(lab: Lab, flag: str, value: str) -> None:
    assert lab.done(*_look(lab, "size", small=(*SMALL[:4], flag, value))).json["image_size"] == value


def out(lab: Lab, flag: str, value: str) -> None:
    """The table, in the place of data-look.csv; never over a file of someone else."""
    words = ("data", "look", "hues", *SMALL, "--json")
    lab.done(*words, flag, value)
    assert (lab.root / value).read_text().startswith("path,issue,given,suggested,score,choice\n")
    assert not (lab.root / "data-look.csv").exists()
    lab.done(*words)
    assert (lab.root / "data-look.csv").is_file()
    (lab.root / "mine.csv").write_text("path,labels\n")
    assert lab.call(*words, flag, "mine.csv").status == 2
    assert (lab.root / "mine.csv").read_text() == "path,labels\n"


def _served(lab: Lab, *words: str, **environment: str) -> tuple[subprocess.Popen[str], str, str]:
    """The program at work, the address that it printed, and what stood above it."""
    command = [sys.executable, "-m", "ftx", "data", "look", "hues", *SMALL, "--out", "look-served.csv", *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=lab.root,
        env={**os.environ, "PYTHONUNBUFFERED": "1"} | environment,
    )
    assert process.stdout is not None
    above: list[str] = []
    for line in process.stdout:
        if line.startswith("page"):
            return process, line.split()[1], "".join(above)
        above.append(line)
    raise AssertionError("".join(above))


def _ended(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0


def port(lab: Lab, flag: str, value: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    process, address, said = _served(lab, flag, str(free), "--task", "multilabel")
    assert "hues: 24 images, multilabel\n" in said  # the page has the task that was named
    assert address.startswith(f"http://127.0.0.1:{free}/")
    connection = http.client.HTTPConnection("127.0.0.1", free, timeout=30)
    connection.request("GET", address.removeprefix(f"http://127.0.0.1:{free}"))
    assert connection.getresponse().status == 200
    connection.close()
    assert lab.call("data", "look", "hues", *SMALL, "--out", "look-taken.csv", flag, str(free)).status == 3
    _ended(process)


def open_(lab: Lab, flag: str, value: str) -> None:
    told, browser = lab.root / "told.txt", lab.root / "browser"
    browser.write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{told}.part' && mv '{told}.part' '{told}'\n")
    browser.chmod(0o755)
    process, address, _ = _served(lab, "--port", "0", flag, BROWSER=f"{browser} %s")
    until = time.monotonic() + 60
    while not told.exists() and time.monotonic() < until:
        time.sleep(0.05)
    # A file that leads there: other users can read what a browser is started with.
    assert address in Path(url2pathname(told.read_text().removeprefix("file://"))).read_text()
    _ended(process)
    Path(told).unlink()


def as_object(lab: Lab, flag: str, value: str) -> None:
    """One object and the end, in the place of a page."""
    said = lab.done(*_look(lab, "json")).json
    assert (said["verb"], said["table"]) == ("data look", "look-json.csv")
