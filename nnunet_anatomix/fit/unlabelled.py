"""Unlabelled scans in a fit: one round of self-training, kept only if the left-out Dice rises."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from nnunet_anatomix.enlarging.enlarge import FLAG, UNLABELLED, Enlarger
from nnunet_anatomix.finetuning.dataset import RawDataset
from nnunet_anatomix.finetuning.unlabelled.folder import set_name
from nnunet_anatomix.fit.folder import PLANS, FitFolder
from nnunet_anatomix.fit.predictions import Model, predict
from nnunet_anatomix.fit.rounds import Round, best_round
from nnunet_anatomix.fit.trainings import Trainings
from pretraining.common.atomic import write_text
from pretraining.common.fingerprint import file_state, fingerprint

log = logging.getLogger(__name__)

NONE = "none"
_DIGEST = "labels.txt"


def find_unlabelled(dataset: RawDataset, folder: FitFolder, unlabelled: str | None, device: str) -> Enlarger | None:
    """Return the unlabelled scans of a fit, if there are any.

    Args:
        dataset: Labelled scans.
        folder: Folder of the fit.
        unlabelled: Folder of unlabelled scans, or ``none``. Default: ``imagesUn`` of the dataset,
            if it exists.
        device: Device of the trainings; registrations do not run on ``mps``.

    Raises:
        InputError: If the scans cannot be used.
    """
    default = dataset.folder / UNLABELLED
    if unlabelled == NONE or (unlabelled is None and not default.is_dir()):
        return None
    images = default if unlabelled is None else Path(unlabelled)
    enlarger = Enlarger(dataset, images, folder.preprocessed / f"{PLANS}.json", "cuda" if device == "cuda" else "cpu")
    if unlabelled is None:
        log.info("%d scans of %s join training; %s %s leaves them out", len(enlarger.inputs), images, FLAG, NONE)
    return enlarger


def try_unlabelled(enlarger: Enlarger, trainings: Trainings, rounds: list[Round], remaining_s: float | None) -> Round:
    """Cross-validate once more, with unlabelled scans, as long as the best round.

    The scans are labelled by registered labelled scans and by the networks of the best round. Each
    fold uses only what has not seen its left-out scans.

    Args:
        enlarger: Unlabelled scans.
        trainings: Trainings without unlabelled scans.
        rounds: Finished rounds; the new one is added.
        remaining_s: Time left, seconds. Default: no limit.

    Returns:
        The new round if its Dice is higher, else the best of the others.
    """
    best = best_round(rounds)
    enlarged = trainings.variant(is_enlarged=True)
    needed_s = best.seconds * (1 + 1 / best.folds)
    if remaining_s is not None and needed_s > remaining_s and not enlarged.folder.lengths():
        log.info("unlabelled scans are not tried: it would take %.0f minutes more", needed_s / 60)
        return best
    trainings.state.state = "labelling unlabelled scans"
    enlarger.enlarge(_predict(enlarger, trainings, best, enlarged.folder.trainings))
    _begin(enlarged.folder.trainings, enlarger.digest())
    enlarged.train_folds(best.iterations)
    found = enlarged.read_round(best.iterations)
    rounds += [found] if found else []
    chosen = best_round(rounds)
    verdict = "kept" if chosen.is_enlarged else "not used, as the Dice of left-out scans does not rise"
    log.info("with unlabelled scans: %s, without: %.3f; %s", found and found.describe(), best.mean, verdict)
    return chosen


def _predict(enlarger: Enlarger, trainings: Trainings, best: Round, out: Path) -> dict[str, Path]:
    """Predict the scans: by the network of each fold, and for the final model by all of them."""
    folds = [str(fold) for fold in range(best.folds)]
    model = Model(
        dataset=trainings.folder.dataset,
        results=trainings.folder.results(best.iterations),
        version=fingerprint([file_state(trainings.checkpoint(best.iterations, int(fold))) for fold in folds]),
        device=trainings.device,
        ending=trainings.dataset.description["file_ending"],
    )
    networks = {set_name("all"): folds, **{set_name(int(fold)): [fold] for fold in folds}}
    return predict(model, networks, enlarger.images, enlarger.inputs, out / "predictions")


def _begin(trainings: Path, digest: str) -> None:
    """Keep trainings on the same labels; remove others."""
    mark = trainings / _DIGEST
    if mark.is_file() and mark.read_text(encoding="utf-8") == digest:
        return
    mark.unlink(missing_ok=True)
    for name in ("rounds", "final"):
        shutil.rmtree(trainings / name, ignore_errors=True)
    write_text(mark, digest)
