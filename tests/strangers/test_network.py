"""On the embedded model no verb opens a connection, nor starts a program that might, nor leaves a file in the home
folder: NNCF, OpenVINO and ONNX Runtime included, whose telemetry is partly Python and partly C++.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import write_colour_ir, write_data

from ftx.cli.app import COMMANDS

# Sees every socket of Python and every program that it starts, and lets no socket through. ``atexit`` is asked first,
# so that it is told last: telemetry likes to send when all is over.
WATCH = """
import atexit, json, sys
seen = []
def watch(event, arguments):
    if event.startswith(("socket.connect", "socket.get", "socket.send", "http.", "urllib.", "ftplib.", "smtplib.")):
        seen.append([event, repr(arguments)[:200]])
        raise ConnectionRefusedError("no network in this test")
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn"):
        seen.append([event, repr(arguments)[:200]])
sys.addaudithook(watch)
def tell():
    with open("seen.json", "w") as stream:
        json.dump(seen, stream)
atexit.register(tell)
"""
# Sees what C and C++ ask the C library for, and answers that there is no network.
NATIVE = """
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
static void note(const char *what) {
    FILE *log = fopen(getenv("NATIVE_SEEN"), "a");
    if (log) { fprintf(log, "%s\\n", what); fclose(log); }
}
static int local(const struct sockaddr *to) { return !to || (to->sa_family != AF_INET && to->sa_family != AF_INET6); }
int connect(int fd, const struct sockaddr *to, socklen_t size) {
    if (!local(to)) note("connect");
    errno = ECONNREFUSED;
    return -1;
}
ssize_t sendto(int fd, const void *bytes, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    if (!local(to)) note("sendto");
    errno = ECONNREFUSED;
    return -1;
}
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    note("getaddrinfo");
    return EAI_FAIL;
}
"""


def native_watch(folder: Path) -> dict[str, str]:
    """The environment that lets it see a program; empty where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return {}
    (folder / "native.c").write_text(NATIVE)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "native.so", folder / "native.c"], check=True, timeout=60
    )
    (folder / "native.txt").touch()
    return {"LD_PRELOAD": str(folder / "native.so"), "NATIVE_SEEN": str(folder / "native.txt")}


# The search for INT8's setting asks the same library again and again; one setting is enough here.
ONE_SETTING = """
from functools import partial
from ftx.exporting.int8 import search as quantizing
quantizing.quantize_body = partial(quantizing.quantize_body, settings=(quantizing.Int8Setting(alpha=0.5),))
"""


