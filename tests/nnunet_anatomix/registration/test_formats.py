"""Tests of transforms of FSL, FreeSurfer and elastix, against known matrices and nitransforms."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_anatomix.registration.batch import BatchSettings, PairFiles, register_pair
from nnunet_anatomix.registration.config import RegistrationConfig
from nnunet_anatomix.registration.formats.matrices import vox_to_ras
from nnunet_anatomix.registration.start.initial import file_start
from nnunet_anatomix.registration.transforms import move_points, read_transform
from pretraining.common.errors import InputError

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
AFFINE = np.array([[0.9, 0.2, -0.1, 12.0], [-0.25, 1.05, 0.15, -7.0], [0.05, -0.1, 1.1, 4.0], [0, 0, 0, 1]])
POINTS = np.array([[3.0, -8.0, 5.0], [40.0, 22.0, -31.0], [900.0, 0.0, 70.0]])


def scan(size: tuple[int, ...], spacing: tuple[float, ...], origin: tuple[float, ...], angles, flips) -> sitk.Image:
    """Return an image whose axes are turned, and flipped where ``flips`` is -1."""
    image = sitk.Image(size, sitk.sitkFloat32)
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*angles)
    image.SetDirection((np.reshape(turn.GetMatrix(), (3, 3)) * flips).flatten().tolist())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


FLIPS = {"neurological": (1, 1, 1), "radiological": (-1, 1, 1), "upside down": (1, 1, -1)}


@pytest.fixture(scope="module")
def cases(data_root) -> Path:
    return data_root.parent / "cases" / "registration"


@pytest.fixture(params=FLIPS)
def fixed(request) -> sitk.Image:
    return scan((12, 14, 10), (1.5, 1.2, 2.0), (3.0, -4.0, 5.0), (0.3, -0.2, 0.5), FLIPS[request.param])


@pytest.fixture
def moving() -> sitk.Image:
    return scan((15, 11, 13), (1.1, 2.0, 1.6), (1000.0, 30.0, -20.0), (-0.4, 0.1, 0.2), (1, -1, 1))


def near(transform: sitk.Transform, matrix_ras: np.ndarray, within_mm: float = 1e-4) -> None:
    """Assert that a transform maps as a matrix between RAS points."""
    homogeneous = np.c_[POINTS, np.ones(len(POINTS))]
    expected = (LPS @ matrix_ras @ LPS @ homogeneous.T).T[:, :3]
    np.testing.assert_allclose(move_points(transform, POINTS), expected, atol=within_mm, rtol=0)


def of_nibabel(image: sitk.Image) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(np.zeros(image.GetSize(), np.float32), vox_to_ras(image))


def by_nitransforms(path: Path, fixed: sitk.Image, moving: sitk.Image, fmt: str) -> np.ndarray:
    linear = pytest.importorskip("nitransforms.linear", reason="needs nitransforms")
    return linear.load(str(path), fmt=fmt, reference=of_nibabel(fixed), moving=of_nibabel(moving)).matrix


def fsl_mm(image: sitk.Image, point_lps: np.ndarray) -> np.ndarray:
    """Return FSL's coordinates of a point, from its definition in FSL's wiki."""
    index = np.array(image.TransformPhysicalPointToContinuousIndex(point_lps.tolist()))
    if np.linalg.det(vox_to_ras(image)) > 0:
        index[0] = image.GetSize()[0] - 1 - index[0]
    return index * image.GetSpacing()


def test_a_matrix_of_fsl_maps_its_own_coordinates(fixed, moving, tmp_path):
    path = tmp_path / "flirt.mat"
    path.write_text("\n".join("  ".join(f"{number:.10f}" for number in row) for row in AFFINE) + "\n")
    transform = read_transform(path, "initial transform", scans=(fixed, moving))
    for point in POINTS:
        source = np.array(transform.TransformPoint(point.tolist()))
        expected = AFFINE @ np.append(fsl_mm(moving, source), 1)
        np.testing.assert_allclose(fsl_mm(fixed, point), expected[:3], atol=1e-4)
    near(transform, by_nitransforms(path, fixed, moving, "fsl"))


def test_a_shift_of_fsl_is_in_mm_to_the_patient_s_left(cases):
    # In FSL's coordinates, x grows towards the left if the header's axes are those of the patient.
    for sign in (1, -1):
        image = scan((12, 14, 10), (1.5, 1.2, 2.0), (3.0, -4.0, 5.0), (0, 0, 0), (sign, -1, 1))
        shift = read_transform(cases / "flirt.mat", "start", scans=(image, image)).TransformPoint((0.0, 0.0, 0.0))
        assert shift == pytest.approx((-2.0, 0.0, 0.0))


def lta(kind: int, matrix: np.ndarray, source: sitk.Image | None, destination: sitk.Image | None) -> str:
    """Return an LTA file as FreeSurfer writes it."""
    lines = [
        "# transform file",
        f"type      = {kind} # LINEAR",
        "nxforms   = 1",
        "mean      = 0.0 0.0 0.0",
        "sigma = 1.0",
    ]
    lines += ["1 4 4", *(" ".join(f"{number:.12e}" for number in row) for row in matrix)]
    for name, image in (("src", source), ("dst", destination)):
        lines.append(f"{name} volume info")
        if image is None:
            lines.append("valid = 0  # volume info invalid")
            continue
        affine = vox_to_ras(image)
        axes = affine[:3, :3] / image.GetSpacing()
        centre = affine @ np.append(np.array(image.GetSize()) / 2, 1)
        lines += ["valid = 1  # volume info valid", "filename = /data/a volume.mgz"]
        for field, numbers in (
            ("volume", image.GetSize()),
            ("voxelsize", image.GetSpacing()),
            ("xras  ", axes[:, 0]),
            ("yras  ", axes[:, 1]),
            ("zras  ", axes[:, 2]),
            ("cras  ", centre[:3]),
        ):
            lines.append(f"{field} = {' '.join(f'{number:.12g}' for number in numbers)}")
    return "\n".join([*lines, "subject fsaverage", "fscale 0.15"]) + "\n"


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("direction", ["usual", "reversed"])
def test_lta_files_map_from_source_to_destination(fixed, moving, tmp_path, kind, direction):
    source, destination = (moving, fixed) if direction == "usual" else (fixed, moving)
    ras = np.linalg.inv(AFFINE) if direction == "usual" else AFFINE
    matrix = ras if kind else np.linalg.inv(vox_to_ras(destination)) @ ras @ vox_to_ras(source)
    path = tmp_path / "a.lta"
    path.write_text(lta(kind, matrix, source, destination))
    near(read_transform(path, "start", scans=(fixed, moving)), AFFINE)
    if direction == "usual":
        near(read_transform(path, "start"), AFFINE)


def test_lta_files_without_volumes_are_between_the_scans(fixed, moving, tmp_path):
    path = tmp_path / "a.lta"
    ras = np.linalg.inv(AFFINE)
    path.write_text(lta(1, ras, None, None))
    near(read_transform(path, "start"), AFFINE)
    path.write_text(lta(0, np.linalg.inv(vox_to_ras(fixed)) @ ras @ vox_to_ras(moving), None, None))
    near(read_transform(path, "start", scans=(fixed, moving)), AFFINE)
    with pytest.raises(InputError, match="without the geometry of its volumes"):
        read_transform(path, "start")


def test_lta_files_are_read_as_by_nitransforms(fixed, moving, tmp_path):
    path = tmp_path / "a.lta"
    matrix = np.linalg.inv(vox_to_ras(fixed)) @ np.linalg.inv(AFFINE) @ vox_to_ras(moving)
    path.write_text(lta(0, matrix, moving, fixed).replace("a volume.mgz", "volume.mgz"))  # it fails on blanks
    io = pytest.importorskip("nitransforms.io.lta", reason="needs nitransforms")
    theirs = io.FSLinearTransform.from_filename(path)
    theirs.set_type(1)
    np.testing.assert_allclose(np.linalg.inv(theirs["m_L"]), AFFINE, atol=1e-3)
    near(read_transform(path, "start", scans=(fixed, moving)), AFFINE)


ELASTIX = '(Transform "{}")\n(NumberOfParameters {})\n(TransformParameters {})\n(CenterOfRotationPoint 5 -3 2)\n'


def elastix(kind: str, numbers: tuple[float, ...], more: str = "") -> str:
    return ELASTIX.format(kind, len(numbers), " ".join(map(str, numbers))) + more


def turned(transform: sitk.Transform, numbers: tuple[float, ...]) -> sitk.Transform:
    transform.SetCenter((5, -3, 2))
    transform.SetParameters(numbers)
    return transform


@pytest.mark.parametrize(
    ("kind", "numbers", "itk"),
    [
        ("EulerTransform", (0.1, -0.2, 0.3, 4, 5, 6), sitk.Euler3DTransform()),
        ("SimilarityTransform", (0.1, -0.2, 0.3, 4, 5, 6, 1.2), sitk.Similarity3DTransform()),
        ("AffineTransform", (1, 0.1, 0, -0.2, 0.9, 0.1, 0, 0.1, 1.1, 4, 5, 6), sitk.AffineTransform(3)),
    ],
)
def test_linear_transforms_of_elastix_have_the_parameters_of_itk(tmp_path, kind, numbers, itk):
    path = tmp_path / "TransformParameters.0.txt"
    path.write_text(elastix(kind, numbers, '(UseDirectionCosines "true") // as by default\n'))
    found = move_points(read_transform(path, "start"), POINTS)
    np.testing.assert_allclose(found, move_points(turned(itk, numbers), POINTS), atol=1e-6)


def test_elastix_transforms_turn_about_z_x_y_unless_told(tmp_path):
    path = tmp_path / "t.txt"
    for more, zyx in (("", False), ('(ComputeZYX "true")\n', True)):
        path.write_text(elastix("EulerTransform", (0.5, 0.4, 0.3, 0, 0, 0), more))
        itk = sitk.Euler3DTransform()
        itk.SetComputeZYX(zyx)
        turned(itk, (0.5, 0.4, 0.3, 0, 0, 0))
        np.testing.assert_allclose(move_points(read_transform(path, "start"), POINTS), move_points(itk, POINTS))


@pytest.mark.parametrize("how", ["Compose", "Add"])
def test_initial_transforms_of_elastix_come_first(tmp_path, how):
    (tmp_path / "first.txt").write_text(elastix("TranslationTransform", (10, 0, 0)))
    numbers = (1, 0.1, 0, -0.2, 0.9, 0.1, 0, 0.1, 1.1, 4, 5, 6)
    more = f'(InitialTransformParametersFileName "/another/machine/first.txt")\n(HowToCombineTransforms "{how}")\n'
    (tmp_path / "second.txt").write_text(elastix("AffineTransform", numbers, more))
    second = turned(sitk.AffineTransform(3), numbers)
    shifted = POINTS + np.array([10, 0, 0])
    expected = move_points(second, shifted) if how == "Compose" else move_points(second, POINTS) + shifted - POINTS
    np.testing.assert_allclose(move_points(read_transform(tmp_path / "second.txt", "start"), POINTS), expected)
    (tmp_path / "first.txt").unlink()
    with pytest.raises(InputError, match=r"first\.txt, which is missing"):
        read_transform(tmp_path / "second.txt", "start")


def test_the_given_file_of_elastix_is_a_shift(cases):
    transform = read_transform(cases / "TransformParameters.0.txt", "start")
    assert transform.TransformPoint((4.0, 5.0, 6.0)) == pytest.approx((5.0, 7.0, 9.0))


@pytest.mark.slow  # loading itk takes long
def test_transforms_that_elastix_writes_are_those_of_transformix(tmp_path):
    itk = pytest.importorskip("itk", reason="needs itk-elastix")
    if not hasattr(itk, "ElastixRegistrationMethod"):
        pytest.skip("needs itk-elastix")
    values = np.random.default_rng(0).normal(size=(12, 13, 14)).astype(np.float32).cumsum(0).cumsum(1)
    images = [itk.image_from_array(array) for array in (values, np.roll(values, 1, 2))]
    for image in images:
        image.SetSpacing([1.5, 1.2, 2.0])
        image.SetOrigin([3.0, -4.0, 5.0])
        image.SetDirection(itk.matrix_from_array(np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, -1.0]])))
    parameters = itk.ParameterObject.New()
    for kind in ("rigid", "affine"):
        settings = parameters.GetDefaultParameterMap(kind, 1)
        settings["MaximumNumberOfIterations"] = ["3"]
        settings["NumberOfSpatialSamples"] = ["200"]
        parameters.AddParameterMap(settings)
    elastix = itk.ElastixRegistrationMethod.New(*images)
    elastix.SetParameterObject(parameters)
    elastix.SetLogToConsole(False)
    elastix.SetOutputDirectory(str(tmp_path))
    elastix.UpdateLargestPossibleRegion()
    (tmp_path / "points.txt").write_text("\n".join(["point", "3", *(" ".join(map(str, one)) for one in POINTS)]) + "\n")
    transformix = itk.TransformixFilter.New(images[1])
    transformix.SetTransformParameterObject(elastix.GetTransformParameterObject())
    transformix.SetFixedPointSetFileName(str(tmp_path / "points.txt"))
    transformix.SetOutputDirectory(str(tmp_path))
    transformix.UpdateLargestPossibleRegion()
    lines = (tmp_path / "outputpoints.txt").read_text().splitlines()
    theirs = [line.split("OutputPoint = [")[1].split("]")[0].split() for line in lines]
    ours = move_points(read_transform(tmp_path / "TransformParameters.1.txt", "start"), POINTS)
    np.testing.assert_allclose(ours, np.array(theirs, dtype=float), atol=1e-3)
    assert np.abs(ours - POINTS).max() > 0.1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.lta", "type      = 1\nnxforms   = 1\n", "without a whole 4x4 matrix"),
        ("a.lta", lta(14, np.eye(4), None, None), "type 14, expected 0"),
        ("a.lta", lta(1, np.eye(4), None, None).replace("nxforms   = 1", "nxforms   = 2"), "with 2 matrices"),
        ("a.lta", lta(1, np.zeros((4, 4)), None, None), "singular"),
        ("a.mat", "0 0 0 1\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "a singular matrix"),
        ("a.txt", elastix("BSplineTransform", (1.0,) * 30), "is a BSplineTransform of elastix, expected a linear one"),
        ("a.txt", elastix("EulerTransform", (1.0, 2.0, 3.0)), "with 3 parameters, expected 6"),
        ("a.txt", elastix("EulerTransform", (1.0, 2.0, float("nan"), 0, 0, 0)), "finite numbers"),
        ("a.txt", elastix("EulerTransform", (0,) * 6, '(UseDirectionCosines "false")\n'), "ignores the directions"),
        (
            "register.dat",
            "subject\n1\n1\n0.15\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\nround\n",
            r"register\.dat of FreeSurfer",
        ),
        ("a.aff12.1D", "1 0 0 2 0 1 0 0 0 0 1 0\n", "a matrix of AFNI"),
    ],
)
def test_other_transforms_are_refused_by_name(tmp_path, fixed, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said) as refused:
        file_start(tmp_path / name, fixed, fixed)
    assert "\n" not in str(refused.value)


def test_a_matrix_of_fsl_needs_both_scans(cases):
    with pytest.raises(InputError, match="valid for two scans only"):
        read_transform(cases / "flirt.mat", "transform")


def test_a_matrix_of_fsl_is_for_the_files_that_fsl_had(cases, moving, tmp_path):
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.normal(size=(8, 9, 10)).astype(np.float32))
    sitk.WriteImage(image, tmp_path / "a.nrrd")
    sitk.WriteImage(image, tmp_path / "a.nii")
    pair = PairFiles(name="a", fixed=tmp_path / "a.nii", moving=tmp_path / "a.nrrd", init=cases / "flirt.mat")
    with pytest.raises(InputError, match=r"as the NIfTI files store them that FSL had; found .*a\.nrrd"):
        register_pair(pair, tmp_path / "out", BatchSettings(config=RegistrationConfig(), weights=None))
    assert not (tmp_path / "out").exists()


def test_a_file_without_its_matrix_is_refused_by_name(cases, fixed):
    with pytest.raises(InputError, match="LTA file of FreeSurfer without"):
        file_start(cases / "x.lta", fixed, fixed)
