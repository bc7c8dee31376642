"""Pictures of sounds: how loud each frequency is at each time."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Samples of a window, and from one window to the next. At 8 kHz a picture shows 1.6 seconds up to 4 kHz.
WINDOW, STEP = 256, 100
# Windows of a picture.
COLUMNS = 128
# What is this much quieter than the loudest place is black.
RANGE_DB = 60.0
SAMPLES = WINDOW + STEP * (COLUMNS - 1)


def samples(path: Path) -> NDArray[np.float64]:
    """A WAV file of one channel with 16 bits, from -1 to 1, without the silence that it begins and ends with."""
    with wave.open(str(path)) as stream:
        assert (stream.getnchannels(), stream.getsampwidth()) == (1, 2)
        heard_N = np.frombuffer(stream.readframes(stream.getnframes()), dtype="<i2") / 2**15
    (loud,) = np.nonzero(np.abs(heard_N) > 0.05 * np.abs(heard_N).max(initial=0))
    return heard_N[loud[0] : loud[-1] + 1] if len(loud) else heard_N[:0]


def spectrogram(path: Path, place: float) -> Image.Image:
    """A part of a recording in grey; ``place`` is 0 for its beginning and 1 for its end. A short one stands in silence.

    The image has a column for each window and a row for each frequency; low ones are at the bottom.
    """
    heard_N = samples(path)
    spare = len(heard_N) - SAMPLES
    first = round(place * abs(spare))
    part_N = heard_N[first : first + SAMPLES] if spare > 0 else np.pad(heard_N, (first, -spare - first))
    windows_TW = np.lib.stride_tricks.sliding_window_view(part_N, WINDOW)[::STEP] * np.hanning(WINDOW)
    power_TF = np.abs(np.fft.rfft(windows_TW, axis=1)[:, : WINDOW // 2]) ** 2
    loudness_TF = 10 * np.log10(np.maximum(power_TF, 1e-12))
    grey_TF = np.clip(1 + (loudness_TF - loudness_TF.max()) / RANGE_DB, 0, 1)
    return Image.fromarray(np.flipud(np.round(255 * grey_TF).astype(np.uint8).T))
