"""Libraries that warn of one another, where our user can do nothing about it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_third_parties() -> Iterator[None]:
    """Keep warnings that torch, onnxscript and openvino raise or log about one another from our user."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
