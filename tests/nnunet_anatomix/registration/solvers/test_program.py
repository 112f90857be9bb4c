"""Tests of other programs: descriptions, kinds of transforms, failures, and real programs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.descriptors import DescriptorConfig
from nnunet_anatomix.registration.programs.program import Program, read_program, shipped_programs
from nnunet_anatomix.registration.register import register
from nnunet_anatomix.registration.solvers.program import grid_of_size, program_displacement, read_displacement
from nnunet_anatomix.registration.warp import itk_transform
from pretraining.common.errors import CommandFailed, InputError
from pretraining.imaging.grids import coverage, index_to_mm, tensor_image
from tests.nnunet_anatomix.registration.solvers.test_ants import error, oblique_grid, pair, true_displacement

SHIFTS = """
import sys, nibabel, numpy as np
fixed, moving, out = sys.argv[1:4]
shape = nibabel.load(fixed).shape
assert nibabel.load(moving).shape == shape
field = np.zeros((*shape, 3), np.float32) + np.array([2, 0, -1], np.float32)
nibabel.save(nibabel.Nifti1Image(field, np.eye(4)), out + "/u.nii.gz")
"""
"""A program that answers with the same displacement for every pair."""


def program(code: str = SHIFTS, **changes: object) -> Program:
    words = (sys.executable, "-c", code, "{fixed}", "{moving}", "{out}")
    return Program(**({"command": words, "transform": "u.nii.gz", "kind": "voxels", "name": "theirs"} | changes))


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """Return the folder that takes the place of the system's for temporary files."""
    folder = tmp_path / "with a space"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def write(folder: Path, **values: object) -> Path:
    content = {"command": ["p", "{fixed}", "{moving}", "{out}"], "transform": "t.h5"} | values
    (folder / "mine.json").write_text(json.dumps(content))
    return folder / "mine.json"


def test_a_description_gets_its_name_and_all_words_that_depend_on_no_pair(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS", "/models")
    words = ["{python}", "{here}/run.py", "--in={fixed}", "{moving}", "{env.MODELS}/a.h5", "{out}/t.h5"]
    found = read_program(write(tmp_path, command=words))
    assert found.name == "mine"
    assert found.words({"fixed": "f", "moving": "m", "out": "o"}) == [
        sys.executable, f"{tmp_path}/run.py", "--in=f", "m", "/models/a.h5", "o/t.h5",
    ]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), [
    ({"command": []}, "'command' is empty"),
    ({"command": ["p", "{fixed}", "{out}"]}, "lacks {moving}"),
    ({"command": ["p", "{fixed}", "{moving}", "{out}", "{labels}"]}, "contains {labels}"),
    ({"command": ["p", "{fixed}", "{moving}", "{out}", "{env.NOT_SET}"]}, "variable NOT_SET is not set"),
    ({"transform": "../t.h5"}, "name of a file in the output folder"),
    ({"kind": "fsl"}, "kind"),
    ({"size": [0, 1, 1]}, "size"),
    ({"colour": 1}, "unknown keys"),
])  # fmt: skip
def test_descriptions_that_cannot_work_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_program(write(tmp_path, **changes))


def test_unknown_programs_are_refused_with_the_shipped_ones():
    with pytest.raises(InputError, match="no program elastics, expected a JSON file or one of convexadam, elastix, gr"):
        read_program("elastics")


OPTIONS = {
    "unigradicon": "--fixed --moving --fixed_modality --moving_modality --transform_out --io_iterations --io_sim",
    "unigradicon_io": "--fixed --moving --fixed_modality --moving_modality --transform_out --io_iterations --io_sim",
    "synthmorph_shapes": "--moving --fixed --moved --model --warp --gpu --multichannel",
}
"""Options of programs that tests cannot run, from README of uniGradICON 1.0 and
scripts/tf/register.py of voxelmorph 0.2.
"""


@pytest.mark.parametrize("name", shipped_programs())
def test_shipped_descriptions_are_valid_and_use_documented_options(name, monkeypatch):
    for variable in ("VOXELMORPH", "VOXELMORPH_PYTHON", "SYNTHMORPH_SHAPES"):
        monkeypatch.setenv(variable, "/there")
    words = read_program(name).words({})
    options = {word.split("=")[0] for word in words if word.startswith("--")}
    assert options <= set(OPTIONS.get(name, "").split()), options


