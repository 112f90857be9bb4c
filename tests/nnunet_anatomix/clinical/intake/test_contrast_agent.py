"""Tests of the choice between scans before and after contrast agent."""

from __future__ import annotations

import shlex
import zlib

import pytest

from nnunet_anatomix.clinical.dicom.content import DAY_S, SeriesContent, parse_agent, parse_date_time
from nnunet_anatomix.clinical.intake.contrast_agent import judge_agents
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from tests.nnunet_anatomix.clinical.dicom_series import write_series
from tests.nnunet_anatomix.clinical.intake.test_choice import channels, chosen, image, scan
from tests.nnunet_anatomix.clinical.intake.test_contrast_words import CONTRADICTORY, ENHANCED, NATIVE

NOON = 12 * 3600.0


def mr(description: str, *, at: float | None = None, start: float | None = None, agent: bool | None = None, **other):
    """Return a T1 scan acquired at a time of day, seconds, whose agent is given at another."""
    acquired = None if at is None else (700_000 * DAY_S + at, 700_000 * DAY_S + at + other.pop("takes", 0))
    content = SeriesContent(agent=agent, agent_start_s=start, acquired_s=acquired)
    return scan(
        description,
        "MR",
        content=content,
        series_uid=other.pop("series_uid", f"1.{zlib.crc32(description.encode())}"),
        **other,
    )


def taken(series: list, name: str) -> tuple[int, ...]:
    (case,) = chosen(series, channels(name))
    return case.chosen


@pytest.mark.parametrize("described", [text for text in NATIVE if "BraTS" not in text and "sub-" not in text])
def test_a_native_scan_is_never_taken_for_an_enhanced_one(described):
    assert taken([mr(described)], "T1ce") == () and taken([mr(described)], "T1") == (1,)


@pytest.mark.parametrize("described", [text for text in ENHANCED if "sub-" not in text])  # sub: subtraction
def test_an_enhanced_scan_is_never_taken_for_a_native_one(described):
    assert taken([mr(described)], "T1") == () and taken([mr(described)], "T1ce") == (1,)


def offered(series: list, name: str, number: int = 1) -> str:
    """Return the reason why a series is not taken, after checking that its ``--map`` takes it."""
    needed = channels(name)
    (case,) = chosen(series, needed)
    assert number not in case.chosen
    reason, _, line = case.reasons[number].partition("; to take it: --map ")
    assert line, case.reasons
    (mapped,) = chosen(series, needed, tuple(shlex.split(line)))
    assert mapped.chosen == (number,)
    return reason


@pytest.mark.parametrize("described", CONTRADICTORY)
def test_contradictory_words_are_offered(described):
    for name in ("T1", "T1ce"):
        assert "before or after" in offered([mr(described)], name)


def test_missing_evidence_of_an_agent_is_offered():
    assert offered([mr("T1 SAG")], "T1ce") == "nothing tells whether it is after contrast agent"
    (case,) = chosen([mr("T1 SAG")], channels("T1ce"))
    assert case.has_candidates and case.reason.endswith("series 1 may be: intake.csv tells the --map to take it")
    assert taken([mr("T1 SAG")], "T1") == (1,)


@pytest.mark.parametrize(
    ("series", "name"),
    [
        (mr("T1 SAG", agent=True), "T1ce"),
        (mr("T1 SAG", agent=True, start=NOON, at=NOON + 60), "T1ce"),
        (mr("T1 SAG", agent=True, start=NOON, at=NOON - 600, takes=60), "T1"),
        (mr("T1 SAG", start=86_000.0, at=86_000.0 + 900 - DAY_S), "T1ce"),  # after midnight
        (mr("T1 SAG", agent=False), "T1"),
        (mr("T1 PRE", agent=True, start=NOON, at=NOON - 600), "T1"),
    ],
)
def test_the_tags_decide_where_words_do_not(series, name):
    other = {"T1": "T1ce", "T1ce": "T1"}[name]
    assert taken([series], name) == (1,) and taken([series], other) == ()


@pytest.mark.parametrize(
    "series",
    [
        mr("T1 PRE GAD", agent=True),
        mr("T1 PRE", agent=True, start=NOON, at=NOON + 60),
        mr("T1 POST", agent=True, start=NOON, at=NOON - 60),
        mr("T1 POST", agent=False),
        mr("T1 SAG", agent=True, start=NOON, at=NOON - 60, takes=120),
        scan("T1", "MR", image_type=("ORIGINAL", "PRIMARY", "POST_CONTRAST"), content=SeriesContent(agent=False)),
    ],
)
def test_evidence_that_disagrees_is_offered(series):
    assert offered([series], "T1") and offered([series], "T1ce")