def watched(program: str, folder: Path) -> tuple[int, list[list[str]]]:
    """The status of a program, and what it would have reached out for."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    # Without what keeps telemetry still on a build machine, and with a home that it could note its user in.
    still = ("CI", "NNCF_CI", "HF_HUB_OFFLINE", "ORT_DISABLE_TELEMETRY")
    environment = {key: value for key, value in os.environ.items() if key not in still} | native_watch(folder)
    done = subprocess.run(
        [sys.executable, "-c", WATCH + program],
        cwd=folder,
        env={**environment, "HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    native = (folder / "native.txt").read_text().split() if (folder / "native.txt").exists() else []
    seen = json.loads((folder / "seen.json").read_text())
    # matplotlib asks fontconfig which fonts this machine has, once a process: it reaches no further.
    seen = [one for one in seen if not (one[0] == "subprocess.Popen" and one[1].startswith("('fc-list'"))]
    return done.returncode, seen + [[word, "in C"] for word in native]


@pytest.mark.slow
def test_no_verb_opens_a_connection(tmp_path: Path) -> None:
    write_data(tmp_path / "data", count=12)
    keys = "data.image_size=28 train.epochs=1 train.precision=f32 adapter.blocks=1 adapter.targets=q"
    small = [word for key in keys.split() for word in ("--set", key)]
    few = "data: {path: data, image_size: 28}\nadapter: {blocks: 1}\ntrain: {epochs: 1}\n"
    (tmp_path / "recipe.yaml").write_text(few)
    (tmp_path / "space.yaml").write_text("train.lr: [1e-4, 1e-3]\n")
    words = [
        ["data", "check", "data"],
        ["data", "look", "data", "--image-size", "28", "--out", "look.csv", "--json"],
        ["train", "--data", "data", "--out", "runs/one", *small],
        ["merge", "runs/one"],
        ["merge", "--adapter", "runs/one", "--out", "merged"],
        [
            "export",
            "runs/one",
            "--format",
            "onnx",
            "--format",
            "openvino",
            "--precision",
            "fp32",
            "--precision",
            "int8",
        ],
        ["validate", "runs/one"],
        ["validate", "runs/one/openvino/fp32"],  # a gate may refuse the int8 of one epoch
        ["eval", "runs/one"],
        ["predict", "data/red", "--artifact", "runs/one"],
        ["explain", "data/red", "--artifact", "runs/one"],
        ["report", "runs/one"],
        ["export", "runs/one", "--format", "ovms", "--out", "models"],
        ["data", "sample", "--out", "sample"],
        ["data", "shard", "data", "shards"],
        ["data", "check", "shards"],
        ["export", "runs/one", "--base", "base"],
        ["export", "runs/one", "--as-update", "update", "--base", "base"],
        ["apply", "update", "base", "device"],
        ["adapters", "runs/one", "runs/one"],
        ["runs"],
        ["tune", "recipe.yaml", "--space", "space.yaml", "--trials", "1", "--out", "study"],
        ["models", "dinov2"],
        ["recipes"],
        ["schema", "train"],
        ["schema", "recipe"],
    ]
    # `run` is train, merge, export and validate, and `quickstart` that on a sample, which is unpacked below; `bench`
    # opens models as `predict` does, in processes of its own, where nobody watches; `serve` has a test of its own.
    assert {line[0] for line in words} == COMMANDS.keys() - {"run", "quickstart", "bench", "serve"}
    program = f"""{ONE_SETTING}
from pathlib import Path
from ftx.cli.app import run
from ftx.data.bundled_sample import place_sample
statuses = [run(words) for words in {words!r}]
place_sample("multiclass", Path("sample"))
Path("statuses.json").write_text(json.dumps(statuses))
"""
    status, seen = watched(program, tmp_path)
    assert status == 0
    statuses = json.loads((tmp_path / "statuses.json").read_text())
    # A gate may find a model of one epoch on 28 px wanting: it was asked all the same.
    wrong = {" ".join(line): status for line, status in zip(words, statuses, strict=True) if status not in (0, 1)}
    assert not wrong
    assert seen == []
    # Compiled models, in the user's cache.
    cache = tmp_path / "home" / ".cache" / "ftx"
    left = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert [path for path in left if not path.is_relative_to(cache)] == []


@pytest.mark.representative
def test_a_server_opens_no_connection_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "ir").mkdir()
    write_colour_ir(tmp_path / "ir")
    program = """
import os, signal, threading
from ftx.cli.app import run
threading.Timer(5, os.kill, (os.getpid(), signal.SIGTERM)).start()
assert run(["serve", "ir", "--port", "0"]) == 0
"""
    status, seen = watched(program, tmp_path)
    assert status == 0
    assert seen == []


def test_the_watch_sees_what_reaches_out(tmp_path: Path) -> None:
    program = """
import socket, subprocess, urllib.request
for ask in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: urllib.request.urlopen("http://192.0.2.1"),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9)),
):
    try:
        ask()
    except OSError:
        pass
import ctypes, struct
address = struct.pack("=HH4s8x", socket.AF_INET, socket.htons(80), bytes([192, 0, 2, 1]))
ctypes.CDLL(None).connect(socket.socket().fileno(), address, len(address))
subprocess.run(["true"])
"""
    _, seen = watched(program, tmp_path)
    assert shutil.which("cc") is None or ["connect", "in C"] in seen
    assert {event for event, _ in seen} >= {
        "socket.getaddrinfo",
        "socket.sendto",
        "subprocess.Popen",
        "urllib.Request",
    }
