"""Tests of SUV by body weight: QIBA's formula, and what has to be known for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, Sequence

from nnunet_anatomix.clinical.dicom.content import SeriesContent, parse_date_time
from nnunet_anatomix.clinical.dicom.pet import PetFacts, suv_factor
from nnunet_anatomix.clinical.intake.intake import intake
from nnunet_anatomix.clinical.intake.scan_tree import scan_tree
from pretraining.common.errors import CommandFailed
from pretraining.imaging.rejection import Unusable
from tests.nnunet_anatomix.clinical.dicom_series import ramp, write_series
from tests.nnunet_anatomix.clinical.intake.test_intake import model_of, rows

HALF_LIFE_S = 6586.2
SCAN = parse_date_time("20240229", "120000")
FACTS = PetFacts(
    weight_kg=70.0,
    decay_correction="START",
    series_s=SCAN,
    tracers=1,
    dose_bq=3.5e8,
    half_life_s=HALF_LIFE_S,
    injected_s=SCAN - 3600,
    has_injection_date=True,
)
CONTENT = SeriesContent(
    unit="BQML", is_attenuation_corrected=True, corrections=("ATTN", "DECY"), acquired_s=(SCAN, SCAN + 900)
)
AT_INJECTION = 70_000 / 3.5e8
AFTER_AN_HOUR = AT_INJECTION * 2 ** (3600 / HALF_LIFE_S)


@pytest.mark.parametrize(
    ("facts", "content", "factor"),
    [
        ({}, {}, AFTER_AN_HOUR),
        ({"decay_correction": "ADMIN"}, {}, AT_INJECTION),
        # Processed again after the scan: the time of the series is that of the processing.
        ({"series_s": SCAN + 7200}, {}, AFTER_AN_HOUR),
        ({"series_s": SCAN + 7200, "ge_scan_s": SCAN - 1800}, {}, AT_INJECTION * 2 ** (1800 / HALF_LIFE_S)),
        ({"series_s": None}, {}, AFTER_AN_HOUR),
        # Injected before midnight, with no more than a time of day.
        ({"injected_s": SCAN - 3600 + 86400, "has_injection_date": False}, {}, AFTER_AN_HOUR),
        ({}, {"unit": "GML"}, 1.0),
        ({"suv_type": "BW"}, {"unit": "GML"}, 1.0),
        ({"philips_suv": 0.002}, {"unit": "CNTS"}, 0.002),
        ({"philips_activity": 3.0}, {"unit": "CNTS"}, 3 * AFTER_AN_HOUR),
    ],
)
def test_the_factor_is_that_of_qiba(facts, content, factor):
    assert suv_factor(replace(FACTS, **facts), replace(CONTENT, **content)) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("facts", "content", "reason"),
    [
        ({"weight_kg": None}, {}, "PatientWeight is missing"),
        ({"weight_kg": 0.0}, {}, "PatientWeight is 0 kg"),
        ({"weight_kg": 70_000.0}, {}, "PatientWeight is 70000 kg"),
        ({"dose_bq": None}, {}, "RadionuclideTotalDose is missing"),
        ({"dose_bq": 350.0}, {}, "RadionuclideTotalDose is 350 Bq"),  # MBq
        ({"half_life_s": None}, {}, "RadionuclideHalfLife is missing"),
        ({"tracers": 2}, {}, "2 radiopharmaceuticals"),
        ({"injected_s": None}, {}, "time of the injection is missing"),
        ({"injected_s": SCAN + 60}, {}, "starts -1 min after"),
        ({"injected_s": SCAN - 86400}, {}, "starts 1440 min after"),
        ({"decay_correction": "NONE"}, {}, "DecayCorrection is NONE"),
        ({"decay_correction": ""}, {}, "DecayCorrection is missing"),
        ({"series_s": None}, {"acquired_s": None}, "time of the acquisition is missing"),
        ({"suv_type": "LBM"}, {"unit": "GML"}, "SUVType is LBM"),
        ({"damaged": ("PET tags",)}, {}, "damaged"),
        ({}, {"unit": "CNTS"}, "Units is CNTS"),
        ({}, {"unit": ""}, "Units is missing"),
        ({}, {"corrections": ("ATTN",)}, "does not list DECY"),
        ({}, {"corrections": ("DECY",)}, "does not list ATTN"),
    ],
)
def test_what_does_not_suffice_is_refused(facts, content, reason):
    with pytest.raises(Unusable, match=reason):
        suv_factor(replace(FACTS, **facts), replace(CONTENT, **content))


def pet(dataset: Dataset, k: int, **changed) -> None:
    """Complete a slice to an FDG-PET, with ``changed`` tags."""
    tracer = Dataset()
    tracer.RadionuclideTotalDose, tracer.RadionuclideHalfLife = "350000000", str(HALF_LIFE_S)
    tracer.RadiopharmaceuticalStartDateTime = "20240229110000.00"
    tags = {
        "Units": "BQML",
        "CorrectedImage": ["NORM", "DECY", "ATTN", "SCAT"],
        "DecayCorrection": "START",
        "PatientWeight": "70",
        "AcquisitionDate": "20240229",
        "AcquisitionTime": f"12{k:02d}00",
        "RadiopharmaceuticalInformationSequence": Sequence([tracer]),
        **changed,
    }
    for keyword, value in tags.items():
        if value is not None:
            setattr(dataset, keyword, value)


def write_pet(folder, **changed):
    def change(dataset, k):
        pet(dataset, k, **changed)
        dataset.RescaleSlope = str(1 + 0.25 * k)

    write_series(
        folder, modality="PT", description="WB", intercept=0.0, image_type=("ORIGINAL", "PRIMARY"), change=change
    )


BQML = ramp() * (1 + 0.25 * np.arange(8))[:, None, None]


@pytest.mark.parametrize(
    ("name", "maps", "factor"),
    [
        ("PET", (), 1.0),
        ("SUV", (), AFTER_AN_HOUR),
        ("PET (SUVbw)", (), AFTER_AN_HOUR),
        ("PET", ("0=unit:suv",), AFTER_AN_HOUR),
        ("SUVlbm", ("0=unit:suv",), AFTER_AN_HOUR),
        ("SUV", ("0=unit:stored",), 1.0),
        ("noNorm", ("0=modality:PT", "0=unit:SUV"), AFTER_AN_HOUR),
    ],
)
def test_values_are_those_that_the_channel_or_the_map_asks_for(tmp_path, name, maps, factor):
    write_pet(tmp_path / "src")
    for _ in range(2):  # the second run converts nothing, and tells the same
        intake(
            tmp_path / "src",
            tmp_path / "out",
            model_of(tmp_path / "model", name) if not _ else str(tmp_path / "model"),
            maps=maps,
        )
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "images" / "case_001_0000.nii.gz")))
        assert np.allclose(values, BQML * factor, rtol=1e-6)
        (row,) = rows(tmp_path / "out")
        assert ("not converted to SUV" in row["reason"]) == (factor == 1.0)
        assert factor == 1.0 or f"SUV = stored values × {factor:.6g}" in row["reason"]


def test_another_unit_converts_again(tmp_path):
    write_pet(tmp_path / "src")
    model = model_of(tmp_path / "model", "PET")
    intake(tmp_path / "src", tmp_path / "out", model)
    intake(tmp_path / "src", tmp_path / "out", model, maps=("0=unit:suv",))
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "images" / "case_001_0000.nii.gz")))
    assert np.allclose(values, BQML * AFTER_AN_HOUR, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "name", "maps", "reason"),
    [
        ({"CorrectedImage": ["DECY"]}, "PET", (), "not attenuation-corrected (CorrectedImage)"),
        ({"CorrectedImage": None}, "PET", (), "no tag tells whether it is attenuation-corrected; to take it: --map 0="),
        (
            {"CorrectedImage": None, "AttenuationCorrectionMethod": "NONE"},
            "PET",
            (),
            "not attenuation-corrected (CorrectedImage)",
        ),
        ({"Units": "MLMINML"}, "PET", (), "values are MLMINML, not activity"),
        ({}, "SUVlbm", (), "no SUV except by body weight; --map 0=unit:suv takes that"),
        ({}, "PET SUL", (), "no SUV except by body weight"),
        ({"PatientWeight": None}, "SUV", (), "no SUV: PatientWeight is missing"),
        ({"PatientWeight": None}, "PET", ("0=unit:suv",), "no SUV: PatientWeight is missing"),
        ({"PatientWeight": None}, "SUV", ("0=modality:PT",), "--map 0=unit:stored takes its values as stored"),
    ],
)
def test_pet_that_is_not_fit_is_not_taken(tmp_path, changed, name, maps, reason):
    write_pet(tmp_path / "src", **changed)
    model = model_of(tmp_path / "model", name)
    with pytest.raises(CommandFailed):
        intake(tmp_path / "src", tmp_path / "out", model, maps=maps)
    (row,) = rows(tmp_path / "out")
    assert reason in row["reason"]


def test_the_method_counts_where_the_list_of_corrections_is_missing(tmp_path):
    write_pet(tmp_path, CorrectedImage=None, AttenuationCorrectionMethod="CT-derived mu-map")
    (series,), _ = scan_tree(tmp_path.resolve())
    assert series.content.is_attenuation_corrected
