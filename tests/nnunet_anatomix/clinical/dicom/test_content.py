"""Tests of what an MR image shows: phase, real and imaginary parts and maps are no magnitudes."""

from __future__ import annotations

import math

import pytest
from pydicom import Dataset, Sequence

from nnunet_anatomix.clinical.dicom.content import Content, summarize_content
from nnunet_anatomix.clinical.dicom.frame_content import frame_content, read_agents
from nnunet_anatomix.clinical.dicom.signal_parts import find_part
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from nnunet_anatomix.clinical.intake.suitability import find_mismatch
from tests.nnunet_anatomix.clinical.dicom_series import write_series
from tests.nnunet_anatomix.clinical.intake.test_choice import channels, chosen
from tests.nnunet_anatomix.clinical.intake.test_series import enhanced

ORIGINAL = ("ORIGINAL", "PRIMARY")


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (("M", "ND"), ""),
        (("M_FFE", "M", "FFE"), ""),
        (("OTHER",), ""),
        (("M", "NORM", "DIS3D", "FM3_2", "FIL"), ""),
        (("T1", "NONE"), ""),  # the flavour of enhanced images
        (("IN_PHASE",), ""),
        (("M", "IR", "M", "IR"), ""),
        (("P", "ND"), "phase"),
        (("M", "ND", "PHASE"), "phase"),
        (("PHASE MAP", "P", "FFE"), "phase"),
        (("P_SE", "P", "SE"), "phase"),
        (("R_FFE", "R", "FFE"), "real part"),
        (("REAL",), "real part"),
        (("I_IR", "I", "IR"), "imaginary part"),
        (("VELOCITY MAP", "P", "PCA"), "velocity"),
        (("VELOCITY", "NONE"), "velocity"),
        (("B0 MAP", "B0", "FFE"), "B0 map"),
        (("M", "B1"), "B1 map"),
        (("T1 MAP", "T1", "UNSPECIFIED"), "T1 map"),
        (("M", "T2_STAR MAP"), "T2 STAR map"),
        (("M", "T1"), "T1 map"),  # the pixel contrast of enhanced images
        (("ADC", "UNSPECIFIED"), "ADC map"),
    ],
)
def test_any_value_of_image_type_counts(values, part):
    assert find_part((*ORIGINAL, *values)) == part


@pytest.mark.parametrize(
    ("tags", "part"),
    [
        ({"component": "MAGNITUDE"}, ""),
        ({"component": "PHASE"}, "phase"),
        ({"component": "IMAGINARY"}, "imaginary part"),
        ({"ge_image_type": 0.0}, ""),
        ({"ge_image_type": 1.0}, "phase"),
        ({"ge_image_type": 2.0}, "real part"),
        ({"ge_image_type": 3.0}, "imaginary part"),
        ({"philips_image_type": "R"}, "real part"),
        ({"units": ("US", "normalized")}, ""),
        ({"units": ("mrad",)}, "phase"),
        ({"units": ("", "cm/s")}, "velocity"),
        ({"units": ("Hz",)}, "B0 map"),
        ({"units": ("", "um2/s")}, "relaxation or diffusion map"),
        ({"units": ("ms",)}, "relaxation or diffusion map"),
        ({"rescale": (2.0, -4096.0)}, "phase"),
        ({"rescale": (0.00153, -math.pi)}, "phase"),
        ({"rescale": (1.53, -3141.59)}, "phase"),
        ({"rescale": (3.2, 0.0)}, ""),
    ],
)
def test_component_private_tags_and_units_count(tags, part):
    assert find_part((*ORIGINAL, "OTHER"), **tags) == part


def ge_phase(dataset, k):
    dataset.add_new((0x0043, 0x0010), "LO", "GEMS_PARM_01")
    dataset.add_new((0x0043, 0x102F), "SS", 1)


def of_another_vendor(dataset, k):
    dataset.add_new((0x0043, 0x0010), "LO", "ANOTHER")
    dataset.add_new((0x0043, 0x102F), "SS", 1)


def complex_part(dataset, k):
    dataset.ComplexImageComponent = "REAL"


def in_hertz(dataset, k):
    unit, mapping = Dataset(), Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "Hz", "UCUM", "Hertz"
    mapping.MeasurementUnitsCodeSequence = Sequence([unit])
    dataset.RealWorldValueMappingSequence = Sequence([mapping])


