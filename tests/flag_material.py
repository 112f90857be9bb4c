"""Small files for the command lines of ``flag_cases.py``, each made when a line names it first."""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from nnunet_anatomix.baselines.models_genesis import UNet3D
from nnunet_anatomix.datasets.registration_pairs import PairRow, PairSettings, write_pairs
from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.backbone.weights import export_published, load_weights, save_weights
from pretraining.bank.bank_file import write_bank
from pretraining.bank.template_bank import TemplateBank
from pretraining.common.config import to_dict
from pretraining.learning.train_config import TrainConfig
from pretraining.presets.loading import load_preset
from pretraining.samples.synthesize import Request, synthesize
from tests.config_flags import changed, with_values
from tests.nnunet_anatomix.clinical.dicom_series import write_series
from tests.nnunet_anatomix.clinical.intake_folder import take_series, write_prediction
from tests.nnunet_anatomix.clinical.miniature_model import write_model
from tests.nnunet_anatomix.clinical.network.small_servers import serve_empty_archive, serve_segmentation_storage
from tests.nnunet_anatomix.datasets.downloads import download, placed
from tests.pretraining.engine.subjects import bank_of_subjects, body
from tests.pretraining.probing.aligned_folders import brain_folder

SMALL = {
    "steps": 2,
    "label_maps": 2,
    "log_every": 1,
    "validate_every": 2,
    "validation_pairs": 1,
    "save_every": 1,
    "backbone.width": 2,
    "backbone.poolings": 2,
    "objective.contrastive.positions": 16,
    "objective.contrastive.max_shift_vox": 8,
    "objective.contrastive.local.anchors": 8,
    "objective.projection.width": 8,
    "engine.side": 32,
    "engine.anatomy.sources": ("bodies",),
}
"""Sizes of a training that takes seconds; all differ from the preset ``short``."""
LEFT = {
    "compile": "takes minutes and a C++ compiler",
    "objective.kind": "other objectives use no contrastive fields",
    "backbone.in_channels": "synthetic images have one channel",
    "backbone.norm": "freezing running averages is for batch normalization",
    "backbone.norm_affine": "goes with instance normalization",
}
"""Fields that the training keeps as they are; they are changed in the second configuration, which
is parsed alone.
"""
SHAPE = (24, 22, 20)


@cache
def small_config() -> TrainConfig:
    """A training that takes seconds, with the engine and the optimizer of the default preset."""
    return with_values(load_preset(TrainConfig, "short"), SMALL)


@cache
def changed_config() -> TrainConfig:
    """The same with another value of every field but those of ``LEFT``."""
    return changed(small_config(), {*SMALL, *LEFT})


@cache
def second_config() -> TrainConfig:
    """Another value of each field that the first keeps, and every switch the other way round."""
    values = {
        "freeze_statistics_after": 1.0,
        "backbone.norm": "instance",
        "backbone.norm_affine": True,
        "backbone.in_channels": 2,
    }
    return with_values(load_preset(TrainConfig, "short"), values | {"compile": True, "objective.kind": "denoising"})


