"""Check at the start of a training that the raw dataset is the one that was preprocessed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw

from nnunet_anatomix.finetuning.case_record import (
    case_files,
    describe_change,
    digest,
    name_some,
    read_record,
    record_cases,
)
from nnunet_anatomix.finetuning.dataset import find_dataset
from nnunet_anatomix.finetuning.unlabelled.folder import ENLARGED
from pretraining.common.errors import InputError


def require_unchanged_cases(
    dataset_name: str, plans_name: str, preprocessed: Collection[str], planned_digest: str | None, *, is_ours: bool
) -> None:
    """Refuse to train on preprocessed scans that differ from the raw dataset.

    Nothing is checked where the raw dataset is missing: training needs only preprocessed scans.

    Args:
        dataset_name: Name of the dataset.
        plans_name: Name of the plan.
        preprocessed: Identifiers of the preprocessed cases; empty if there are none yet.
        planned_digest: Digest of the cases that were planned, None if it is unknown.
        is_ours: Whether the plan is one of this package.

    Raises:
        InputError: If cases were added, removed or changed since. The message names them and the
            command that plans and preprocesses again.
    """
    folder = Path(nnUNet_raw.get() or "") / dataset_name
    if not nnUNet_raw.get() or not folder.is_dir() or not preprocessed:
        return
    try:
        raw = find_dataset(dataset_name)
    except InputError:  # of raw files that training does not need
        return
    added, removed = set(raw.cases) - set(preprocessed), set(preprocessed) - set(raw.cases)
    change = "; ".join(
        f"{kind}: {name_some(cases)}" for kind, cases in (("added", added), ("removed", removed)) if cases
    )
    if not change and planned_digest is not None:
        before = read_record(Path(nnUNet_preprocessed) / dataset_name)
        now = record_cases(case_files(raw.cases), before)
        if digest(now) != planned_digest:
            change = describe_change(before, now) or "other contents"
    if change:
        program = "nnunet-anatomix plan-and-preprocess" if is_ours else "nnUNetv2_plan_and_preprocess"
        plans, number = plans_name.removesuffix(ENLARGED), int(dataset_name[7:10])
        own_name = f" -overwrite_plans_name {plans}" if is_ours and plans != "nnUNetAnatomixPlans" else ""
        then = f", then: nnunet-anatomix enlarge -d {number} -p {plans}" if plans != plans_name else ""
        raise InputError(
            f"{dataset_name} is not the dataset that {plans_name} was made for ({change}); "
            f"run: {program} -d {number}{own_name}{then}"
        )
