"""Tests of ``--map``: the rules rank what it matches, and exclude what it does not name."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from nnunet_anatomix.clinical.dicom.content import SeriesContent
from nnunet_anatomix.clinical.intake.mapping import parse_maps
from pretraining.common.errors import InputError
from tests.nnunet_anatomix.clinical.intake.test_choice import CORONAL, GRID, channels, chosen, image, scan

LONG = replace(GRID, size=(64, 64, 90))
REFORMAT = scan("Abdomen cor", grid=replace(CORONAL, size=(64, 64, 90)), series_uid="1.2.7")
AXIAL = scan("Abdomen 3.0", series_uid="1.2.8")


@pytest.mark.parametrize("pattern", ["modality:CT", "description:*abdomen*", "path:abdomen*", "description:*"])
@pytest.mark.parametrize("name", ["CT", "MRI", "noNorm"])
def test_mapped_series_are_ranked_by_the_rules(pattern, name):
    (case,) = chosen([REFORMAT, AXIAL], channels(name), (f"0={pattern}",))
    assert case.chosen == (2,) and "reformatted (coronal" in case.reasons[1]


EXCLUDED = (
    scan("Topogram", grid=LONG, series_uid="1.1"),
    scan("b", grid=replace(GRID, size=(64, 64, 3)), series_uid="1.1"),
    scan("c", image_type=("DERIVED", "SECONDARY", "MPR"), series_uid="1.1"),
    scan("d", rescale_type="MGML", series_uid="1.1"),
    scan("e", "PT", content=SeriesContent(is_attenuation_corrected=False), series_uid="1.1"),
    scan("f", "MR", content=SeriesContent(part="phase"), series_uid="1.1"),
)


@pytest.mark.parametrize("series", EXCLUDED, ids=[each.description for each in EXCLUDED])
def test_a_map_of_the_modality_alone_keeps_every_exclusion(series):
    needed = channels({"CT": "CT", "PT": "PET", "MR": "MRI"}[series.modality])
    (case,) = chosen([series], needed, (f"0=modality:{series.modality}",))
    assert not case.chosen
    reason, _, line = case.reasons[1].partition("; to take it: --map ")
    (mapped,) = chosen([series], needed, tuple(shlex.split(line)))
    assert mapped.chosen == (1,) and mapped.reasons[1].startswith(f"taken by --map although: {reason}")


def test_what_a_map_names_is_taken_if_nothing_better_matches():
    (case,) = chosen([REFORMAT, scan("Thorax")], channels("CT"), ("0=description:*cor",))
    assert case.chosen == (1,) and case.reasons[1].startswith("taken by --map although: reformatted")
    (case,) = chosen([scan("t1 km", "MR"), scan("t1", "MR")], channels("T1"), ("0=description:*t1*",))
    assert case.chosen == (2,) and case.reasons[1] == "series 2 fits better: T1 after contrast agent, expected T1"
    (case,) = chosen([scan("t2", "MR"), scan("t1", "MR")], channels("T1ce"), ("0=modality:MR",))
    assert case.chosen == (2,) and "taken by --map although: nothing tells" in case.reasons[2]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("a_seg.nii.gz", "label map"),
        ("sub-1_T1map.nii.gz", "derived map"),
        ("dwi_adc.nii.gz", "derived map"),
        ("t1_e1_ph.nii.gz", "phase"),
        ("sub-1_part-phase_T1w.nii.gz", "phase"),
        ("t1_imaginary.nii.gz", "phase"),
        ("t1_mip.nii.gz", "projection"),
    ],
)
def test_names_of_image_files_exclude_too(file, reason):
    (case,) = chosen([image(file)], channels("T1"))
    assert not case.chosen and case.reasons[1].startswith(reason)
    (case,) = chosen([image(file)], channels("T1"), (f"0=path:{file}",))
    assert case.chosen == (1,) and "taken by --map although" in case.reasons[1]


@pytest.mark.parametrize(
    "file", ["sub-01_T1w.nii.gz", "sub-01_part-mag_T1w.nii.gz", "phantom_T1.nii.gz", "t1_arterial_phase_pre.nii.gz"]
)
def test_other_names_do_not(file):
    (case,) = chosen([image(file)], channels("T1"))
    assert "(file name)" not in case.reasons.get(1, "")


def test_units_are_one_of_two():
    with pytest.raises(InputError, match="expected the unit suv or stored"):
        parse_maps(("0=unit:kBq",), channels("PET"))
