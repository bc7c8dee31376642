"""Maps against random ones and against the plain gradient, on garments that lie on noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.explaining.curves import areas, as_input, gradient_map, probe, sample_images, scenes

from ftx.explaining.reciprocam import explained
from ftx.explaining.rollout import Rollout

SCENES = 16


@pytest.mark.slow
def test_maps_say_more_of_an_answer_than_random_ones(tmp_path: Path) -> None:
    sample = sample_images(tmp_path)
    module, pre = probe(sample)
    random = np.random.default_rng(0)
    maps, rollout = explained(module, [range(4)], pre), Rollout(module)
    found: dict[str, list[tuple[float, float]]] = {"reciprocam": [], "rollout": [], "gradient": [], "random": []}
    on_it = 0
    for scene in scenes(sample, SCENES, seed=1):
        x = as_input([scene], pre)
        with torch.no_grad():
            cam = maps(x)[1][0, scene.label].double().numpy()
            looked = rollout(x)[1][0, 0].double().numpy()
        plain = gradient_map(module, x, scene.label, cam.shape)
        for name, one in (
            ("reciprocam", cam),
            ("rollout", looked),
            ("gradient", plain),
            ("random", random.random(cam.shape)),
        ):
            found[name].append(areas(module, scene, pre, one))
        row, column = divmod(int(cam.argmax()), cam.shape[1])
        on_it += scene.covers((column + 0.5) * pre.width / cam.shape[1], (row + 0.5) * pre.height / cam.shape[0])
    deletion, insertion = ({name: np.mean(ones, axis=0)[which] for name, ones in found.items()} for which in (0, 1))
    for name in ("reciprocam", "rollout", "gradient"):
        assert deletion[name] < deletion["random"] - 0.05
        assert insertion[name] > insertion["random"] + 0.05
    assert on_it >= SCENES * 2 // 3  # a garment's square is a seventh of the image
