"""What the reports of all commands have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ftx.core.version import __version__


class CommandReport(BaseModel):
    """The head of each ``--json`` object; what the command measured follows in the subclass."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    ftx: str = __version__
    verb: str
    run: str | None = None
    ok: bool = True
