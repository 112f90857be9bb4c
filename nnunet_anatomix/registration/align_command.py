"""``nnunet-anatomix align``."""

from __future__ import annotations

import csv
import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pretraining.errors import InputError

if TYPE_CHECKING:
    from nnunet_anatomix.registration.atlas import AtlasScan

log = logging.getLogger(__name__)

Window = tuple[float, float] | None


def align(
    scans: Path,
    out: Path,
    atlas: Path | None = None,
    rounds: int = 2,
    weights: str | None = None,
    clip: Window = None,
    atlas_clip: Window = None,
    spacing: float | None = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(aliases=["-device"])] = "auto",
) -> None:
    """Bring many scans to one space by affine transforms: an atlas made of them, or a given one; killed, it goes on.

    Args:
        scans: CSV with the column scan and perhaps name, labels (to move along), group (such as the modality: the first scan's group makes
            the atlas, the others are aligned to it) and clip (such as -450 450, of that scan); paths are relative to it.
        out: Folder for atlas.nii.gz, alignment.json and, for each scan, NAME_aligned.nii.gz, NAME_affine.tfm and NAME_labels.nii.gz.
        atlas: Scan to align all others to, which keeps its grid; left out, an atlas in the mean pose is made of the scans.
        rounds: Of aligning and averaging, without a given atlas.
        weights: Weights file or hf://owner/repo/file@revision; the bundled ones if left out; none for MIND-SSC alone.
        clip: Intensities that become 0 and 1 in scans without a clip of their own: -450 450 for CT; least and greatest if left out.
        atlas_clip: The same of the given atlas.
        spacing: Of the atlas' grid, mm; the first scan's own if left out.
        device: auto, cpu or cuda.
    """
    # Imports torch, which --help does without.
    from nnunet_anatomix.other_weights import feature_weights
    from nnunet_anatomix.registration.align import align_scans
    from nnunet_anatomix.registration.descriptors import DescriptorConfig
    from pretraining.device import named_device
    from pretraining.precision import has_bf16_units

    runs_on = named_device(device)
    found = read_atlas_scans(scans, clip)
    features = weights != "none"
    done = align_scans(
        found,
        out,
        atlas=atlas,
        atlas_clip=atlas_clip,
        rounds=rounds,
        spacing_mm=spacing,
        config=DescriptorConfig(bf16=has_bf16_units(runs_on)) if features else DescriptorConfig(feature_weight=0.0),
        weights=feature_weights(weights) if features else None,
        device=runs_on,
    )
    log.info("%d alignments computed, %d scans are aligned; all of it is in %s", done, len(found), out)


def read_atlas_scans(path: Path, clip: Window = None) -> list[AtlasScan]:
    """Read a CSV with the column ``scan`` and perhaps ``name``, ``labels``, ``group``, ``clip``; paths are relative to its folder.

    Parameters
    ----------
    clip : of the scans whose cell ``clip`` (two numbers, such as ``-450 450``) is empty.

    Raises
    ------
    InputError
        For a missing file, unknown or missing columns, a row without a scan, a clip that is none, or two scans of one name.
    """
    from nnunet_anatomix.registration.atlas import AtlasScan

    known = [one.name for one in fields(AtlasScan)]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"scans: cannot read {path}: {error}") from None
    if "scan" not in columns or set(columns) - set(known) or not rows:
        raise InputError(f"scans: expected a CSV with the column scan, none but {known}, and a row a scan, found {columns} in {path}")
    scans: dict[str, AtlasScan] = {}
    for number, row in enumerate(rows, 2):
        where = f"scans: line {number} of {path}"
        if not row["scan"] or None in row:
            raise InputError(f"{where} needs a scan, and no more cells than columns")
        name = row.get("name") or Path(row["scan"]).name.removesuffix(".gz").rsplit(".", 1)[0]
        if Path(name).name != name or name.startswith("."):
            raise InputError(f"{where}: '{name}' begins names of files; use letters, digits, - and _")
        if name in scans:
            raise InputError(f"{where}: a second scan called '{name}'; give each a name of its own in a column name")
        scans[name] = AtlasScan(
            name=name,
            scan=path.parent / row["scan"],
            labels=path.parent / row["labels"] if row.get("labels") else None,
            group=row.get("group") or "",
            clip=_window(row["clip"], where) if row.get("clip") else clip,
        )
    return list(scans.values())


def _window(cell: str, where: str) -> tuple[float, float]:
    try:
        low, high = map(float, cell.split())
    except ValueError:
        raise InputError(f"{where}: expected a clip of two numbers such as -450 450, found '{cell}'") from None
    return low, high
