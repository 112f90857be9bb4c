"""``nnunet-anatomix align``."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nnunet_anatomix.registration.lists import read_list
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
    trust_code: bool = False,
    statistics: Literal["running", "own"] = "running",
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
        trust_code: Call the code that a .json names even if it is no torch.nn.Module, or the file comes from the hub.
        statistics: What batch normalization uses: the running averages of its training, or each scan's own.
        device: auto, cpu or cuda.
    """
    # Imports torch, which --help does without.
    from nnunet_anatomix.other_weights import feature_weights
    from nnunet_anatomix.registration.align import align_scans
    from nnunet_anatomix.registration.descriptors import DescriptorConfig
    from pretraining.common.outputs import try_folder
    from pretraining.device import named_device
    from pretraining.precision import has_bf16_units

    try_folder(out)
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
        weights=feature_weights(weights, trust_code=trust_code, statistics=statistics) if features else None,
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
        As by :func:`~nnunet_anatomix.registration.lists.read_list`, or for a clip that is none.
    """
    from nnunet_anatomix.registration.atlas import AtlasScan

    optional = [one.name for one in fields(AtlasScan) if one.name not in ("name", "scan")]
    rows = read_list(path, "scans", required=("scan",), optional=optional, unnamed=lambda number, cells: _stem(cells["scan"]))
    return [
        AtlasScan(
            name=name,
            scan=path.parent / cells["scan"],
            labels=path.parent / cells["labels"] if "labels" in cells else None,
            group=cells.get("group", ""),
            clip=_window(cells["clip"], where) if "clip" in cells else clip,
        )
        for name, cells, where in rows
    ]


def _stem(scan: str) -> str:
    return Path(scan).name.removesuffix(".gz").rsplit(".", 1)[0]


def _window(cell: str, where: str) -> tuple[float, float]:
    try:
        low, high = map(float, cell.split())
    except ValueError:
        raise InputError(f"{where}: expected a clip of two numbers such as -450 450, found '{cell}'") from None
    return low, high