@pytest.mark.parametrize(
    ("change", "part"),
    [(ge_phase, "phase"), (of_another_vendor, ""), (complex_part, "real part"), (in_hertz, "B0 map")],
)
@pytest.mark.parametrize("coding", ["explicit", "implicit"])
def test_headers_are_read(tmp_path, change, part, coding):
    write_series(
        tmp_path, modality="MR", description="T1 FFE", slope=None, intercept=None, coding=coding, change=change
    )
    (series,), _ = scan_tree(tmp_path.resolve())
    assert not series.problem and series.content.part == part
    (channel,) = channels("T1")
    reason = find_mismatch(series, channel, alone=True, names=set())
    assert reason == (f"not magnitude: {part}" if part else "")


def test_a_series_of_several_parts_is_no_magnitude():
    assert summarize_content([Content(), Content(part="phase")]).part == "phase"
    assert summarize_content([Content(), Content()]).part == ""


def groups(**sequences: dict) -> Dataset:
    whole = Dataset()
    for name, tags in sequences.items():
        item = Dataset()
        for keyword, value in tags.items():
            setattr(item, keyword, value)
        setattr(whole, name, Sequence([item]))
    return whole


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"MRImageFrameTypeSequence": {"FrameType": [*ORIGINAL, "T1", "NONE"]}}, Content(part="")),
        (
            {"MRImageFrameTypeSequence": {"FrameType": [*ORIGINAL, "T1"], "ComplexImageComponent": "PHASE"}},
            Content(part="phase"),
        ),
        (
            {"ContrastBolusUsageSequence": {"ContrastBolusAgentAdministered": "NO"}},
            Content(part="complex parts", agent=False),
        ),
        (
            {"FrameContentSequence": {"FrameAcquisitionDateTime": "00010102000001"}},
            Content(part="complex parts", acquired_s=86401),
        ),
    ],
)
def test_frames_of_enhanced_files_have_contents_of_their_own(tags, expected):
    group = groups(**tags)

    def value(sequence, keyword):
        return group[sequence][0].get(keyword) if sequence in group else None

    assert frame_content(Content(part="complex parts"), value, group) == expected


def test_an_enhanced_file_lists_its_agents():
    agent = groups(
        ContrastBolusIngredientCodeSequence={"CodeMeaning": "Gadolinium"},
        ContrastAdministrationProfileSequence={"ContrastBolusStartTime": "000010"},
    )
    whole = Dataset()
    whole.ContrastBolusAgentSequence = Sequence([agent])
    assert read_agents(Content(), whole) == Content(agent=True, agent_start_s=10.0)
    oral = groups(ContrastBolusAdministrationRouteSequence={"CodeMeaning": "Oral route"})
    whole.ContrastBolusAgentSequence = Sequence([oral])
    assert read_agents(Content(), whole) == read_agents(Content(), Dataset()) == Content()


def test_the_magnitude_of_a_series_of_all_parts_is_taken(tmp_path):
    series_uid, study_uid, frame_uid = "1.2.3", "1.2.4", "1.2.5"
    for number in range(4):

        def part(dataset, k, number=number):
            dataset.InstanceNumber = 8 * number + k + 1
            dataset.add_new((0x0043, 0x0010), "LO", "GEMS_PARM_01")
            dataset.add_new((0x0043, 0x102F), "SS", number)

        write_series(
            tmp_path,
            modality="MR",
            description="T1 FFE",
            image_type=("ORIGINAL", "PRIMARY", "OTHER"),
            name=f"{number}_{{number}}",
            series_uid=series_uid,
            study_uid=study_uid,
            frame_uid=frame_uid,
            slope=None,
            intercept=None,
            change=part,
        )
    found, _ = scan_tree(tmp_path.resolve())
    assert {each.volume for each in found} == {"part=magnitude", "part=phase", "part=real", "part=imaginary"}
    (case,) = chosen(found, channels("T1"))
    assert [found[number - 1].volume for number in case.chosen] == ["part=magnitude"]
    for maps, taken in (
        (("0=series:1.2.3",), "part=magnitude"),
        (("0=description:T1*",), "part=magnitude"),
        (("0=modality:MR",), "part=magnitude"),
        (("0=volume:part=phase",), "part=phase"),
        (("0=series:1.2.3", "0=volume:part=real"), "part=real"),
    ):
        (case,) = chosen(found, channels("T1"), maps)
        assert [found[number - 1].volume for number in case.chosen] == [taken]


def test_frames_of_a_file_tell_their_part(tmp_path):
    def real(dataset):
        dataset.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence = groups(
            MRImageFrameTypeSequence={"FrameType": [*ORIGINAL, "T1", "NONE"], "ComplexImageComponent": "REAL"}
        ).MRImageFrameTypeSequence

    folder = enhanced(tmp_path, real, modality="MR", description="T1 FFE")
    (series,), _ = scan_tree(folder.resolve())
    assert not series.problem and series.content.part == "real part"
