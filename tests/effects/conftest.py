"""One laboratory for both tables."""

from __future__ import annotations

import pytest
import torch
from tests.effects.lab import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    torch.set_num_threads(1)
    return Lab(tmp_path_factory.mktemp("lab"))