def blobs(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """(Z, Y, X) smooth noise of unit variance."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape[::-1]), 2.5)
    return (noise / noise.std()).astype(np.float32)


class Material:
    """Files by name; ``{name}`` of a command line stands for the attribute."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _new(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @cached_property
    def unlabelled(self) -> Path:
        """A scan like the first two of Dataset043_Blobs, but without labels."""
        path = self._new("unlabelled/Un0_0000.nii.gz")
        shape = (32, 30, 28)
        mean = (0.7 * (blobs(shape, 0) + blobs(shape, 1)) + 0.1 * blobs(shape, 5)).astype(np.float32)
        sitk.WriteImage(placed(mean), str(path))
        return path.parent

    @cached_property
    def masks(self) -> Path:
        """A subject of TotalSegmentator's."""
        for number, mask in enumerate(body(2, (20, 24, 16))):
            path = self._new(f"subject/segmentations/{('liver', 'spleen')[number]}.nii.gz")
            sitk.WriteImage(sitk.GetImageFromArray(mask.astype(np.uint8)), str(path))
        return self._folder / "subject"

    @cached_property
    def bank(self) -> Path:
        """Templates of whole subjects."""
        path = self._new("subjects.bank")
        bank = bank_of_subjects({("bodies", "a"): body(7), ("bodies", "b"): body(6, seed=1)})
        write_bank(
            path, ((bank.entry(i), bank.packed(i).numpy()) for i in range(len(bank))), spacing_mm=bank.spacing_mm
        )
        return path

    @cached_property
    def small(self) -> Path:
        """A preset whose training takes seconds."""
        path = self._new("small.json")
        path.write_text(json.dumps(to_dict(small_config())))
        return path

    @cached_property
    def variants(self) -> Path:
        path = self._new("variants.json")
        path.write_text(json.dumps({"base": {}}))
        return path

    @cached_property
    def store(self) -> Path:
        path = self._new("store")
        synthesize(Request(bank=TemplateBank.open(self.bank), engine=small_config().engine, count=2, seed=0), path)
        return path

    def _weights(self, name: str, architecture: UNetConfig) -> Path:
        path = self._new(name)
        torch.manual_seed(0)
        save_weights(path, UNet(architecture).state_dict(), architecture, {"name": name})
        return path

    @cached_property
    def start(self) -> Path:
        """Weights of the small preset's architecture."""
        return self._weights("start.safetensors", small_config().backbone)

    @cached_property
    def changed_start(self) -> Path:
        """Weights of the changed configuration's architecture."""
        return self._weights("changed_start.safetensors", changed_config().backbone)

    @cached_property
    def weights(self) -> Path:
        """Weights of the default architecture, for plans."""
        return self._weights("default.safetensors", UNetConfig())

    @cached_property
    def tiny(self) -> Path:
        """Weights of a small network, for features."""
        return self._weights("tiny.safetensors", UNetConfig(width=2, poolings=2))

    @cached_property
    def program(self) -> Path:
        """A description of another registration program, which moves nothing."""
        code = (
            "import sys, nibabel, numpy; shape = nibabel.load(sys.argv[1]).shape; "
            "nibabel.save(nibabel.Nifti1Image(numpy.zeros((*shape, 3), 'f4'), numpy.eye(4)), sys.argv[3] + '/u.nii')"
        )
        command = ["{python}", "-c", code, "{fixed}", "{moving}", "{out}"]
        path = self._new("program.json")
        path.write_text(json.dumps({"command": command, "transform": "u.nii", "kind": "voxels"}))
        return path

    @cached_property
    def genesis(self) -> Path:
        """Random weights in the layout of Models Genesis."""
        path = self._new("genesis.pt")
        state = {f"module.{name}": tensor for name, tensor in UNet3D().state_dict().items()}
        torch.save({"state_dict": state}, path)
        return path

    @cached_property
    def published(self) -> Path:
        path = self._new("published.pth")
        export_published(path, load_weights(self.weights))
        return path

    @cached_property
    def brain(self) -> Path:
        brain_folder(self._new("brain"))
        return self._folder / "brain"

    @cached_property
    def pair(self) -> Path:
        """Two scans of blobs, one shifted, with masks, labels, landmarks, and lists of them."""
        folder = self._new("pair/x").parent
        for number, role in enumerate(("fixed", "moving")):
            noise = np.roll(blobs(SHAPE, 0), number, axis=2)
            sitk.WriteImage(placed(noise * (1 - 3 * number)), str(folder / f"{role}.nii.gz"))
            sitk.WriteImage(placed((noise > 0.5).astype(np.uint8)), str(folder / f"{role}_labels.nii.gz"))
            sitk.WriteImage(placed(np.ones(SHAPE[::-1], np.uint8)), str(folder / f"{role}_mask.nii.gz"))
            points = [f"{3.0 + number},{9 + 2 * point},{25 + point}" for point in range(4)]
            (folder / f"{role}.csv").write_text("\n".join(["x,y,z", *points]) + "\n")
        names = ("fixed", "moving", "fixed_labels", "moving_labels")
        (folder / "pairs.csv").write_text(
            f"name,{','.join(names)}\none,{','.join(f'{name}.nii.gz' for name in names)}\n"
        )
        row = PairRow(name="one", **{name: f"{name}.nii.gz" for name in names})
        write_pairs(folder, PairSettings(name="Blobs"), [row], [row])
        (folder / "scans.csv").write_text(
            "scan,labels\nfixed.nii.gz,fixed_labels.nii.gz\nmoving.nii.gz,moving_labels.nii.gz\n"
        )
        sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 0.0, 0.0)), str(folder / "start.tfm"))
        (folder / "apply.csv").write_text("transform,to,reference\nstart.tfm,fixed.nii.gz,moving.nii.gz\n")
        return folder

    @cached_property
    def labels(self) -> Path:
        """Two folders of segmentations, ``predicted`` and ``true``."""
        for number, part in enumerate(("predicted", "true")):
            path = self._new(f"labels/{part}/a.nii.gz")
            sitk.WriteImage(placed((blobs(SHAPE, 0) > 0.5 - 0.1 * number).astype(np.uint8)), str(path))
        return self._folder / "labels"

    @cached_property
    def hearts(self) -> Path:
        """A download of the Decathlon's hearts, complete."""
        return download(self._new("hearts"), "msd-heart", 20)

    @cached_property
    def raw(self) -> Path:
        """A dataset of four scans for nnU-Net, Dataset043_Blobs."""
        folder = self._new("raw/Dataset043_Blobs/x").parent
        for part, count in (("Tr", 3), ("Ts", 1)):
            for number in range(count):
                noise = blobs((32, 30, 28), number)
                for kind, name, array in (
                    ("images", f"{part}{number}_0000", noise),
                    ("labels", f"{part}{number}", noise > 0.5),
                ):
                    path = self._new(f"raw/Dataset043_Blobs/{kind}{part}/{name}.nii.gz")
                    sitk.WriteImage(placed(array.astype(np.float32 if kind == "images" else np.uint8)), str(path))
        described = {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, "a": 1},
            "numTraining": 3,
            "file_ending": ".nii.gz",
        }
        (folder / "dataset.json").write_text(json.dumps(described))
        return folder.parent

    @cached_property
    def clinic(self) -> Path:
        """A DICOM series in ``src``, its ``intake`` and prediction ``pred``; ``model`` needs CT."""
        folder = self._new("clinic/x").parent
        files = write_series(folder / "src" / "series")
        grid = take_series(folder / "intake", folder / "src", files)
        taken = sitk.ReadImage(str(next((folder / "intake" / "images").iterdir())))
        labels = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 3, grid.size[::-1]).astype(np.uint8))
        labels.CopyInformation(taken)
        write_prediction(folder / "pred", labels)
        described = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "a": 1, "b": 2},
            "file_ending": ".nii.gz",
        }
        (folder / "model").mkdir()
        (folder / "model" / "dataset.json").write_text(json.dumps(described))
        return folder

    @cached_property
    def miniature(self) -> Path:
        """A trained model of nnU-Net for CT."""
        return write_model(self._folder / "Dataset044_Miniature")

    @cached_property
    def routes(self) -> Path:
        """A file that routes CT to the miniature model."""
        path = self._new("routes.yaml")
        path.write_text(f"- {{name: ct, model: '{self.miniature}', modality: CT}}\n")
        return path

    @cached_property
    def archive(self) -> str:
        """A DICOMweb service without studies."""
        return serve_empty_archive()

    @cached_property
    def viewer(self) -> str:
        """An application entity that accepts segmentations."""
        return serve_segmentation_storage()

    @cached_property
    def checkpoint(self) -> Path:
        """A model as AnatomixTrainer leaves it."""
        from nnunet_anatomix.finetuning.network import AnatomixNetwork

        architecture = {"width": 4, "poolings": 2, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]], "feature_norm": "none"}
        name = f"{AnatomixNetwork.__module__}.{AnatomixNetwork.__name__}"
        plan = {"architecture": {"network_class_name": name, "arch_kwargs": architecture}}
        arguments = {
            "plans": {"dataset_name": "Dataset043_Blobs", "configurations": {"3d_fullres": plan}},
            "configuration": "3d_fullres",
        }
        path = self._new("checkpoint_final.pth")
        torch.save(
            {"network_weights": AnatomixNetwork(1, 2, **architecture).state_dict(), "init_args": arguments}, path
        )
        return path
