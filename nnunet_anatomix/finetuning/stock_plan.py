"""Stock planning on the target spacing of our rule, without writing a plan."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.configuration import default_num_processes
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from nnunet_anatomix.finetuning.dataset import RawDataset
from nnunet_anatomix.finetuning.grid_rule import GeometryConfig, target_spacing
from pretraining.common.command_output import printed_to_log

WORKERS = "nnUNet_n_proc_DA"
"""Environment variable of nnU-Net: number of processes that augment."""


def stock_plan(
    raw: RawDataset,
    plans_name: str,
    geometry: GeometryConfig,
    spacing_mm: Sequence[float] | None,
    *,
    max_patch: int | None = None,
    anew: bool = False,
) -> dict[str, Any]:
    """Plan a dataset with nnU-Net on the target spacing of our rule; extract its fingerprint first.

    Args:
        raw: Dataset.
        plans_name: Name of the plan.
        geometry: Parameters of the rule.
        spacing_mm: Spacing to resample to, mm, slices first. Default: by the rule.
        max_patch: Maximum side of a patch, voxels. Default: no limit.
        anew: Whether to replace an existing fingerprint.

    Returns:
        Content of the plans file, which is not written.
    """
    # Stock planning prints details of the U-Net that we replace.
    with printed_to_log(), _at_least_one_worker():
        DatasetFingerprintExtractor(raw.name, default_num_processes).run(overwrite_existing=anew)
        return _GridRulePlanner(raw.name, plans_name, geometry, spacing_mm, max_patch).plan_experiment()


def planning_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` with at least one worker for augmentation.

    ``nnUNet_n_proc_DA=0`` makes trainers augment in their own process. Stock planning uses the same
    number for its threads, and fails if it is 0.

    Args:
        environment: Environment variables.
    """
    return {**environment, WORKERS: "1"} if environment.get(WORKERS, "").strip() == "0" else dict(environment)


class _GridRulePlanner(ExperimentPlanner):
    """Stock planner that uses the target spacing of our rule and does not save its plan."""

    def __init__(
        self,
        dataset_name: str,
        plans_name: str,
        geometry: GeometryConfig,
        spacing_mm: Sequence[float] | None,
        max_patch: int | None,
    ) -> None:
        super().__init__(
            dataset_name,
            plans_name=plans_name,
            overwrite_target_spacing=None if spacing_mm is None else list(spacing_mm),
        )
        self._geometry, self._max_patch = geometry, max_patch

    def determine_fullres_target_spacing(self) -> np.ndarray:
        if self.overwrite_target_spacing is not None:
            return super().determine_fullres_target_spacing()
        fingerprint = self.dataset_fingerprint
        spacings, shapes = fingerprint["spacings"], fingerprint["shapes_after_crop"]
        return np.array(target_spacing(spacings, shapes, self._geometry, max_patch=self._max_patch))

    def save_plans(self, plans: dict[str, Any]) -> None:
        recursive_fix_for_json_export(plans)


@contextlib.contextmanager
def _at_least_one_worker() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(planning_environment(before))
    try:
        yield
    finally:
        if WORKERS in before:
            os.environ[WORKERS] = before[WORKERS]
