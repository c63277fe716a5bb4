"""A class for each data set: its reader, how the doctor recognises its folder, and the counts of the official release.

A new set is a file with such a class here, and a line in ``DATA_SETS`` of ``aimwrap/_choices.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, Signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

from ..io import folders_below
from ..release import Release, ReleaseDataset


class Sources(NamedTuple):
    """Files and folders outside of the set's folder, as :func:`aimwrap.data.examine` takes them.

    ``table`` is the CSV file, for images listed in a table; None looks for it.
    """

    cub: Path | None = None
    segmentations: Path | None = None
    imagenet: Path | None = None
    class_list: Path | None = None
    annotations: Path | None = None
    masks: Path | None = None
    any_value_is_object: bool = False
    table: Path | None = None
    columns: Mapping[str, str] = MappingProxyType({})


class Expected(NamedTuple):
    """Counts of one split of the official release; None where they are not known."""

    images: int | None
    labels: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None
    balanced: bool = False  # whether each label has the same number of images on every place, up to one


class DatasetOnDisk(ReleaseDataset):
    """A data set with its reader, and what the doctor knows about it.

    The first argument is that of ``read``, then ``split="train"``; by name follow ``transform`` and the others of
    ``read``.

    Attributes:
        read: the function that reads the tables and folders; its first argument is the set's folder.
        title: name for readers of the doctor's report.
        generic: whether its evidence would also fit many official releases, so that those are looked for first.
        authority: the source of the expected counts.
        num_classes: of the official release, or None.
        where_masks: how to get masks; empty if the set never has any.
        empty_masks: what the doctor thinks of them, where others are not empty.
        duplicates: mark for the same file in two splits; a warning where the official release has some.
        owns_folder: whether every image below its folder should be one of the release.
    """

    read: ClassVar[Callable[..., Release]]
    title: ClassVar[str]
    generic: ClassVar[bool] = False
    authority: ClassVar[str] = "the official release"
    num_classes: ClassVar[int | None] = None
    where_masks: ClassVar[str] = ""
    empty_masks: ClassVar[Literal["ok", "warning", "fault"]] = "fault"
    duplicates: ClassVar[Literal["warning", "fault"]] = "fault"
    owns_folder: ClassVar[bool] = True
    __signature__: ClassVar[Signature]

    def __init_subclass__(cls) -> None:
        """Give the class its reader's arguments, for ``help``. Type checkers do not see them: the reader has them."""
        super().__init_subclass__()
        first, *others = inspect.signature(cls.read).parameters.values()
        split = Parameter("split", Parameter.POSITIONAL_OR_KEYWORD, default="train", annotation="str | None")
        transform = Parameter("transform", Parameter.KEYWORD_ONLY, default=None)
        named = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in others]
        cls.__signature__ = Signature([first, split, transform, *named])

    def __init__(self, *given: Any, **named: Any) -> None:
        try:
            arguments = self.__signature__.bind(*given, **named).arguments
        except TypeError as error:
            takes = ", ".join(self.__signature__.parameters)
            raise TypeError(f"{type(self).__name__}: {error}; it takes {takes}") from None
        split, transform = arguments.pop("split", "train"), arguments.pop("transform", None)
        super().__init__(type(self).read(**arguments), split, transform)

    @classmethod
    def evidence(cls, folder: Path, sources: Sources) -> str | None:
        """Why a folder looks like this set, as a sentence after "because"; None if it does not."""
        raise NotImplementedError

    @classmethod
    def path(cls, root: Path, sources: Sources) -> Path:
        """First argument of the reader for a folder that was recognised."""
        return root

    @classmethod
    def arguments(cls, root: Path, sources: Sources) -> dict[str, Any]:
        """Other arguments of the reader: the sources that it takes and that were given."""
        taken = list(inspect.signature(cls.read).parameters)[1:]
        given = {name: value for name, value in sources._asdict().items() if value not in (None, False)}
        return {name: value for name, value in given.items() if name in taken}

    @classmethod
    def missing_source(cls, root: Path, sources: Sources) -> str | None:
        """Which source is needed and missing, with the option that names it; None if none is."""
        return None

    @classmethod
    def expected(cls, release: Release) -> Mapping[str, Expected] | None:
        """Counts of the official release by split; None if there is nothing to compare with."""
        return None

    @classmethod
    def own_folders(cls, release: Release) -> Iterable[Path]:
        """Folders in which every image should be one of the release."""
        return folders_below(release.root) if cls.owns_folder else ()