@pytest.mark.parametrize("kind", ["itk", "ras_mm", "voxels"])
def test_transforms_of_all_kinds_mean_the_same(tmp_path, kind):
    grid, truth = oblique_grid(), true_displacement()
    path = tmp_path / "t.nii.gz"
    if kind == "itk":
        sitk.WriteImage(itk_transform(truth, grid).GetDisplacementField(), str(path))
    else:
        lps = np.einsum("ij,jxyz->xyzi", index_to_mm(grid), truth.numpy())
        values = lps * np.array([-1, -1, 1]) if kind == "ras_mm" else truth.movedim(0, -1).numpy()
        # As many programs write vectors: five axes, of which the fourth has length 1.
        nibabel.save(nibabel.Nifti1Image(values[:, :, :, None].astype(np.float32), np.eye(4)), path)
    assert torch.allclose(read_displacement(path, kind, grid), truth, atol=2e-4)


@pytest.mark.parametrize("size", [None, (16, 40, 20)])
def test_a_program_takes_the_place_of_the_solver(temporary, size):
    grid = oblique_grid()
    fixed, moving = (tensor_image(volume[0], grid) for volume in pair(1))
    config = RegistrationConfig(init="none", descriptors=DescriptorConfig(feature_weight=0), program=program(size=size))
    found = register(fixed, moving, config=config)
    assert found.settings["method"] == "theirs" and found.settings["solver"].size == size
    assert found.grid.GetSize() == (size or (32, 55, 36)) and found.known.shape == found.displacement.shape[1:]
    moved_mm = np.array(found.forward.TransformPoint(fixed.TransformIndexToPhysicalPoint((16, 14, 12))))
    moved_mm -= fixed.TransformIndexToPhysicalPoint((16, 14, 12))
    assert np.allclose(moved_mm, index_to_mm(found.grid) @ [2, 0, -1], atol=1e-3)
    assert not list(temporary.iterdir()), "no files are left"


def test_the_grid_of_one_size_covers_the_scan():
    grid = oblique_grid()
    cubes = grid_of_size(grid, (16, 40, 20))
    assert cubes.GetSize() == (16, 40, 20) and len({round(step, 6) for step in cubes.GetSpacing()}) == 1
    inside = sitk.Image(cubes.GetSize(), sitk.sitkFloat32)
    inside.CopyInformation(cubes)
    assert coverage(inside, grid).all()


@pytest.mark.parametrize(("code", "message"), [
    ("import sys; sys.exit('no licence')", "exit code 1: no licence"),
    ("pass", "expected a transform at .*u.nii.gz, found none"),
    (SHIFTS.replace("*shape, 3", "2, 2, 2, 3"), r"expected a displacement field of \(32, 28, 24, 3\), found"),
])  # fmt: skip
def test_failures_are_one_line_and_keep_the_files(temporary, code, message):
    with pytest.raises(CommandFailed, match=message) as failure:
        program_displacement(*(volume[0] for volume in pair(1)), (None, None), oblique_grid(), program(code))
    (folder,) = temporary.iterdir()
    assert "\n" not in str(failure.value) and str(folder) in str(failure.value) and (folder / "fixed.nii.gz").is_file()


@pytest.mark.parametrize(("name", "package", "least"), [
    ("greedy", "picsl_greedy", 0.35),
    pytest.param("convexadam", "convexAdam", 0.5, marks=pytest.mark.slow),
    pytest.param("elastix", "itk", 0.5, marks=pytest.mark.slow),
])  # fmt: skip
def test_programs_of_pypi_find_a_known_warp(temporary, name, package, least):
    pytest.importorskip(package, reason=f"{name} is not installed; run: pip install nnunet-anatomix[peers]")
    images = (volume[0] for volume in pair(1))
    displacement, grid = program_displacement(*images, (None, None), oblique_grid(), read_program(name))
    assert tuple(displacement.shape) == (3, *grid.GetSize())
    assert error(displacement) < (1 - least) * error(torch.zeros(3, *grid.GetSize()))
