"""Tests of the choice of series: rules, ranks, ``--map``, and channels in a common space."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from nnunet_anatomix.clinical.dicom.content import SeriesContent
from nnunet_anatomix.clinical.intake.channel_words import image_case_key, modalities_in
from nnunet_anatomix.clinical.intake.choice import CaseChoice, choose
from nnunet_anatomix.clinical.intake.mapping import check_channels, check_uids, parse_maps
from nnunet_anatomix.clinical.intake.needs import Channel, find_needs
from nnunet_anatomix.clinical.intake.series import Series
from pretraining.common.errors import InputError
from pretraining.imaging.grids import Grid

GRID = Grid(
    size=(64, 64, 30), spacing_mm=(1.0, 1.0, 3.0), origin_mm=(0.0, 0.0, 0.0), direction=(1.0, 0, 0, 0, 1, 0, 0, 0, 1)
)
CORONAL = replace(GRID, direction=(1.0, 0, 0, 0, 0, 1, 0, -1, 0))


def scan(description: str = "", modality: str = "CT", **other) -> Series:
    defaults = {
        "kind": "dicom",
        "files": (f"{description or modality}/{other.get('series_uid', 'x')}",),
        "fingerprint": "",
        "case_key": ("patient", "study"),
        "grid": GRID,
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
        "frame_uid": "1.2",
    }
    return Series(**{**defaults, "modality": modality, "description": description, **other})


def image(file: str, grid: Grid = GRID, names: tuple[str, ...] = ()) -> Series:
    name = file.rsplit("/", 1)[-1].split(".")[0]
    return Series(
        kind="image",
        files=(file,),
        fingerprint="",
        case_key=image_case_key(file, {file, *names}),
        grid=grid,
        description=name,
    )


def channels(*names: str) -> tuple[Channel, ...]:
    return tuple(Channel(number, name) for number, name in enumerate(names))


def chosen(series: list[Series], needed: tuple[Channel, ...], maps: tuple[str, ...] = ()) -> list[CaseChoice]:
    return choose(dict(enumerate(series, 1)), needed, parse_maps(maps, needed))


@pytest.mark.parametrize(
    ("unfit", "reason"),
    [
        (scan(modality="MR"), "modality MR, expected CT"),
        (scan(modality="Hans^M"), r"modality \?, expected CT"),
        (scan("Topogram 0.6"), r"localizer \(description\)"),
        (scan("x", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")), r"localizer \(ImageType\)"),
        (
            scan("x", image_type=("DERIVED", "SECONDARY", "OTHER")),
            r"secondary image \(ImageType DERIVED\\SECONDARY\\OTHER\)",
        ),
        (scan("x", image_type=("DERIVED", "PRIMARY", "OTHER")), "derived image"),
        (scan("x", image_type=("ORIGINAL", "PRIMARY", "MPR")), "reformatted"),
        (scan("Abdomen MPR cor"), r"reformatted \(description\)"),
        (scan("Thorax MIP 10"), "projection"),
        (scan("Dose Report"), "dose report"),
        (scan("DSA Subtraction"), "subtraction"),
        (scan("PreMonitoring"), "monitoring"),
        (scan("cor", grid=CORONAL), "reformatted .coronal"),
        (scan("few", grid=replace(GRID, size=(64, 64, 3))), "only 3 slices"),
        (scan("iodine", rescale_type="MGML"), "values are MGML"),
    ],
)
def test_what_is_no_ct_has_its_reason(unfit, reason):
    (case,) = chosen([unfit, scan("Abdomen 3.0", series_uid="good")], channels("CT"))
    assert case.chosen == (2,)
    assert re.search(reason, case.reasons[1])


def test_low_dose_is_no_dose_report():
    assert chosen([scan("Thorax Low Dose 1.0 (protocol B)")], channels("CT"))[0].chosen == (1,)


def test_ranks_prefer_more_then_finer_then_larger_and_softer():
    best = scan("a", grid=replace(GRID, size=(64, 64, 60)))
    others = [
        scan("b"),
        scan("c", grid=replace(GRID, size=(64, 64, 60), spacing_mm=(1.0, 1.0, 4.0))),
        scan("d", grid=replace(GRID, size=(32, 32, 60))),
        scan("e", grid=replace(GRID, size=(64, 64, 60)), kernel="B70f"),
    ]
    (case,) = chosen([*others, best], channels("CT"))
    assert case.chosen == (5,)
    reasons = [case.reasons[number] for number in (1, 2, 3, 4)]
    expected = ("more slices", "thinner slices", "larger field of view", "softer kernel")
    assert all(reason == f"series 5 fits better: {why}" for reason, why in zip(reasons, expected, strict=True))


def test_a_tie_is_decided_by_order_and_said():
    (case,) = chosen([scan("a"), scan("b")], channels("CT"))
    assert case.chosen == (1,) and "series 2 would fit equally well" in case.reasons[1]
    assert case.reasons[2] == "series 1 fits better: same rank, lower number"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("t1_mprage_sag_p2_iso", {"T1"}),
        ("sT1W_3D_TFE", {"T1"}),
        ("t2_tse_tra", {"T2"}),
        ("t2_tirm_tra_dark-fluid", {"FLAIR"}),
        ("Ax T2 FLAIR", {"FLAIR"}),
        ("Ax T1 FLAIR", {"T1"}),
        ("t1_vibe_fs +C", {"T1CE"}),
        ("T1ce", {"T1CE"}),
        ("ax T2* GRE", {"T2*"}),
        ("t2s", {"T2*"}),
        ("PD T2 dual", {"PD", "T2"}),
        ("pdw_tse", {"PD"}),
        ("MRI", {"MR"}),
        ("BraTS_001_t1", {"T1"}),
        ("Actinium", set()),
    ],
)
def test_words_for_contrasts(text, kinds):
    assert modalities_in(text) == kinds


@pytest.mark.parametrize(("name", "taken"), [("T1", 1), ("T2", 2), ("FLAIR", 3), ("PD", 4), ("T1ce", 5)])
def test_contrasts_are_told_by_their_words(name, taken):
    described = ("t1_tse_tra", "t2_tse_tra", "t2_flair", "pd_tse", "t1_tse_tra km")
    series = [scan(text, "MR") for text in described]
    (case,) = chosen(series, channels(name))
    assert case.chosen == (taken,)


def test_siemens_mprage_is_no_reformat_and_an_mpr_of_it_is():
    original = scan("t1_mpr_ns_sag", "MR", grid=CORONAL)
    reformat = scan("t1_mpr_tra", "MR", image_type=("DERIVED", "SECONDARY", "MPR"))
    (case,) = chosen([reformat, original], channels("T1"))
    assert case.chosen == (2,)


def test_contrast_agent_is_avoided_unless_asked_for():
    plain, enhanced = (
        scan("t1_tse", "MR"),
        scan("t1_tse late", "MR", content=SeriesContent(agent=True), grid=replace(GRID, size=(64, 64, 90))),
    )
    assert chosen([enhanced, plain], channels("T1"))[0].chosen == (2,)
    assert chosen([enhanced, plain], channels("T1ce"))[0].chosen == (1,)


def test_another_word_must_stand_in_the_description():
    (case,) = chosen(
        [scan("ep2d_diff_ADC", "MR", image_type=("DERIVED", "PRIMARY", "ADC")), scan("t2", "MR")], channels("ADC")
    )
    assert case.chosen == (1,) and case.reasons[2] == "description does not contain ADC"


def test_channels_must_share_a_frame_of_reference():
    ct, far, near = (
        scan("CT"),
        scan("t1", "MR", frame_uid="9.9"),
        scan("t1 b", "MR", grid=replace(GRID, spacing_mm=(1.0, 1.0, 2.0))),
    )
    (case,) = chosen([ct, far], channels("CT", "T1"))
    assert (
        not case.chosen
        and "different frames of reference" in case.reason
        and case.reasons[1].startswith("case not taken")
    )
    (case,) = chosen([ct, far, near], channels("CT", "T1"))
    assert (
        case.chosen == (1, 3)
        and case.resampled == (False, True)
        and "resampled onto the grid of channel 0" in case.reasons[3]
    )
    (case,) = chosen([ct, near, scan("t1 c", "MR")], channels("CT", "T1"))
    assert case.chosen == (1, 3) and case.resampled == (False, False)


def test_the_best_first_channel_gives_way_to_one_that_has_a_partner():
    large = scan("large", grid=replace(GRID, size=(64, 64, 99)), frame_uid="8")
    (case,) = chosen([large, scan("small"), scan("t1", "MR")], channels("CT", "T1"))
    assert case.chosen == (2, 3)


def test_unknown_frames_of_reference_are_not_guessed():
    (case,) = chosen([scan(frame_uid=""), scan("t1", "MR", frame_uid="")], channels("CT", "T1"))
    assert not case.chosen


def test_a_missing_channel_is_named():
    (case,) = chosen([scan()], channels("CT", "T1"))
    assert case.reason == "no series for channel 1 (T1)" and case.has_candidates


def test_studies_are_never_mixed():
    series = [scan(), scan("t1", "MR", case_key=("patient", "later study"))]
    cases = chosen(series, channels("CT", "T1"))
    assert len(cases) == 2 and not any(case.chosen for case in cases)


def test_an_unsound_series_is_never_taken_even_if_mapped():
    broken = scan("a", problem="missing slices: 1 of 30", grid=None, series_uid="1.5")
    for maps in ((), ("0=description:a",), ("0=series:1.5",)):
        (case,) = chosen([broken], channels("CT"), maps)
        assert not case.chosen and case.reasons[1] == "missing slices: 1 of 30"


def test_maps_go_before_rules():
    derived = scan("Weird MPR (cor)", image_type=("DERIVED", "SECONDARY"), series_uid="1.2.7", grid=CORONAL)
    series = [scan("normal"), derived]
    needed = channels("CT")
    for maps in (
        ("0=description:*mpr*",),
        ("CT=series:1.2.7",),
        ("0=path:weird*",),
        ("0=modality:ct", "0=description:W*"),
    ):
        (case,) = chosen(series, needed, maps)
        assert case.chosen == (2,) and "--map" in case.reasons[1]


def test_a_mapped_uid_rules_its_own_case_alone():
    one, other = scan("a", series_uid="1.1", case_key=("p", "1")), scan("b", series_uid="1.2", case_key=("p", "2"))
    longer = scan("c", case_key=("p", "1"), grid=replace(GRID, size=(64, 64, 99)))
    first, second = chosen([one, longer, other], channels("CT"), ("0=series:1.1",))
    assert first.chosen == (1,) and second.chosen == (3,)


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        (("0",), "expected CHANNEL=FIELD:PATTERN"),
        (("0=colour:red",), "expected CHANNEL=FIELD:PATTERN"),
        (("7=description:x",), "the model's channels are 0"),
        (("0=series:Müller",), "digits and dots"),
    ],
)
def test_wrong_maps_are_refused(maps, said):
    with pytest.raises(InputError, match=said):
        parse_maps(maps, channels("CT"))


def test_maps_that_name_nothing_and_channels_that_say_nothing_are_refused():
    with pytest.raises(InputError, match="has no series with this UID"):
        check_uids(parse_maps(("0=series:9.9",), channels("CT")), [scan(series_uid="1.1")])
    with pytest.raises(InputError, match="does not tell the series to take"):
        check_channels({}, channels("noNorm"))
    with pytest.raises(InputError, match="several channels are called 'CT'"):
        check_channels({}, channels("CT", "CT"))
    check_channels(parse_maps(("0=description:*",), channels("noNorm")), channels("noNorm"))


def test_image_files_are_cases_by_what_their_names_share():
    files = ("a/P1_t1.nii.gz", "a/P1_t2.nii.gz", "a/P1_seg.nii.gz", "a/P2_t1.nii.gz", "a/P2_t2.nii.gz")
    cases = chosen([image(file) for file in files], channels("T1", "T2"))
    assert [case.chosen for case in cases if case.chosen] == [(1, 2), (4, 5)]
    folders = ("T1/p.nrrd", "T2/p.nrrd", "labelsTr/p.nrrd")
    assert chosen([image(file) for file in folders], channels("T1", "T2"))[0].chosen == (1, 2)
    mixed = ("P/t1_mprage_sag.nii", "P/t2_tse.nii", "P/mask.nii")
    assert chosen([image(file) for file in mixed], channels("T1", "T2"))[0].chosen == (1, 2)


def test_image_files_in_nnunets_own_naming():
    files = tuple(f"imagesTs/c_{channel:04d}.nii.gz" for channel in range(2))
    series = [image(file, names=files) for file in files]
    assert chosen(series, channels("CT", "MRI"))[0].chosen == (1, 2)
    (case,) = chosen(series, channels("CT"))
    assert case.chosen == (1,) and case.reasons[2] == "file name says channel 1"


def test_image_files_on_other_grids_are_no_case():
    series = [image("p_t1.nii"), image("p_t2.nii", replace(GRID, origin_mm=(5.0, 0, 0)))]
    (case,) = chosen(series, channels("T1", "T2"))
    assert not case.chosen and "different grids" in case.reason


def test_an_image_that_says_nothing_serves_the_only_channel():
    cases = chosen([image("a.nii"), image("b_mr.nii"), image("c_label.nii"), image("cordseg.nii")], channels("CT"))
    assert [case.chosen for case in cases] == [(1,), (), (), ()]
    assert "modality unknown from the file" in cases[0].reasons[1]
    assert cases[1].reasons[2] == "file name says MR, expected CT"


def dataset_json(folder, names=("CT",), ending=".nii.gz", key="channel_names"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(
        json.dumps({key: {str(i): name for i, name in enumerate(names)}, "file_ending": ending})
    )


def test_needs_are_found_wherever_nnunet_keeps_them(tmp_path, nnunet):
    model = nnunet.results / "Dataset042_Liver" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    dataset_json(model, ("CT", "PET"), ".nrrd")
    (model / "fold_0").mkdir()
    dataset_json(nnunet.raw / "Dataset043_Old", ("MRI",), key="modality")
    dataset_json(nnunet.preprocessed / "Dataset044_New")
    for name in (
        str(model),
        str(model / "fold_0"),
        str(model.parent),
        str(model / "dataset.json"),
        "42",
        "042",
        "Dataset042_Liver",
    ):
        needs = find_needs(name)
        assert [str(channel) for channel in needs.channels] == [
            "channel 0 (CT)",
            "channel 1 (PET)",
        ] and needs.file_ending == ".nrrd"
    assert find_needs("43").channels[0].kind == "MR" and find_needs("Dataset044_New").channels[0].kind == "CT"


def test_models_that_are_not_there_or_say_nothing_are_refused(tmp_path, nnunet, monkeypatch):
    monkeypatch.chdir(nnunet.raw)  # beside which there is no x
    dataset_json(nnunet.raw / "Dataset001_A")
    dataset_json(nnunet.results / "Dataset001_B")
    dataset_json(nnunet.raw / "Dataset002_Tif", ending=".tif")
    (nnunet.raw / "Dataset003_Bad").mkdir()
    (nnunet.raw / "Dataset003_Bad" / "dataset.json").write_text("{")
    (nnunet.raw / "Dataset004_None").mkdir()
    (nnunet.raw / "Dataset004_None" / "dataset.json").write_text('{"file_ending": ".nii.gz"}')
    for name, said in (
        ("1", "found .'Dataset001_A', 'Dataset001_B'"),
        ("77", "found none"),
        ("../x", "found none"),
        ("2", "file_ending is .*tif"),
        ("3", "cannot read"),
        ("4", "expected channel_names"),
        (str(tmp_path), "no dataset.json"),
    ):
        with pytest.raises(InputError, match=said):
            find_needs(name)
