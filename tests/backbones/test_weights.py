"""Where weights come from: the hub, as far as the user lets it be asked."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import timm
from huggingface_hub import constants

from ftx.backbones.weights import fetch_pretrained
from ftx.core.errors import EnvironmentFault

NAME = "test_vit"
build = timm.create_model


def fails(*_: object, **__: object) -> object:
    raise OSError("no such host")


def works(*_: object, **__: object) -> object:
    return build(NAME, num_classes=0)


@pytest.mark.parametrize("found", [works, fails], ids=["fetched", "failed"])
@pytest.mark.parametrize("reachable", [True, False], ids=["a network", "none"])
@pytest.mark.parametrize("offline", [True, False], ids=["told offline", "online"])
def test_who_told_the_hub_to_stay_offline_stays_so(
    offline: bool, reachable: bool, found: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network the hub's library looks into its cache alone, while weights are fetched and no longer."""
    asked: list[bool] = []

    def create(*given: object, **named: Any) -> object:
        asked.append(constants.HF_HUB_OFFLINE)
        return found(*given, **named)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(socket, "getaddrinfo", works if reachable else fails)
    monkeypatch.setattr(timm, "create_model", create)
    for _ in range(2):
        if found is works:
            assert "pos_embed" in fetch_pretrained(NAME)
        else:
            with pytest.raises(EnvironmentFault, match=f"weights of {NAME} could not be downloaded") as caught:
                fetch_pretrained(NAME)
            assert caught.value.found == "no such host"
        assert constants.HF_HUB_OFFLINE is offline
    assert asked == [offline or not reachable] * 2


def test_a_mirror_is_reached_where_the_hub_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a closed network, with HF_ENDPOINT."""
    asked: list[bool] = []

    def create(*given: object, **named: Any) -> object:
        asked.append(constants.HF_HUB_OFFLINE)
        return works(*given, **named)

    def only_the_mirror(host: str, *_more: object) -> object:
        return works() if host == "mirror.local" else fails()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://mirror.local:8080/hub")
    monkeypatch.setattr(socket, "getaddrinfo", only_the_mirror)
    monkeypatch.setattr(timm, "create_model", create)
    fetch_pretrained(NAME)
    assert asked == [False]
