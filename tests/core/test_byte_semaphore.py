"""Bytes that are held: by one that is larger than all there are, and by those that fail or go away."""

from __future__ import annotations

import asyncio

import pytest

from ftx.core.byte_semaphore import AsyncByteSemaphore


def test_what_is_larger_than_all_goes_alone() -> None:
    async def run() -> None:
        memory = AsyncByteSemaphore(1000)
        async with memory.holding(5000):  # nothing is held
            small = asyncio.ensure_future(_held_once(memory, 1))
            await asyncio.sleep(0.01)
            assert not small.done()
        await small
        async with memory.holding(1):
            large = asyncio.ensure_future(_held_once(memory, 5000))
            await asyncio.sleep(0.01)
            assert not large.done()
        await large

    asyncio.run(asyncio.wait_for(run(), 10))


async def _held_once(memory: AsyncByteSemaphore, size_bytes: int) -> None:
    async with memory.holding(size_bytes):
        pass


def test_bytes_come_back_from_whoever_fails_or_goes_away() -> None:
    async def run() -> None:
        memory = AsyncByteSemaphore(1000)
        for _ in range(3):  # more than all there is
            with pytest.raises(ValueError, match="broken"):
                async with memory.holding(600):
                    raise ValueError("broken")
        async with memory.holding(600):
            gone = [asyncio.ensure_future(_held_once(memory, 600)) for _ in range(3)]
            stays = asyncio.ensure_future(_held_once(memory, 1000))
            await asyncio.sleep(0.01)
            for one in gone:
                one.cancel()
            await asyncio.wait(gone, timeout=10)
            assert not stays.done()
        await stays
        async with memory.holding(500), memory.holding(500):
            assert not memory._waiting

    asyncio.run(asyncio.wait_for(run(), 10))
