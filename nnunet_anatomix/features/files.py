"""Feature files: vector images for viewers and ITK, or blosc2 arrays as nnU-Net stores them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from torch import Tensor

from pretraining.common.atomic import atomic_write
from pretraining.common.completeness import Incomplete
from pretraining.common.errors import InputError
from pretraining.imaging.writing import write_image

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".b2nd")


def feature_ending(path: str | Path) -> str:
    """Return the ending of a feature file, one of ``ENDINGS``.

    Raises:
        InputError: If the name has none of them.
    """
    name = Path(path).name.lower()
    for ending in ENDINGS:
        if name.endswith(ending) and name != ending:
            return ending
    raise InputError(f"expected a file for features that ends with {', '.join(ENDINGS)}, found {path}")


def write_features(path: str | Path, features: Tensor, image: sitk.Image) -> None:
    """Write features to a file, atomically.

    An image file stores one vector per voxel, on the grid of ``image``. A ``.b2nd`` file stores the
    axes (C, Z, Y, X) as nnU-Net does; its metadata contains ``geometry`` (spacing in mm and origin
    along X, Y, Z, direction row by row).

    Args:
        path: File to write, with one of ``ENDINGS``.
        features: (C, X, Y, Z).
        image: Any image on the same grid.
    """
    if feature_ending(path) == ".b2nd":
        array = np.ascontiguousarray(features.permute(0, 3, 2, 1).numpy())
        with atomic_write(path, verify=lambda partial: _verify_blosc2(partial, array)) as partial:
            _write_blosc2(partial, array, image)
        return
    vectors = sitk.GetImageFromArray(np.ascontiguousarray(features.permute(3, 2, 1, 0).numpy()), isVector=True)
    vectors.CopyInformation(image)
    write_image(path, vectors, compress=False)


def _write_blosc2(path: Path, array: np.ndarray, image: sitk.Image) -> None:
    import blosc2

    path.unlink()  # blosc2 does not overwrite files
    geometry = {
        "axes": "CZYX",
        "spacing": list(image.GetSpacing()),
        "origin": list(image.GetOrigin()),
        "direction": list(image.GetDirection()),
    }
    compression = blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1)
    chunks = (1, *(min(64, side) for side in array.shape[1:]))
    stored = blosc2.asarray(array, urlpath=str(path), mode="w", chunks=chunks, cparams=compression)
    stored.schunk.vlmeta["geometry"] = geometry


def _verify_blosc2(path: Path, array: np.ndarray) -> None:
    import blosc2

    try:
        stored = blosc2.open(str(path), mode="r")
        is_same = stored.shape == array.shape and all(
            np.array_equal(stored[channel], array[channel]) for channel in range(len(array))
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise Incomplete(str(error)) from None
    if not is_same:
        raise Incomplete("the values read back differ from those written")
