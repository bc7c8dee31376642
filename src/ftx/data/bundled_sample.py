"""The sample data, for each task: an archive unpacked once, a table next to it."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from ftx.core.errors import DataError
from ftx.core.files import stage_folder, write_atomic
from ftx.core.packages import INSTALL_AGAIN
from ftx.core.shipped_files import sample_file
from ftx.core.untrusted_input import read_file
from ftx.tasks.task_names import TASK_FACTS, TaskName


def place_sample(task: TaskName, folder: Path) -> Path:
    """The sample of a task, below ``folder``: what to give as ``data.path``.

    Raises: DataError if something else lies there; EnvironmentFault if it cannot be written.
    """
    facts = TASK_FACTS[task]
    archive, name = facts.sample
    images = unpack_sample(sample_file(archive), folder / name)
    if facts.sample_table is None:
        return images
    carried, name = facts.sample_table
    content, table = sample_file(carried).read_bytes(), folder / name
    if not table.exists():
        write_atomic(table, content)
    elif read_file(table) != content:
        raise DataError(
            "a different file already exists at the path of the sample",
            where=table,
            fix="move this file to another folder, then run the command again",
        )
    return table


def unpack_sample(archive: Path, folder: Path) -> Path:
    """Unpack an archive of images as ``folder``, or find it there unpacked already; returns the folder.

    The folder appears when it is whole, and one with other contents is never touched.
    Raises: DataError if the archive is damaged or its names leave the folder, or if the folder holds
    something else; EnvironmentFault if it cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            for member in members:
                _check_inside(member, archive)
            if folder.exists() or folder.is_symlink():
                return _same_contents(folder, members)
            with stage_folder(folder) as staged:
                for member in members:
                    path = staged / member.filename
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(opened.read(member))  # read checks the CRC
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(
            "the sample archive is damaged",
            where=archive,
            found=str(error),
            fix=INSTALL_AGAIN,
        ) from error
    return folder


def _check_inside(member: zipfile.ZipInfo, archive: Path) -> None:
    name = member.filename
    # A name is judged as both systems would: a drive or a backslash is harmless on only one of them.
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    rooted = PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor)
    if rooted or ".." in parts or stat.S_ISLNK(member.external_attr >> 16):
        raise DataError(
            "each file of the sample archive must stay below its folder",
            where=archive,
            found=name,
            fix=INSTALL_AGAIN,
        )


def _same_contents(folder: Path, members: list[zipfile.ZipInfo]) -> Path:
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    expected = {member.filename: member.CRC for member in members}
    differing = sorted(found ^ expected.keys()) or sorted(
        name for name, crc in expected.items() if zlib.crc32(read_file(folder / name)) != crc
    )
    if differing:
        raise DataError(
            "a folder with other contents already exists at the path of the sample",
            where=folder,
            found=f"{len(differing)} files that differ from the archive, first {differing[0]}",
            fix="move this folder to another place, then run the command again",
        )
    return folder
