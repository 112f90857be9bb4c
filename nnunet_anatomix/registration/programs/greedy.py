"""Register two images with greedy: a diffeomorphic field that maximizes mutual information.

``python -m nnunet_anatomix.registration.programs.greedy FIXED MOVING FIXED_MASK MOVING_MASK OUT``
"""

from __future__ import annotations

import os

from nnunet_anatomix.registration.programs.files import FIELD, parse_files

METRIC = "NMI"
"""Normalized mutual information; greedy's local correlation is for images of one modality."""
ITERATIONS = "100x100x50"
"""Iterations per resolution, coarse to fine."""


def main() -> None:
    """Register two images, and write the displacement field."""
    files = parse_files("greedy", "picsl_greedy", "picsl_greedy")
    from picsl_greedy import Greedy3D

    paths = (files.fixed, files.moving, files.fixed_mask, files.moving_mask)
    # greedy splits its command line at spaces, which the names of folders may contain.
    fixed, moving, fixed_mask, moving_mask = (os.path.relpath(path.resolve(), files.out.resolve()) for path in paths)
    os.chdir(files.out)
    Greedy3D().execute(
        f"-i {fixed} {moving} -gm {fixed_mask} -mm {moving_mask} -m {METRIC} -n {ITERATIONS} -wp 0 -o {FIELD}"
    )


if __name__ == "__main__":
    main()
