"""What the reports of all commands have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ftx.core.version import __version__


class CommandReport(BaseModel):
    """The fields that the ``--json`` objects of all commands have; a subclass adds those of its command."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    ftx: str = __version__
    """The version of ftx."""
    verb: str
    """The command, for example ``train``."""
    run: str | None = None
    """The path of the run folder; null if the command is not about one run."""
    ok: bool = True
    """false if the result is negative, for example a failed verdict or data that cannot be trained on."""
