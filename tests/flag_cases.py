"""Command lines that give every flag of every command once, on miniature data.

``{name}`` stands for a file of ``Material``, words in brackets for the flags of a whole
configuration (see ``WHOLE``). A new flag belongs into one of these lines; ``test_every_flag.py``
says which one is missing.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.config_flags import flags_of
from tests.flag_material import Material, changed_config

PRETRAIN, NNUNET = "anatomix-pretrain", "nnunet-anatomix"
WHOLE = {
    "[changed]": lambda: flags_of(changed_config()),
    "[changed-engine]": lambda: flags_of(changed_config().engine, "engine."),
}
"""Words that stand for the flags of a configuration in which every field is changed."""


@dataclass(frozen=True)
class Case:
    """Lines to be run one after the other in a new folder."""

    name: str
    program: str
    lines: tuple[str, ...]
    makes: tuple[str, ...] = ()
    """Files and folders that are there afterwards, relative to the new folder; patterns are
    allowed.
    """
    says: str = ""
    """Is in what the last line prints."""
    slow: bool = False

    def words(self, line: str, material: Material | None = None) -> list[str]:
        """The words of a line; names of files stay as they are without ``material``."""
        words: list[str] = []
        for word in shlex.split(line):
            if word in WHOLE:
                words += WHOLE[word]()
            elif material is not None and "{" in word:
                name, _, rest = word.removeprefix("{").partition("}")
                words.append(str(getattr(material, name)) + rest)
            else:
                words.append(word)
        return words


def case(name: str, program: str, *lines: str, makes: str = "", says: str = "", slow: bool = False) -> Case:
    """Lines are without the program; ``makes`` is names with blanks between."""
    return Case(name, program, tuple(" ".join(line.split()) for line in lines), tuple(makes.split()), says, slow)


CASES = (
    case(
        "templates",
        PRETRAIN,
        "templates --source {masks} --out a.bank --spacing 2 --workers 1 --licence CC0-1.0 --region body",
        makes="a.bank a.bank.report.txt",
    ),
    case(
        "preview",
        PRETRAIN,
        "preview --out sheet.png --templates {bank} --preset short --page samples --count 1 [changed]",
        "preview --out artefacts.png --templates {bank} --preset {small} --page artefacts --count 2",
        makes="sheet.png artefacts.png",
    ),
    case(
        "synthesize",
        PRETRAIN,
        """synthesize --templates {bank} --out store --count 2 --seed 3 --shard 0/1 --workers 1 --device cpu
        --executor local --preset short [changed-engine]""",
        """synthesize --templates {bank} --out store --count 2 --seed 3 --workers 1 --verify --preset short
        [changed-engine]""",
        makes="store/*",
    ),
    case(
        "synthesize by Slurm",
        PRETRAIN,
        """synthesize --templates {bank} --out store --count 2 --executor slurm --shards 2 --slurm-partition
        night --slurm-minutes 5 --workers 1 --preset {small}""",
        makes="submitted.sh",
    ),
    case(
        "train",
        PRETRAIN,
        """train --out run --templates {bank} --preset short --init-from {changed_start} --device cpu --workers
        0 [changed]""",
        "export run --out a.safetensors --format safetensors --which last --half --notes 'of a test'",
        "export run --out a.pth --format published --which best",
        "export run --out b.pth --format nnssl",
        makes="run/config.json run/checkpoint.pt a.safetensors a.pth",
    ),
    case(
        "train on a store",
        PRETRAIN,
        """train --out run --samples {store} --preset {small} --minutes 0.01 --init-from {start} --device cpu
        --workers 0""",
        "train --out run --samples {store} --resume --minutes 0.02 --device cpu --workers 0",
        makes="run/config.json run/checkpoint.pt",
    ),
    case(
        "sweep",
        PRETRAIN,
        """sweep --variants {variants} --out sweep --data {brain} --templates {bank} --preset {small} --minutes
        0.005 --device cpu""",
        makes="sweep/table.md sweep/base/result.json",
    ),
    case(
        "judge",
        PRETRAIN,
        """judge {tiny} --data {brain} --json scores.json --templates {bank} --frames aligned moved --device
        cpu --voxels 50 --seed 3""",
        makes="scores.json",
    ),
    case(
        "import",
        PRETRAIN,
        "import {published} --out back.safetensors",
        "import {published} --out nnssl.pth --format nnssl",
        makes="back.safetensors nnssl.pth",
    ),
    case("baseline", NNUNET, "baseline models_genesis {genesis} --out genesis.json", makes="genesis.json"),
    case(
        "plan",
        NNUNET,
        """plan -d 43 --iterations 5 --weights {weights} -gpu_memory_target 6 -overwrite_target_spacing 2 1.25
        1 -overwrite_plans_name Short --architecture anatomix_unet16 --statistics own --max-patch 64""",
        """plan --dataset 43 --gpu-memory-target 6 --overwrite-target-spacing 2 1.25 1 --overwrite-plans-name
        Long --weights {weights} --max-patch 48""",
        makes="nnUNet_preprocessed/Dataset043_Blobs/Short.json nnUNet_preprocessed/Dataset043_Blobs/Long.json",
    ),
    case(
        "plan and preprocess",
        NNUNET,
        """plan-and-preprocess -d 43 --iterations 5 --weights {weights} -gpu_memory_target 6
        -overwrite_target_spacing 4 2.5 2 -overwrite_plans_name Short --architecture anatomix_unet16
        --statistics running --max-patch 64 -np 1""",
        """plan-and-preprocess --dataset 43 --gpu-memory-target 6 --overwrite-target-spacing 4 2.5 2
        --overwrite-plans-name Long --weights {weights} --max-patch 48 --np 1""",
        "split -d 43 --shots 1 --seed 1 --repeats 2",
        "split --dataset 43 --shots 2",
        makes="nnUNet_preprocessed/Dataset043_Blobs/splits_final.json nnUNet_preprocessed/Dataset043_Blobs/Long*/*",
    ),
    case(
        "prepare",
        NNUNET,
        "prepare msd-heart --source {hearts} --out raw --no-partial --weights none --device cpu",
        "prepare msd-heart --source {hearts} --out raw2 --shots 1 --partial -device cpu",
        makes="raw/Dataset*/dataset.json raw2/Dataset*/dataset.json",
    ),
    case(
        "reproduce",
        NNUNET,
        """reproduce table1 --data {raw} --out out --rows Ours --datasets 43 --shots 1 --weights {weights}
        --starts stock --transfer {weights} --miniature --iterations 5 --seeds 0 --max-patch 16 --batch 1
        --device cpu --dry-run""",
        """reproduce table2 --data {raw} --out out --pairs {pair} --networks {tiny} --overlap 0.25
        --no-miniature -device cpu --dry-run""",
        """reproduce table3 --data {raw} --out out --datasets 43 --templates {bank} --brains {bank}
        --templates-and-brains {bank} --pretraining-steps 2 --pretraining-side 32 --device cpu --dry-run""",
        """reproduce figure7 --data {raw} --out out --images {pair}/fixed.nii.gz --templates {bank} --device
        cpu --dry-run""",
        "reproduce figure5 --data {raw} --out out --pairs {pair} --programs {program} --device cpu --dry-run",
        "reproduce figure8 --data {raw} --out out --datasets 43 --budgets 1 2 --seeds 0 --device cpu --dry-run",
        says="nnunet-anatomix study",
    ),
    case(
        "study",
        NNUNET,
        """study -d 43 --out study --shots 1 --seeds 0 --starts scratch --iterations 2 --max-patch 32 --batch 1
        --device cpu --keep""",
        """study --dataset 43 --out other --shots 1 --seeds 0 --starts scratch --iterations 2 --patch 32 32 32
        --spacing 4 2.5 2 --recipe paper -device cpu --no-keep""",
        makes="study/*.md other/*.md study/runs/*/*/*/*/checkpoint_final.pth",
        slow=True,
    ),
    case(
        "fit and next",
        NNUNET,
        """fit -d 43 --unlabelled {unlabelled} --minutes 1 --iterations 2 --max-patch 32 --batch 1 --seed 1
        --device cpu""",
        "fit --dataset 43 --iterations 2 --max-patch 32 --batch 1 --seed 1 -device cpu",
        "next -d 43 -i nnUNet_raw/Dataset043_Blobs/imagesTs -o ranked --atlases --device cpu",
        "next --dataset 43 --images nnUNet_raw/Dataset043_Blobs/imagesTs --out fewer --no-atlases -device cpu",
        makes="""nnUNet_results/Dataset043_Blobs/*FitPlans*/fold_all/checkpoint_final.pth
        nnUNet_results/Dataset043_Blobs/fit/fit.html ranked/next.html fewer/next.csv""",
        slow=True,
    ),
    case(
        "demo",
        NNUNET,
        "demo --out demo --iterations 200 --device cpu --seed 0 --no-only-data",
        makes="demo/report.html demo/dice.csv demo/registration/registration.html",
        slow=True,
    ),
    case("data of the demo", NNUNET, "demo --out demo --seed 1 --only-data", makes="demo/nnUNet_raw/*/dataset.json"),
    case(
        "features",
        NNUNET,
        """features {pair}/fixed.nii.gz --out a.nii.gz --weights {tiny} --clip -2 2 --spacing 2 --side 16
        --overlap 0.25 --no-whole --precision fp32 --memory 1G --picture --trust-code --statistics own
        --device cpu""",
        "features {pair}/fixed.nii.gz --out b.nrrd --weights {tiny} --whole --no-picture --no-trust-code -device cpu",
        makes="a.nii.gz a.png b.nrrd",
    ),
    case(
        "register",
        NNUNET,
        """register --out one --fixed {pair}/fixed.nii.gz --moving {pair}/moving.nii.gz --solver convexadam
        --features {tiny} --mind --intensity --feature-weight 0.5 --init auto --affine rigid --fixed-mask
        {pair}/fixed_mask.nii.gz --moving-mask {pair}/moving_mask.nii.gz --fixed-labels
        {pair}/fixed_labels.nii.gz --moving-labels {pair}/moving_labels.nii.gz --fixed-landmarks
        {pair}/fixed.csv --moving-landmarks {pair}/moving.csv --fixed-clip -2 2 --moving-clip -4 4 --spacing
        2 --smoothness 1 --grid-spacing 4 --reach 2 --adam-spacing 2 --iterations 20 --no-unfold --beyond zeros
        --regularization diffusion
        --overlap 0.25 --precision fp32 --memory 2G --no-trust-code --statistics own --device cpu --no-dicom
        --no-fast""",
        """register --out many --pairs {pair}/pairs.csv --features {tiny} --no-mind --no-intensity --trust-code
        --init none --grid-spacing 4 --reach 2 --fast --unfold --dissimilarity correlation --iterations 4
        -device cpu""",
        """register --out clinical --fixed {clinic}/src/series --moving {clinic}/src/series --features none
        --init none --grid-spacing 4 --reach 2 -device cpu --dicom""",
        """register --out theirs --fixed {pair}/fixed.nii.gz --moving {pair}/moving.nii.gz --features none --init none
        --program {program}""",
        "evaluate registration many --out summary",
        makes="""one/registration.html many/one/registration.json many/registrations.html
        clinical/registration.dcm theirs/registration.json summary/*""",
    ),
    case(
        "propagate",
        NNUNET,
        """propagate -d 43 -i nnUNet_raw/Dataset043_Blobs/imagesTs -o out --preset fast --fusion vote --leave-out 1
        --memory 2G --device cpu""",
        """propagate --dataset 43 --images nnUNet_raw/Dataset043_Blobs/imagesTs --out other --leave-out 0 --atlases 1
        --features {tiny} --feature-weight 0.2 -device cpu""",
        makes="out/Ts0.nii.gz out/agreement/Ts0.nii.gz out/propagation.csv out/leave_one_out.md other/Ts0.nii.gz",
    ),
    case(
        "enlarge",
        NNUNET,
        "plan-and-preprocess -d 43 -np 1",
        "enlarge -d 43 --unlabelled {unlabelled} --memory 2G --device cpu",
        "enlarge --dataset 43 --unlabelled {unlabelled} -p nnUNetAnatomixPlans -device cpu",
        "enlarge -d 43 --unlabelled {unlabelled} --plans nnUNetAnatomixPlans --device cpu",
        makes="""nnUNet_preprocessed/Dataset043_Blobs/nnUNetAnatomixPlansEnlarged.json
        nnUNet_preprocessed/Dataset043_Blobs/nnUNetAnatomixPlans_unlabelled/all/Un0.b2nd""",
    ),
    case(
        "apply",
        NNUNET,
        """apply {pair}/start.tfm --to {pair}/moving.nii.gz {pair}/moving_labels.nii.gz {pair}/moving.csv --reference
        {pair}/fixed.nii.gz --no-inverse --interpolation auto --out moved""",
        "apply --batch {pair}/apply.csv --inverse --interpolation nearest --out back",
        makes="moved/moving.nii.gz moved/moving_labels.nii.gz moved/moving.csv back/001_fixed.nii.gz",
    ),
    case(
        "evaluate segmentations",
        NNUNET,
        "evaluate segmentation {labels}/predicted {labels}/true --out scores",
        makes="scores/*",
    ),
    case(
        "align",
        NNUNET,
        """align --scans {pair}/scans.csv --out given --atlas {pair}/fixed.nii.gz --rounds 1 --weights {tiny}
        --clip -4 4 --atlas-clip -2 2 --trust-code --statistics own --device cpu""",
        "align --scans {pair}/scans.csv --out made --rounds 1 --weights none --spacing 2 --no-trust-code -device cpu",
        makes="given/alignment.json made/atlas.nii.gz",
    ),
    case(
        "search",
        NNUNET,
        """search --pairs {pair}/pairs.csv --out search --methods features --smoothness 1 --grid-spacing 4
        --reach 2 --adam-spacing 2 --iterations 20 --no-unfold --regularization diffusion --weights {tiny}
        --trust-code --statistics own
        --fixed-clip -2 2 --moving-clip -4 4 --device cpu""",
        """search --pairs {pair}/pairs.csv --out search2 --methods mind --smoothness 1 --grid-spacing 4 --reach
        2 --adam-spacing 2 --unfold --no-trust-code -device cpu""",
        makes="search/results.csv search2/summary.md",
    ),
    case(
        "intake",
        NNUNET,
        "intake {clinic}/src taken -m {clinic}/model --map '0=modality:CT' --workers 1 --no-dry-run --originals-only",
        "intake {clinic}/src taken --model {clinic}/model --dry-run --map '0=modality:CT' --no-originals-only",
        makes="taken/intake.csv taken/images/case_001_0000.nii.gz",
    ),
    case(
        "deliver",
        NNUNET,
        """deliver {clinic}/pred dicom --intake {clinic}/intake -m {clinic}/model --format dicom --overview
        --segmentation-type labelmap --compress --keep-empty-frames --rtstruct --report --secondary-capture""",
        """deliver {clinic}/pred nifti --intake {clinic}/intake --model {clinic}/model --format nifti --no-overview
        --no-compress --no-keep-empty-frames --no-rtstruct --no-report --no-secondary-capture""",
        "deliver {clinic}/pred moved --intake {clinic}/intake -m {clinic}/model --no-overview --sources {clinic}/src",
        makes="""dicom/segmentations/case_001.dcm dicom/overviews/case_001.png dicom/rtstructs/case_001.dcm
        dicom/reports/case_001.dcm dicom/secondary_captures/case_001.dcm dicom/manifests/*_deliver.json
        nifti/nifti/case_001.nii.gz""",
    ),
    case(
        "run",
        NNUNET,
        """run {clinic}/src out -m {miniature} --map '0=modality:CT' --folds all --no-mirroring --format both
        --no-overview --workers 1 --no-watch --settle-s 1 --device cpu --segmentation-type labelmap --compress
        --keep-empty-frames --rtstruct --report --secondary-capture --originals-only""",
        """run {clinic}/src many --routes {routes} --format nifti --mirroring --overview --workers 1 -device cpu
        --no-compress --no-keep-empty-frames --no-rtstruct --no-report --no-secondary-capture
        --no-originals-only""",
        """run {clinic}/src out --model {miniature} --map '0=modality:CT' --folds all --no-mirroring --format both
        --no-overview --workers 1 --fetch {archive} --query PatientID=1 --send {viewer} --device cpu""",
        makes="out/sent/case_001.json many/ct/results/overviews/case_001.png",
        slow=True,
    ),
    case("weights", NNUNET, "weights {tiny} --json-card", "weights {tiny} --no-json-card", says="sha256"),
    case("backbone", NNUNET, "backbone {checkpoint} --out a.safetensors", makes="a.safetensors"),
    case("doctor", NNUNET, "doctor"),
)
LEFT_OUT = {
    (
        NNUNET,
        "reproduce",
        "--no-dry-run",
    ): "runs a table; tests/nnunet_anatomix/reproduce/test_miniature.py runs them all, without the flag",
    (NNUNET, "run", "--watch"): "does not end; tests/nnunet_anatomix/clinical/running/test_watch.py runs and stops it",
    (NNUNET, "run", "--receive"): "needs --watch; tests/nnunet_anatomix/clinical/running/test_watch.py sends to it",
}
"""(program, command, flag) -> why no line gives it."""


def as_parameter(one: Case):
    """For pytest."""
    return pytest.param(
        one, id=one.name.replace(" ", "-"), marks=[pytest.mark.slow, pytest.mark.timeout(1800)] if one.slow else []
    )


def found(folder: Path, pattern: str) -> bool:
    """Whether something matches."""
    return any(folder.glob(pattern))
