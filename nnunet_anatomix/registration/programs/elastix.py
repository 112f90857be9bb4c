"""Register two images with elastix: B-splines that maximize mutual information.

``python -m nnunet_anatomix.registration.programs.elastix FIXED MOVING FIXED_MASK MOVING_MASK OUT``
"""

from __future__ import annotations

import os

from nnunet_anatomix.registration.programs.files import FIELD, parse_files

LEVELS = 4
"""Number of resolutions."""
KNOTS_MM = 16.0
"""Distance of the B-splines' knots at the finest resolution, mm."""


def main() -> None:
    """Register two images, and write the displacement field."""
    files = parse_files("elastix", "itk", "itk-elastix")
    import itk

    parameters = itk.ParameterObject.New()
    bspline = parameters.GetDefaultParameterMap("bspline", LEVELS, KNOTS_MM)
    bspline["WriteResultImage"] = ("false",)
    bspline["ErodeMask"] = ("false",)  # elastix erodes by 17 voxels at first, which leaves nothing of small masks
    parameters.AddParameterMap(bspline)
    fixed, moving = (itk.imread(str(path), itk.F) for path in (files.fixed, files.moving))
    fixed_mask, moving_mask = (itk.imread(str(path), itk.UC) for path in (files.fixed_mask, files.moving_mask))
    _, result = itk.elastix_registration_method(
        fixed,
        moving,
        parameter_object=parameters,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        log_to_console=True,  # its exceptions do not give the reason
    )
    os.chdir(files.out)  # transformix also leaves a deformationField.nii where it runs
    itk.imwrite(itk.transformix_deformation_field(moving, result), FIELD)


if __name__ == "__main__":
    main()
