"""Trained models of nnU-Net that are small enough to predict within seconds on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import torch

LABELS = {"background": 0, "liver": 1, "spleen": 2}
_CONVOLUTION = "torch.nn.modules.conv.Conv3d"
_NETWORK = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": _CONVOLUTION,
        "kernel_sizes": [[1, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
}
_CONFIGURATION = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 1,
    "patch_size": [8, 16, 16],
    "spacing": [2.5, 0.8, 0.7],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    "batch_dice": False,
    "architecture": _NETWORK,
}
_INTENSITIES = {"max": 2000, "mean": 300, "median": 250, "min": -500, "percentile_00_5": -200, "std": 150}


def write_model(
    dataset: Path, *, channel: str = "CT", folds: tuple[str, ...] = ("all",), seed: int = 6, configuration: str = "3d"
) -> Path:
    """Write a model with random weights as nnU-Net's trainer leaves one.

    Args:
        dataset: Folder ``DatasetXXX_NAME`` to write below.
        channel: Name of its only channel.
        folds: Folds to write, each with other weights.
        seed: Seed of the weights.
        configuration: ``3d`` or, for a model that needs another one's prediction, ``cascade``.

    Returns:
        Folder of the model.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    name = {"3d": "3d_fullres", "cascade": "3d_cascade_fullres"}[configuration]
    model = dataset / f"nnUNetTrainer__nnUNetPlans__{name}"
    model.mkdir(parents=True)
    described = {"channel_names": {"0": channel}, "labels": LABELS, "file_ending": ".nii.gz", "numTraining": 1}
    earlier = {"previous_stage": "3d_lowres"} if configuration == "cascade" else {}
    plans = {
        "dataset_name": dataset.name,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {name: _CONFIGURATION | earlier},
        "foreground_intensity_properties_per_channel": {"0": _INTENSITIES | {"percentile_99_5": 900}},
    }
    (model / "dataset.json").write_text(json.dumps(described))
    (model / "plans.json").write_text(json.dumps(plans))
    for number, fold in enumerate(folds):
        torch.manual_seed(seed + number)
        network = get_network_from_plans(
            _NETWORK["network_class_name"],
            _NETWORK["arch_kwargs"],
            _NETWORK["_kw_requires_import"],
            1,
            len(LABELS),
            deep_supervision=False,
        )
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        folder = model / f"fold_{fold}"
        folder.mkdir()
        checkpoint = {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": name, "fold": fold, "plans": plans, "dataset_json": described},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        torch.save(checkpoint, folder / "checkpoint_final.pth")
    return model
