"""Public files are read or refused as before, and read as their referees read them."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nitransforms.io.lta import FSLinearTransform

from nnunet_anatomix.registration.formats.reading import read_foreign
from pretraining.imaging.scans import read_image
from tests.corpus import tried

KEPT = json.loads(tried.OUTCOMES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", tried.FOLDERS)
def test_every_file_has_the_outcome_that_it_had(kind):
    """Files that only other versions of a package contain are left out."""
    files = [path for path in tried.found(kind) if path.name in KEPT[kind]]
    if not files:
        pytest.skip(f"no test files of {tried.FOLDERS[kind][0]}")
    assert {path.name: tried.try_file(kind, path) for path in files} == {
        path.name: KEPT[kind][path.name] for path in files
    }


def test_images_have_the_voxels_that_nibabel_reads():
    read = [path for path in tried.found("image") if KEPT["image"].get(path.name, "").startswith("read")]
    for path in read:
        theirs, ours = nibabel.load(path), read_image(path, "image")
        assert ours.GetSize() == theirs.shape
        assert np.allclose(sitk.GetArrayFromImage(ours).T, theirs.get_fdata(), rtol=1e-5, atol=1e-3), path.name
        corner = np.diag([-1.0, -1, 1]) @ (theirs.affine @ (1, 2, 3, 1))[:3]  # RAS to LPS
        assert np.allclose(ours.TransformIndexToPhysicalPoint((1, 2, 3)), corner, atol=1e-3), path.name


def test_transforms_move_points_as_nitransforms_and_itk_do():
    """The matrices of the same name in ITK's notation are those of the other direction."""
    points, lps = np.random.default_rng(0).uniform(-100, 100, (20, 3)), np.diag([-1.0, -1, 1, 1])
    for path in tried.found("transform"):
        ours = read_foreign(path, "transform", None)
        matrix = lps @ FSLinearTransform.from_filename(path).to_ras() @ lps
        inverse = sitk.ReadTransform(str(path).replace(".fs.lta", ".itk.tfm"))
        for point in points:
            moved = ours.TransformPoint(point)
            assert np.allclose(moved, (matrix @ (*point, 1))[:3], atol=1e-3), path.name
            assert np.allclose(inverse.TransformPoint(moved), point, atol=1e-3), path.name


def test_the_page_shows_the_outcomes_that_are_kept():
    shown = tried.PAGE.read_text(encoding="utf-8").partition("<!-- table -->\n")[2]
    assert shown.split("\n")[1:-1] == list(tried.table(KEPT)), "run: python -m tests.corpus.tried"
