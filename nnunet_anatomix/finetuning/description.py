"""Checks of a ``dataset.json``: labels and reader that nnU-Net can train with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES, recursive_find_reader_writer_by_name

from pretraining.common.errors import InputError
from pretraining.imaging.dataset_json import IGNORE, DatasetJson

READER = "overwrite_image_reader_writer"


def require_labels(dataset_name: str, description: Mapping[str, Any]) -> None:
    """Check that nnU-Net can train on the labels of ``dataset.json``.

    Args:
        dataset_name: Name of the dataset, for messages.
        description: Content of ``dataset.json``.

    Raises:
        InputError: Unless labels are names with consecutive numbers, with a background of 0, at
            least one foreground label, the ignore label last, and for regions a matching order of
            classes.
    """
    where = f"dataset.json of {dataset_name}"
    dataset_json = DatasetJson(where=where, content=description)
    dataset_json.require_background()
    if not dataset_json.foreground:
        raise InputError(f"{dataset_name} has no foreground label in dataset.json; fine-tuning needs one")
    known = {0}.union(*dataset_json.foreground.values())
    if IGNORE in dataset_json.labels and (found := description["labels"][IGNORE]) != max(known) + 1:
        raise InputError(
            f"{where}: expected {max(known) + 1} for the label ignore, after all others, found {found}; "
            "renumber the labels"
        )
    if dataset_json.has_regions:
        dataset_json.require_region_numbers()
    elif known != set(range(len(known))):
        raise InputError(
            f"{where}: expected the labels 0 to {len(known) - 1}, found {sorted(known)}; renumber them without gaps"
        )


def require_reader(dataset_name: str, description: Mapping[str, Any]) -> None:
    """Check that nnU-Net knows the reader that ``dataset.json`` names, if it names one.

    nnU-Net itself uses another reader instead of an unknown one.

    Args:
        dataset_name: Name of the dataset, for messages.
        description: Content of ``dataset.json``.

    Raises:
        InputError: If nnU-Net has no reader of this name.
    """
    name = description.get(READER, "None")
    if name == "None":
        return
    try:
        reader = recursive_find_reader_writer_by_name(str(name))
    except RuntimeError:
        reader = None
    if not isinstance(reader, type) or not issubclass(reader, BaseReaderWriter):
        known = ", ".join(sorted(found.__name__ for found in LIST_OF_IO_CLASSES))
        raise InputError(
            f"dataset.json of {dataset_name}: expected {READER} to be one of nnU-Net's readers ({known}), "
            f"found {name!r}; correct it, or remove the key"
        )
