"""Fixtures of the whole suite: real data, golden files, nnU-Net's folders, initial weights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

# Before torch is imported, and inherited by every command that a test starts: small volumes gain
# nothing from threads, and threads that outnumber the cores wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# nnU-Net reads these when it is imported. Without them it starts 8 processes for a handful of small
# volumes, and each of them imports torch and nnU-Net for several seconds.
os.environ.setdefault("nnUNet_def_n_proc", "1")
os.environ.setdefault("nnUNet_n_proc_DA", "1")

import pytest
import torch

from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import save_weights
from pretraining.probing import judge
from tests import process_server, shared_bank

process_server.install()
shared_bank.install()

# A shell without job control starts what runs in the background with signals ignored, and every
# process that a test starts inherits that.
for _name, _handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _handler)

_REPOSITORY = Path(__file__).resolve().parent.parent


def _shared_folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        reason = f"{folder} is missing; set {variable} to the folder with real test data"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real volumes (read-only): ``templates``, ``nnUNet_raw``, ``registration``, ``dicom``."""
    return _shared_folder("ANATOMIX_TEST_DATA", _REPOSITORY.parent / "shared" / "data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the published network and loss."""
    return _shared_folder("ANATOMIX_TEST_GOLDEN", _REPOSITORY.parent / "shared" / "golden")


class SmallDisk:
    """A file system of 8 MB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def leave(self, free_bytes: int) -> None:
        """Fill all but so much of it."""
        self._filler.unlink(missing_ok=True)
        free = shutil.disk_usage(self.folder).free - free_bytes
        self._filler.write_bytes(bytes(max(0, free)))

    def files(self) -> dict[str, bytes]:
        """All there is on it."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and path != self._filler)
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def small_disk(tmp_path) -> Iterator[SmallDisk]:
    """A real disk that can be filled; skipped where none may be mounted."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system can be mounted by root on Linux alone")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory) -> Path:
    """Weights of the default architecture, untrained."""
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    torch.manual_seed(5)
    save_weights(path, UNet().state_dict(), UNetConfig(), {"name": "untrained"})
    return path


@pytest.fixture
def small_judged_samples(monkeypatch) -> None:
    """Let judging make samples of 48 voxels a side; those of 96 for users take minutes."""
    monkeypatch.setattr(judge, "SAMPLE_SIDE", 48)
    monkeypatch.setattr(judge, "SAMPLE_SHIFT", 16)


@pytest.fixture(scope="session")
def light_planning() -> None:
    """Let nnU-Net plan small datasets in little time."""
    process_server.lighten_planning()


@pytest.fixture
def nnunet(tmp_path, monkeypatch, light_planning) -> SimpleNamespace:
    """Empty nnU-Net folders, known to this process and its children."""
    folders = {name: tmp_path / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for name, folder in folders.items():
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    for name, value in (
        ("nnUNet_def_n_proc", "1"),
        ("nnUNet_n_proc_DA", "1"),
        ("nnUNet_extTrainer", str(_REPOSITORY / "nnunet_anatomix" / "trainers")),
    ):
        monkeypatch.setenv(name, value)
    for name in ("ANATOMIX_WEIGHTS", "ANATOMIX_ITERATIONS", "ANATOMIX_SEED"):
        monkeypatch.delenv(name, raising=False)
    return SimpleNamespace(
        raw=folders["nnUNet_raw"], preprocessed=folders["nnUNet_preprocessed"], results=folders["nnUNet_results"]
    )


@pytest.fixture(scope="session")
def planned_hippocampus(data_root, tmp_path_factory, light_planning) -> Iterator[Path]:
    """``nnUNet_preprocessed`` with Dataset901, planned by stock nnU-Net and by us; read-only."""
    from batchgenerators.utilities.file_and_folder_operations import load_json
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    from nnunet_anatomix.finetuning.planning import write_plan

    raw, preprocessed = data_root / "nnUNet_raw", tmp_path_factory.mktemp("preprocessed")
    name = "Dataset901_Hippocampus"
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in (("nnUNet_raw", raw), ("nnUNet_preprocessed", preprocessed)):
            patch.setenv(variable, str(value))
        write_plan("901")
        ExperimentPlanner(name).plan_experiment()
        description = load_json(str(raw / name / "dataset.json"))
        for plans_name in ("nnUNetPlans", "nnUNetAnatomixPlans"):
            plans = PlansManager(str(preprocessed / name / f"{plans_name}.json"))
            configuration = plans.get_configuration("3d_fullres")
            folder = preprocessed / name / configuration.data_identifier
            folder.mkdir()
            for case, files in get_filenames_of_train_images_and_targets(str(raw / name), description).items():
                # What nnUNetv2_preprocess does in a pool of processes.
                DefaultPreprocessor(verbose=False).run_case_save(
                    os.fspath(folder / case), files["images"], files["label"], plans, configuration, description
                )
    yield preprocessed
