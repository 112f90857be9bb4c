"""Command ``enlarge``: a plan that trains on unlabelled scans too."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import SimpleITK as sitk

from nnunet_anatomix.enlarging.confidence import expected_dice, join_network, vote_margin
from nnunet_anatomix.enlarging.label_sets import ATLASES, label_sets, propagate_sets, refuse_labelled
from nnunet_anatomix.enlarging.preprocess import ScanPreprocessor
from nnunet_anatomix.finetuning.case_record import name_some
from nnunet_anatomix.finetuning.dataset import RawDataset, find_dataset
from nnunet_anatomix.finetuning.planning import CONFIGURATION, DEFAULT_PLANS_NAME, preprocessed_folder
from nnunet_anatomix.finetuning.recipe import BLOCK
from nnunet_anatomix.finetuning.unlabelled.folder import (
    CONFIDENCE,
    ENLARGED,
    FOLDER_ENDING,
    SETS,
    LabelSet,
    write_sets,
)
from nnunet_anatomix.propagation.folder import AGREEMENT, find_scans, read_record
from nnunet_anatomix.propagation.labelled_scans import LabelledScans
from nnunet_anatomix.propagation.run import PropagationRequest, choose_settings, read_settings
from pretraining.common.atomic import write_text
from pretraining.common.batch import run_batch
from pretraining.common.errors import InputError
from pretraining.common.fingerprint import file_state, fingerprint
from pretraining.common.lock import hold_lock
from pretraining.imaging.grids import Grid, image_on
from pretraining.imaging.writing import write_image

log = logging.getLogger(__name__)

UNLABELLED = "imagesUn"
"""Folder of a raw dataset for scans without labels."""
FLAG = "--unlabelled"
INTENSITIES = "foreground_intensity_properties_per_channel"
_LABELS, _DONE = "labels", "preprocessed"


@dataclass(frozen=True, kw_only=True)
class EnlargeRequest:
    """Request of the command ``enlarge``; None means the default of its help."""

    dataset: str
    images: Path | None = None
    plans: str = DEFAULT_PLANS_NAME
    memory: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


def run_enlarging(request: EnlargeRequest) -> Path:
    """Label unlabelled scans, and write a plan that trains on them too.

    Args:
        request: What to do.

    Returns:
        The plan, for ``nnUNetv2_train -p``.

    Raises:
        InputError: If dataset, scans or plan cannot be used.
        CommandFailed: If scans failed, after all others.
        InUse: If another process writes into the folder.
        Interrupted: If this process is asked to stop; the same call resumes.
    """
    dataset = find_dataset(request.dataset)
    plan = preprocessed_folder(request.dataset) / f"{request.plans}.json"
    if not plan.is_file():
        raise InputError(
            f"expected a plan {plan}, found none; run: nnunet-anatomix plan-and-preprocess -d {request.dataset}"
        )
    enlarger = Enlarger(dataset, unlabelled_folder(dataset, request.images), plan, request.device, request.memory)
    enlarged = enlarger.enlarge()
    log.info("next: nnUNetv2_train %s %s all -tr AnatomixTrainer -p %s", dataset.name, CONFIGURATION, enlarged.stem)
    return enlarged


def unlabelled_folder(dataset: RawDataset, images: Path | None) -> Path:
    """Return the folder of unlabelled scans: the given one, or that of the raw dataset."""
    return dataset.folder / UNLABELLED if images is None else images


class Enlarger:
    """Unlabelled scans for the trainings of one plan.

    Args:
        dataset: Labelled scans, at least two.
        images: Folder of unlabelled scans.
        plan: Plan that trains on labelled scans alone, in its preprocessed folder; it may be
            written later.
        device: Device of the registrations.
        memory: Memory of a registration, such as 4G.

    Raises:
        InputError: If there is no scan, a channel is missing, or a scan is a labelled case.
    """

    def __init__(
        self,
        dataset: RawDataset,
        images: Path,
        plan: Path,
        device: Literal["auto", "cpu", "cuda"],
        memory: str | None = None,
    ) -> None:
        if len(dataset.cases) < 2:
            raise InputError(
                f"--unlabelled: how far labels can be trusted is measured on two labelled scans or more, found 1 in "
                f"{dataset.name}; label another"
            )
        self.scans = LabelledScans(dataset=dataset)
        self.images = images
        self.inputs = find_scans(images, self.scans, FLAG)
        refuse_labelled(self.scans, self.inputs)
        self._plan = plan
        self._request = PropagationRequest(
            dataset=dataset.name, images=images, out=self.folder, device=device, memory=memory
        )
        self._settings = read_settings(self.scans, self._request)

    @property
    def folder(self) -> Path:
        """Folder of the preprocessed unlabelled scans."""
        return self._plan.parent / f"{self._plan.stem}{FOLDER_ENDING}"

    @property
    def enlarged_plan(self) -> Path:
        """Plan that trains on unlabelled scans too."""
        return self._plan.with_stem(self._plan.stem + ENLARGED)

    def enlarge(self, networks: Mapping[str, Path] | None = None) -> Path:
        """Label the scans, preprocess them, and write the plan.

        Args:
            networks: Set of labels → folder of predictions by a network that has seen only its
                labelled cases. Default: registered scans alone label.

        Returns:
            The plan.
        """
        with hold_lock(self.folder):
            sets = self._propagate()
            used = sets["all"].weights
            if doubtful := sorted(set(self.inputs) - set(used)):
                log.warning("%d doubtful scans are left out: %s", len(doubtful), ", ".join(doubtful))
            log.info("%d unlabelled scans join training", len(used))
            self._preprocess(sets, networks or {})
            write_sets(self.folder, sets)
            plan = json.loads(self._plan.read_text(encoding="utf-8"))
            plan["plans_name"] = self.enlarged_plan.stem
            plan[BLOCK] = {**plan.get(BLOCK, {}), "unlabelled": self.folder.name}
            write_text(self.enlarged_plan, json.dumps(plan, indent=4))
        return self.enlarged_plan

    def propagate(self) -> None:
        """Label the scans by registered ones alone, which finds unusable scans early."""
        with hold_lock(self.folder):
            self._propagate()

    def digest(self) -> str:
        """Return a digest of all labels that :meth:`enlarge` wrote last."""
        return fingerprint([(self.folder / SETS).read_text(encoding="utf-8"), self._done()])

    def _propagate(self) -> dict[str, LabelSet]:
        """Label the scans by registered ones; return what each fold can use."""
        sets = label_sets(self._plan.parent, self.scans.names)
        settings = choose_settings(self.scans, self._request, self._settings)
        records = propagate_sets(self.scans, self.inputs, self.folder, sets, settings)
        dice = {
            name: {case: round(expected_dice(record, settings), 3) for case, record in found.items()}
            for name, found in records.items()
        }
        if not any(dice["all"].values()):
            raise InputError(
                f"--unlabelled: all {len(self.inputs)} scans differ too much from the labelled ones to be labelled by "
                f"them ({name_some(set(self.inputs))}); give scans of the same kind"
            )
        return {
            name: LabelSet(labelled=voters, weights={case: one for case, one in dice[name].items() if one > 0})
            for name, voters in sets.items()
        }

    def _done(self) -> dict[str, str]:
        """Return scan → fingerprint, of all scans that are preprocessed."""
        files = sorted((self.folder / _DONE).glob("*.txt"))
        return {file.stem: file.read_text(encoding="utf-8") for file in files}

    def _preprocess(self, sets: Mapping[str, LabelSet], networks: Mapping[str, Path]) -> None:
        plan = json.loads(self._plan.read_text(encoding="utf-8"))
        preprocessor = ScanPreprocessor(plan, CONFIGURATION, self.scans.dataset.description)
        ending = self.scans.description.file_ending

        def digest(case: str) -> str:
            records = [read_record(self.folder / name / ATLASES, case) for name in sets]
            predicted = {name: file_state(folder / f"{case}{ending}") for name, folder in networks.items()}
            return fingerprint([records, predicted, plan["configurations"][CONFIGURATION], plan[INTENSITIES]])

        def is_done(case: str) -> bool:
            return self._done().get(case) == digest(case)

        def work(case: str) -> None:
            (self.folder / SETS).unlink(missing_ok=True)  # no training reads what is being replaced
            labels = {self.folder / name: self._join(name, case, networks.get(name)) for name in sets}
            preprocessor.write(case, self.inputs[case], labels)
            write_text(self.folder / _DONE / f"{case}.txt", digest(case))

        used = {case: case for case in self.inputs if any(case in one.weights for one in sets.values())}
        run_batch(used, work, noun="scan", is_done=is_done).require_all("unlabelled scans")

    def _join(self, name: str, case: str, predictions: Path | None) -> tuple[Path, Path]:
        """Write labels and confidence by registered scans and a network; return the files."""
        ending, atlases = self.scans.description.file_ending, self.folder / name / ATLASES
        image = sitk.ReadImage(str(atlases / f"{case}{ending}"))
        labels = sitk.GetArrayFromImage(image)
        confidence = vote_margin(sitk.GetArrayFromImage(sitk.ReadImage(str(atlases / AGREEMENT / f"{case}.nii.gz"))))
        if predictions is not None:
            predicted = sitk.GetArrayFromImage(sitk.ReadImage(str(predictions / f"{case}{ending}")))
            labels, confidence = join_network(labels, confidence, predicted.astype(labels.dtype))
        files = tuple(self.folder / name / _LABELS / part / f"{case}{ending}" for part in ("", CONFIDENCE))
        for path, values in zip(files, (labels, confidence), strict=True):
            write_image(path, image_on(Grid.of(image), values))
        return files[0], files[1]
