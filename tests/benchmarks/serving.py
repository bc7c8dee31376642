"""What HTTP costs: ``python -m tests.benchmarks.serving speed IR IMAGES``, ``... soak N`` or ``... start IR``.

speed: 32 clients of one server, in turn with the compiled model alone over the same images, each for some seconds and
in a process of its own; once with encoded images and once with pixels, which nobody decodes. Clients run on the same
machine and take their part of it. soak: requests to a tiny model, and the server's memory. start: from the start of the
process to the first answer, with compiled models in the user's cache.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import psutil
from tests.conftest import colour_pixels, write_colour_ir

from ftx.data.image_store import open_image
from ftx.runtimes import load
from ftx.runtimes.openvino import OpenVinoPredictor

CLIENTS = 32
ROUNDS = 10
ROUND_S = 5.0
SIDE = 224

# Path, body and headers of a request.
Request = tuple[str, bytes, dict[str, str]]


@contextmanager
def server(ir: Path) -> Iterator[tuple[str, int, psutil.Process]]:
    """One in a process of its own: host, port and process."""
    command = [sys.executable, "-m", "ftx", "serve", f"model={ir}", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while lines[-1] != "}\n":
            lines.append(process.stdout.readline())
        host, port = json.loads("".join(lines))["address"].removeprefix("http://").split(":")
        try:
            yield host, int(port), psutil.Process(process.pid)
        finally:
            process.terminate()
            assert process.wait(60) == 0


def clients(
    host: str, port: int, requests: Sequence[Request], goes_on: Callable[[int], bool]
) -> tuple[list[float], int]:
    """Milliseconds of each answer, and how many were none."""
    took_ms: list[float] = []
    failed: list[str] = []

    def ask(first: int) -> None:
        connection = HTTPConnection(host, port, timeout=60)
        for path, body, headers in islice(cycle(requests), first, None):
            if not goes_on(len(took_ms)):
                return
            started = time.perf_counter()
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            content = response.read()
            took_ms.append(1e3 * (time.perf_counter() - started))
            if response.status != 200:
                failed.append(content.decode(errors="replace"))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(*sorted(set(failed)), sep="\n", end="\n" if failed else "")
    return took_ms, len(failed)


def alone(
    predictor: OpenVinoPredictor, encoded: Sequence[bytes], pixels: np.ndarray | None, seconds: float
) -> tuple[int, float]:
    """Images that were answered, and in how many seconds: files as ``ftx predict`` does, or pixels in its batches."""
    count, started = 0, time.perf_counter()
    ends = started + seconds

    def until() -> Iterator[int]:
        number = 0
        while time.perf_counter() < ends:
            yield number
            number += 1

    if pixels is None:
        answers = predictor.logits_from_files(encoded[number % len(encoded)] for number in until())
        count = sum(1 for _ in answers)
    else:
        size = predictor.batch
        batches = [np.resize(pixels[at : at + size], (size, *pixels.shape[1:])) for at in range(0, len(pixels), size)]
        for logits, _ in predictor.in_flight(batches[number % len(batches)] for number in until()):
            count += len(logits)
    return count, time.perf_counter() - started


def _child(ir: Path, images: Path, decoded: str) -> None:
    """The compiled model alone, a line of seconds in, a line of images and seconds out."""
    predictor = load(ir, goal="throughput")
    assert isinstance(predictor, OpenVinoPredictor)
    encoded, pixels = read_images(images)
    for line in sys.stdin:
        print(*alone(predictor, encoded, pixels if decoded == "pixels" else None, float(line)), flush=True)


def read_images(folder: Path) -> tuple[list[bytes], np.ndarray]:
    """64 images as they lie there, and as pixels of the network's size."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".png", ".jpg", ".jpeg")][:64]
    pixels = [np.asarray(open_image(path).resize((SIDE, SIDE))) for path in files]
    return [path.read_bytes() for path in files], np.stack(pixels)


def requests_of(encoded: Sequence[bytes], pixels: np.ndarray, kind: str) -> list[Request]:
    """A request an image."""
    if kind == "encoded":
        return [("/predict", content, {"content-type": "image/png"}) for content in encoded]
    found: list[Request] = []
    for image in pixels:
        tensor = {"name": "image", "shape": [1, *image.shape], "datatype": "UINT8"}
        tensor["parameters"] = {"binary_data_size": image.nbytes}
        wanted = [{"name": "logits", "parameters": {"binary_data": True}}]
        head = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()
        headers = {"inference-header-content-length": str(len(head))}
        found.append(("/v2/models/model/infer", head + image.tobytes(), headers))
    return found


