"""``shards.json``, next to the shards: what each contains, and how the labels of the data relate."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ftx.core.addresses import Address, Location
from ftx.core.closed_model import ClosedModel
from ftx.core.errors import DataError, first_error
from ftx.core.files import write_atomic
from ftx.core.untrusted_input import JsonError, parse_json, read_file
from ftx.data.dataset import Split
from ftx.data.shards.fetched import content_at
from ftx.data.shards.paths import SHARDS_FILE
from ftx.tasks.labels import LabelDeclaration

# A hundred thousand shards, and as many labels.
_MOST_BYTES = 64 << 20
WRITE_SHARDS_AGAIN = "write the shards again: ftx data shard DATA OUT"


class Shard(ClosedModel):
    """An archive: its name, how many images it holds, its size, and the SHA-256 of its bytes."""

    name: str = Field(pattern=r"^[^/\\\x00]+\.tar$")
    images: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class DeclaredLabels(ClosedModel):
    """As ``ftx.tasks.labels.LabelDeclaration``: labels, which are mutually exclusive, and their parents."""

    names: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] | None = None
    parents: dict[str, str] = {}  # noqa: RUF012  pydantic copies it

    def open(self) -> LabelDeclaration:
        """The declaration, as other sources return it."""
        return LabelDeclaration(self.names, self.groups, self.parents)


class Shards(ClosedModel):
    """What ``ftx data shard`` wrote: ``counts`` are images by split, those that are in none yet under "none"."""

    format: Literal["ftx shards 1"] = "ftx shards 1"
    images: int
    counts: dict[Split | Literal["none"], int]
    labels: DeclaredLabels
    shards: tuple[Shard, ...]


def read_shards_json(root: Location) -> Shards | None:
    """The index of the shards in a folder, or at an address; None if there is none.

    Raises: DataError if it is invalid; EnvironmentFault if the address cannot be reached.
    """
    file = root / SHARDS_FILE
    try:
        if isinstance(file, Address):
            content = content_at(file, _MOST_BYTES)
        else:
            content = read_file(file, _MOST_BYTES) if file.exists() else None
        return None if content is None else Shards.model_validate(parse_json(content))
    except OSError as error:
        raise DataError(
            f"{SHARDS_FILE} cannot be read", where=file, found=error.strerror, fix=WRITE_SHARDS_AGAIN
        ) from error
    except (JsonError, ValidationError) as error:
        found = first_error(error) if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{SHARDS_FILE} is invalid", where=file, found=found, fix=WRITE_SHARDS_AGAIN) from error


def write_shards_json(folder: Path, shards: Shards) -> None:
    """Write it, a line for each shard."""
    write_atomic(folder / SHARDS_FILE, shards.model_dump_json(indent=1).encode() + b"\n")
