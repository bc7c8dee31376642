"""Of several processes that torchrun started one says what went wrong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore

from ftx.core import rank_zero_output
from ftx.core.errors import InputError


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The one by which the processes of torchrun meet; this is the second of three."""
    made = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    given = {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"}
    for name, value in {**given, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(made.port)}.items():
        monkeypatch.setenv(name, value)
    return made


def claimed() -> bool:
    """Of another thread than the main one, so that this process goes on hearing signals."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(rank_zero_output.claim_error_output).result()


@pytest.mark.usefixtures("store")
def test_an_error_is_said_once_each_time_that_the_processes_were_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [claimed() for _ in range(3)] == [True, False, False]
    for restart in ("1", "2"):  # torchrun starts all of them again, and its store stays
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restart)
        assert [claimed() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(("rank", "local_rank", "says"), [("1", "1", True), ("4", "0", True), ("2", "2", False)])
def test_where_the_store_is_gone_one_of_each_machine_says_it(
    rank: str, local_rank: str, says: bool, store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_PORT", "none")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert claimed() is says


@pytest.mark.usefixtures("store")
def test_what_one_process_does_is_refused_to_several_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not rank_zero_output.is_rank_zero()
    with pytest.raises(InputError, match="a merge must run in one process") as refused:
        rank_zero_output.check_one_process("a merge")
    assert refused.value.found == "3 processes, started by torchrun"
    monkeypatch.setenv("RANK", "0")
    assert rank_zero_output.is_rank_zero()
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun with one process
    rank_zero_output.check_one_process("a merge")