def test_the_study_tells_an_unmarked_scan_from_an_enhanced_one():
    assert taken([mr("T1 tra"), mr("T1 tra KM")], "T1") == (1,)
    assert taken([mr("T1 tra", at=NOON), mr("FLAIR +C", at=NOON + 60)], "T1") == (1,)
    assert "acquired after series 2" in offered([mr("T1 tra", at=NOON + 60), mr("T1 KM", at=NOON)], "T1")
    assert "acquired after series 2" in offered([mr("T1 tra", at=NOON + 60), mr("ep2d_perf", at=NOON)], "T1")
    assert "nothing tells" in offered([mr("T1 tra"), mr("FLAIR +C")], "T1")
    assert taken([mr("T1 tra", at=NOON + 60), mr("perf asl", at=NOON)], "T1") == (1,)


def test_a_tag_that_every_series_has_does_not_decide():
    everywhere = [mr("T1 tra", agent=True), mr("T2 tra", agent=True), mr("T1 tra KM", agent=True)]
    assert taken(everywhere, "T1ce") == (3,)
    assert "every series" in offered(everywhere, "T1") and "every series" in offered(everywhere, "T1ce")
    mixed = [mr("T1 tra", agent=True), mr("T2 tra"), mr("T1 sag PRE", agent=True)]
    assert "also in series without it" in offered(mixed, "T1ce")
    assert taken([mr("T1 tra", agent=True), mr("T2 tra")], "T1ce") == (1,)


def test_two_scans_with_the_same_words_are_offered():
    first, second = (mr("T1 tra", at=NOON + wait, series_uid=f"1.{wait}") for wait in (0, 600))
    assert "series 2 has the same description" in offered([first, second], "T1")
    same = mr("T1 tra", at=NOON, series_uid="1.5")
    assert taken([first, same], "T1") == (1,)  # one acquisition, reconstructed twice


def test_image_files_say_it_in_their_names():
    brats = [image(f"B/B_{kind}.nii.gz") for kind in ("t1n", "t1c", "t2w", "t2f")]
    (case,) = chosen(brats, channels("T1", "T1ce", "T2", "FLAIR"))
    assert case.chosen == (1, 2, 3, 4)
    assert chosen([image("T1/p.nii"), image("T1_post/p.nii")], channels("T1", "T1ce"))[0].chosen == (1, 2)
    pairs = [image(f"c/{patient}_{kind}.nii.gz") for patient in "PQ" for kind in ("t1", "t1_gado", "t2")]
    cases = chosen(pairs, channels("T1", "T1ce", "T2"))
    assert [each.chosen for each in cases] == [(1, 2, 3), (4, 5, 6)]
    visits = [image(f"d/P_{visit}_{kind}.nii.gz") for visit in ("pre", "post") for kind in ("flair", "t2")]
    assert [each.chosen for each in chosen(visits, channels("T2", "FLAIR"))] == [(2, 1), (4, 3)]
    initials = [image("e/KM_t2.nii.gz"), image("e/GD_t2.nii.gz")]
    assert [each.chosen for each in chosen(initials, channels("T2"))] == [(1,), (2,)]
    assert offered([image("[a]/p t1.nii.gz")], "T1ce")
    assert chosen([image("p.nii")], channels("T1ce"))[0].chosen == (1,)  # the folder says what it holds


@pytest.mark.parametrize(
    ("agent", "route", "given"),
    [
        ("Gadovist 8 ml", "", True),
        ("CE", "IV", True),
        ("NONE", "", False),
        ("no contrast", "", False),
        ("ohne KM", "", False),
        ("", "IV", None),
        ("Oral", "", None),
        ("Lumirem", "ORAL", None),
    ],
)
def test_the_tag_may_say_that_there_is_no_agent(agent, route, given):
    assert parse_agent(agent, route) is given


def test_times_are_read_from_headers(tmp_path):
    def injected(dataset, k):
        dataset.ContrastBolusAgent, dataset.ContrastBolusStartTime = "Gadovist", "115959.5"
        dataset.AcquisitionDate, dataset.AcquisitionTime = "20240229", f"1200{k:02d}"

    write_series(tmp_path, modality="MR", description="T1 SAG", change=injected)
    (series,), _ = scan_tree(tmp_path.resolve())
    assert series.content.agent and series.content.agent_start_s == NOON - 0.5
    assert series.content.acquired_s == (parse_date_time("20240229", "120000"), parse_date_time("20240229", "120007"))
    assert judge_agents({1: series})[1].agent.state == "enhanced"
