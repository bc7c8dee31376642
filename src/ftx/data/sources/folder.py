"""What lies in a data folder: class folders and the image files in them, before any is opened."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from ftx.core.addresses import typed
from ftx.core.errors import DataError, nearest
from ftx.core.untrusted_input import MOST_TREE_LEVELS
from ftx.data.dataset import SPLITS, Split
from ftx.data.shards.paths import SHARDS_FILE, archives_in, are_shards
from ftx.data.sources.listing import IMAGE_ENDINGS, SPLIT_WORDS, ListedImage, Listing, check_link_inside
from ftx.tasks.labels import LabelDeclaration

# What operating systems and file servers leave in folders; not worth a word. Hidden files join them.
LITTER = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "__macosx", "@eadir", "$recycle.bin"})

_SHAPE = "make one folder per class and put its images directly into it: DIR/<class>/*.jpg, or DIR/train/<class>/*.jpg"


def read_folder(root: Path, *, nested: bool = False, follow_links: bool = False) -> Listing:
    """List the image files below ``root``; ``nested`` folders are a label tree, and an image's label its path in it.

    Raises: DataError if the folder is missing, has no class folders or only one, holds no images, nests
    folders deeper than classes, names a class in val or test that train lacks, links to a folder twice, or out of
    itself where links are not followed.
    """
    if not root.is_dir():
        raise _no_folder(root)
    walker = _Walker(root, nested=nested, follow_links=follow_links)
    folders = _splits(root, walker)
    if not folders:
        names, files = walker.classes(root, None)
        return _checked(Listing(root, "folders", files, LabelDeclaration(names), walker.ignored), walker)
    listed = [(folder, *walker.classes(folder, split)) for split, folder in folders.items()]
    walker.loose_files(root)
    names = next(present for folder, present, _ in listed if folder == folders["train"])
    for folder, present, found in listed:
        if unknown := [name for name in present if name not in names]:
            alike = nearest(unknown[0], names)
            raise DataError(
                f"each class of {folder.name}/ must be in train/ too",
                where=folder,
                found=", ".join(unknown),
                fix=f"did you mean {alike}?" if alike else f"add it to train/, which has {', '.join(names)}",
            )
        if not found:
            raise DataError(
                f"{folder.name}/ must contain images", where=folder, fix=f"add images, or remove {folder.name}/"
            )
    files = tuple(file for *_, found in listed for file in found)
    return _checked(Listing(root, "splits", files, LabelDeclaration(names), walker.ignored), walker)


def check_data_path(path: Path) -> None:
    """Raise DataError for a data path that does not exist, unless it is an address or names shards."""
    place = typed(path)
    if not (isinstance(place, Path) and place.exists()) and not are_shards(place):
        raise _no_folder(path)


def _no_folder(root: Path) -> DataError:
    return DataError(
        "the data folder does not exist",
        where=root,
        found="a file" if root.is_file() else "not a regular file" if root.exists() else _neighbour(root),
        fix="give the folder that contains your images, as in: ftx train --data DIR",
    )


class _Walker:
    """Lists folders, counting what it passes over."""

    def __init__(self, root: Path, *, nested: bool, follow_links: bool) -> None:
        self.root, self.nested, self.follow_links = root, nested, follow_links
        self.real_root = Path(os.path.realpath(root))
        self.ignored: Counter[str] = Counter()
        self._listed: dict[Path, list[Path]] = {}
        self._real: dict[str, Path] = {}  # where each folder is listed

    def visible(self, folder: Path) -> list[Path]:
        """Folders and files by name, without litter.

        Raises: DataError for a link to a folder that is listed already, or that leads out of the root.
        """
        if folder not in self._listed:
            other = self._real.setdefault(os.path.realpath(folder), folder)
            if other != folder:
                raise _listed_already(other if other.is_symlink() else folder, folder)
            self._listed[folder] = self._visible(folder)
        return self._listed[folder]

    def _visible(self, folder: Path) -> list[Path]:
        try:
            paths = sorted(path for path in folder.iterdir() if not _is_litter(path.name))
        except OSError as error:
            raise DataError(
                "the folder cannot be read",
                where=folder,
                found=error.strerror,
                fix="check the read permission of the folder",
            ) from error
        for link in (path for path in paths if path.is_symlink()):
            if not self.follow_links:
                check_link_inside(self.real_root, link)
            # Two links to a folder, or one to a folder that it is in, would list the same images without end.
            target = os.path.realpath(link)
            if target in self._real:
                raise _listed_already(link, target)
            if link.is_dir():
                self._real[target] = link
        return paths

    def folders(self, folder: Path) -> list[Path]:
        """The folders straight below."""
        return [path for path in self.visible(folder) if path.is_dir()]

    def classes(self, folder: Path, split: Split | None) -> tuple[tuple[str, ...], tuple[ListedImage, ...]]:
        """The class folders straight below, and the images in them."""
        loose = self.loose_files(folder)
        class_folders = self.folders(folder)
        if not class_folders and not loose and (named := archives_in(folder)):
            raise DataError(
                f"shards without {SHARDS_FILE} must be named", where=folder, fix=f"give their names: {named}"
            )
        if not class_folders:
            raise DataError(
                "the data folder must contain one folder per class",
                where=folder,
                found=f"{loose} images and no folders" if loose else "no folders",
                fix=_SHAPE,
            )
        names = tuple(path.name for path in class_folders)
        return names, tuple(found for path in class_folders for found in self._images(path, path.name, split))

    def loose_files(self, folder: Path) -> int:
        """Count the images next to folders, which belong to no class; they and other files are ignored."""
        files = [path for path in self.visible(folder) if not path.is_dir()]
        for path in files:
            self.ignored["images outside class folders" if _is_image(path) else _ending(path)] += 1
        return sum(_is_image(path) for path in files)

    def _data_set_inside(self, folder: Path) -> Path | None:
        """The folder, if it looks like the data set itself: it is the only one in its parent, or contains splits."""
        holds_splits = any(_split_of(inside) is not None for inside in self.folders(folder))
        return folder if holds_splits or self.folders(folder.parent) == [folder] else None

    def _images(self, class_folder: Path, label: str, split: Split | None, level: int = 1) -> Iterator[ListedImage]:
        if not _is_text(class_folder.name):
            name = ascii(class_folder.name)
            raise DataError(
                "the name of a class folder must be UTF-8 text",
                where=class_folder.parent,
                found=name,
                fix="rename the folder",
            )
        if level > MOST_TREE_LEVELS:
            raise DataError(
                f"class folders must be nested at most {MOST_TREE_LEVELS} levels deep",
                where=class_folder,
                found=f"more than {MOST_TREE_LEVELS} levels of labels",
                fix="move the images to fewer levels of folders",
            )
        for path in self.visible(class_folder):
            if path.is_dir() and self.nested:
                yield from self._images(path, f"{label}/{path.name}", split, level + 1)
            elif path.is_dir():
                meant = self._data_set_inside(class_folder)
                raise DataError(
                    "a class folder must contain only images",
                    where=path,
                    found=f"{path.name} inside the class {class_folder.name}",
                    fix=(f"did you mean {meant}? If not, " if meant else "")
                    + f"use --task hierarchical for a label tree, or {_SHAPE}",
                )
            elif _is_image(path):
                yield ListedImage(path.relative_to(self.root).as_posix(), (label,), split)
            else:
                self.ignored[_ending(path)] += 1


# As people call the folders of a split: train, Training, val2017, test_set, train-images.
_SPLIT_FOLDER = re.compile(rf"({'|'.join(SPLIT_WORDS)})[ _-]?(?:\d{{4}}|set|data|images)?", re.IGNORECASE)


def _split_of(folder: Path) -> Split | None:
    named = _SPLIT_FOLDER.fullmatch(folder.name)
    return SPLIT_WORDS[named[1].lower()] if named else None


def _listed_already(link: Path, target: Path | str) -> DataError:
    found = f"it points at {target}"
    return DataError(
        "a link must not lead to a folder that is read already", where=link, found=found, fix="remove the link"
    )


def _splits(root: Path, walker: _Walker) -> dict[Split, Path]:
    """The folder of each split, whatever of the usual names it has; none where the folders are classes.

    Raises: DataError for splits without train, for two folders of one split, or for another folder next to them.
    """
    top = walker.folders(root)
    found: dict[Split, Path] = {}
    for folder in top:
        split = _split_of(folder)
        if split is not None and (other := found.setdefault(split, folder)) is not folder:
            raise DataError(
                f"only one folder may be the split {split}",
                where=root,
                found=f"{other.name} and {folder.name}",
                fix="put their images into one folder; if these are classes, move both into train/",
            )
    names = [folder.name for folder in top]
    others = [folder.name for folder in top if _split_of(folder) is None]
    if names and not others and "train" not in found:
        raise DataError(
            "the data must have a folder train/", where=root, found=", ".join(names), fix="add train/<class>/"
        )
    if "train" not in found:
        return {}
    # A class may be called "train" (of wagons); a split holds folders, a class does not.
    if others and walker.folders(found["train"]):
        alike = nearest(others[0], SPLITS)
        raise DataError(
            "each folder next to train/ must be a split: val/ or test/",
            where=root / others[0],
            found=", ".join(names),
            fix=f"did you mean {alike}?" if alike else "move the other folders to another place",
        )
    return {} if others else found


def _checked(tree: Listing, walker: _Walker) -> Listing:
    if not tree.files:
        raise DataError(
            "the data folder must contain images",
            where=tree.root,
            found=describe_ignored(tree.ignored) or "no files",
            fix=_SHAPE,
        )
    if len(tree.declared.names) < 2:
        only = ", ".join(tree.declared.names)
        inside = tree.layout == "folders" and walker.folders(walker.root / only)
        fix = f"did you mean {walker.root / only}? If not, {_SHAPE}" if inside else _SHAPE
        raise DataError("the data must have at least two classes", where=tree.root, found=only, fix=fix)
    return tree


def table_among_folders(root: Path) -> Path | None:
    """A table next to class folders, which may be what was meant."""
    return next(iter(sorted(root.glob("*.csv")) + sorted(root.glob("*.jsonl"))), None)


def describe_ignored(ignored: Mapping[str, int]) -> str:
    """Counts of files by ending, as text."""
    return ", ".join(f"{count} {ending}" for ending, count in sorted(ignored.items()))


def _is_image(path: Path) -> bool:
    # A link that points nowhere is no file, yet meant as one: opening it raises the error.
    return path.suffix.lower() in IMAGE_ENDINGS and (path.is_file() or path.is_symlink())


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes in another encoding, which Python carries as lone surrogates
        return False
    return True


def _ending(path: Path) -> str:
    return path.suffix.lower() or "without an ending"


def _neighbour(root: Path) -> str | None:
    parent = root.absolute().parent
    alike = nearest(root.name, [path.name for path in parent.iterdir() if path.is_dir()]) if parent.is_dir() else None
    return f"nearest: {root.parent / alike}" if alike else None
