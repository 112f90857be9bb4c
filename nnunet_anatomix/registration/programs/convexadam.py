"""Register two images with the convexadam package: MIND-SSC and its default settings.

``python -m nnunet_anatomix.registration.programs.convexadam`` takes the arguments of files.py. The
masks are not passed on: the images repeat the nearest known voxel already, which is what the
package does with masks, and the package refuses masks of odd sizes.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_anatomix.registration.programs.files import FIELD, parse_files
from nnunet_anatomix.registration.warp import itk_transform
from pretraining.imaging.grids import image_tensor
from pretraining.imaging.writing import save_image


def main() -> None:
    """Register two images, and write the displacement field."""
    files = parse_files("convexadam", "convexAdam", "convexadam")
    from convexAdam.convex_adam_MIND import convex_adam_pt

    fixed, moving = (sitk.ReadImage(str(path)) for path in (files.fixed, files.moving))
    displacement = convex_adam_pt(image_tensor(fixed), image_tensor(moving), dtype=torch.float32)
    field = itk_transform(torch.from_numpy(np.ascontiguousarray(displacement)).movedim(-1, 0).float(), fixed)
    save_image(files.out / FIELD, sitk.Cast(field.GetDisplacementField(), sitk.sitkVectorFloat32))


if __name__ == "__main__":
    main()
