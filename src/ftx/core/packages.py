"""Packages that a long work needs at its end, checked before it begins; and how to install those of an extra."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "ftx-vit"
# Names no package: on an index the name may be another's.
INSTALL_AGAIN = "install ftx and its models again, as README.md says"


def require(package: str) -> None:
    """Check that a package is installed, without importing it.

    Raises: ModuleNotFoundError, for which the command line names the extra.
    """
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named '{package}'", name=package)


def install_command(extra: str) -> str:
    """The command that installs an extra from where this ftx came.

    A package index is named only if ftx came from one: else the name may be another's there.
    Source: PEP 610, direct_url.json.
    """
    try:
        recorded = distribution(DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:  # started from its source
        return f"install ftx with the extra {extra}, as README.md says"
    if recorded is None:
        return f"pip install '{DISTRIBUTION}[{extra}]'"
    origin = json.loads(recorded)
    address = urlsplit(origin["url"])
    if address.scheme != "file":
        source = origin["url"]
        if (repository := origin.get("vcs_info")) is not None:
            source = f"{repository['vcs']}+{source}@{repository['commit_id']}"
        if (folder := origin.get("subdirectory")) is not None:
            source += f"#subdirectory={folder}"
        return f"pip install {shlex.quote(f'{DISTRIBUTION}[{extra}] @ {source}')}"
    path = Path(unquote(address.path))
    requirement = shlex.quote(f"{path}[{extra}]")
    if "dir_info" not in origin:  # a wheel; that of the models is next to it
        return f"pip install --find-links {shlex.quote(str(path.parent))} {requirement}"
    flag = "-e " if origin["dir_info"].get("editable") else ""
    models = f"{flag}{shlex.quote(str(path / 'models'))} " if (path / "models").is_dir() else ""
    return f"pip install {models}{flag}{requirement}"