def speed(ir: Path, images: Path) -> None:
    """Print the share of the model's own throughput that comes through HTTP, and how long clients wait."""
    for kind in ("encoded", "pixels"):
        command = [sys.executable, "-m", "tests.benchmarks.serving", "child", str(ir), str(images), kind]
        requests = requests_of(*read_images(images), kind)
        with (
            server(ir) as (host, port, served),
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as model,
        ):
            assert model.stdin is not None
            alone_process = psutil.Process(model.pid)
            ask_model(model, 3)
            clients(host, port, requests, lasting(3))
            before_mb = served.memory_info().rss / 1e6
            rates: list[tuple[float, float]] = []
            took_ms: list[float] = []
            failed = alone_images = 0.0
            began_s = cpu_s(alone_process), cpu_s(served)
            for _ in range(ROUNDS):
                images_alone, took_s = ask_model(model, ROUND_S)
                own = images_alone / took_s
                started = time.perf_counter()
                found, wrong = clients(host, port, requests, lasting(ROUND_S))
                rates.append((own, len(found) / (time.perf_counter() - started)))
                alone_images += images_alone
                took_ms += found
                failed += wrong
                print(f"  {kind}: alone {own:.1f} images/s, served {rates[-1][1]:.1f}", flush=True)
            work_ms = [
                1e3 * (cpu_s(alone_process) - began_s[0]) / alone_images,
                1e3 * (cpu_s(served) - began_s[1]) / len(took_ms),
            ]
            after_mb = served.memory_info().rss / 1e6
            model.stdin.close()
        ratio = statistics.median(through / own for own, through in rates)
        p50, p99 = (float(np.percentile(took_ms, share)) for share in (50, 99))
        print(
            f"{kind}: {ratio:.3f} of the model alone (median of {ROUNDS}), {len(took_ms)} answers, "
            f"{failed:.0f} failed, p50 {p50:.0f} ms, p99 {p99:.0f} ms, server {before_mb:.0f} -> {after_mb:.0f} MB; "
            f"of the processors {work_ms[0]:.1f} ms an image alone, {work_ms[1]:.1f} served"
        )


def cpu_s(process: psutil.Process) -> float:
    """What it has had of the processors: this tells what HTTP costs where other programs take the rest."""
    return sum(process.cpu_times()[:2])


def ask_model(model: subprocess.Popen[str], seconds: float) -> tuple[float, float]:
    """Images of the process with the model alone, and how many seconds they took."""
    assert model.stdin is not None
    assert model.stdout is not None
    model.stdin.write(f"{seconds}\n")
    model.stdin.flush()
    answered, took_s = model.stdout.readline().split()
    return float(answered), float(took_s)


def lasting(seconds: float) -> Callable[[int], bool]:
    """Clients go on for so long."""
    ends = time.perf_counter() + seconds
    return lambda _: time.perf_counter() < ends


def soak(count: int) -> None:
    """Print the server's memory as requests of all kinds go by, good ones and bad ones."""
    with tempfile.TemporaryDirectory() as folder:
        write_colour_ir(Path(folder), maps=True)
        sizes = [(20, 30), (31, 17), (64, 64), (224, 224)]
        pixels = [colour_pixels(number % 3, *sizes[number % 4], number) for number in range(16)]
        good = [one for image in pixels for one in requests_of([], image[None], "pixels")]
        with server(Path(folder)) as (host, port, process):
            done, began_s = 0, time.perf_counter()
            while done < count:
                some = min(10_000, count - done)
                found, failed = clients(host, port, good, lambda answered, most=some: answered < most)
                done += len(found)
                told = f"{done} answers, {failed} failed, p99 {np.percentile(found, 99):.1f} ms"
                print(f"{told}, {process.memory_info().rss / 1e6:.1f} MB, {len(process.threads())} threads", flush=True)
            print(f"{done / (time.perf_counter() - began_s):.0f} answers a second")


def start(ir: Path) -> None:
    """Print the seconds from the process's start to the first answer of a server whose model is compiled already."""
    pixels = np.full((1, SIDE, SIDE, 3), 90, np.uint8)
    (request,) = requests_of([], pixels, "pixels")
    took_s: list[float] = []
    for number in range(6):
        port = 18000 + number
        command = [sys.executable, "-m", "ftx", "serve", f"model={ir}", "--port", str(port)]
        began = time.perf_counter()
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while True:
                connection = HTTPConnection("127.0.0.1", port, timeout=60)
                try:
                    connection.request("POST", *request[:2], request[2])
                    assert connection.getresponse().status == 200
                    break
                except ConnectionError:
                    time.sleep(0.005)
            took_s.append(time.perf_counter() - began)
            connection.close()
            used_s = sum(psutil.Process(process.pid).cpu_times()[:2])
            process.terminate()
        print(f"{took_s[-1]:.2f} s, of the processors {used_s:.2f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    print(f"median of the last five {statistics.median(took_s[1:]):.2f} s, best {min(took_s[1:]):.2f} s")


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "speed":
        speed(Path(rest[0]), Path(rest[1]))
    elif what == "child":
        _child(Path(rest[0]), Path(rest[1]), rest[2])
    elif what == "soak":
        soak(int(rest[0]))
    else:
        start(Path(rest[0]))
