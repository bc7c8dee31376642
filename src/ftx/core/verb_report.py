"""What every verb's answer has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ftx.core.version import __version__


class VerbReport(BaseModel):
    """The head of each ``--json`` object; what the verb measured follows in the subclass."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    ftx: str = __version__
    verb: str
    run: str | None = None
    ok: bool = True
