"""Weights in nnssl's format, from which nnU-Net's ``nnUNetv2_train_pretrained`` starts.

The commands are on nnU-Net's main branch (``documentation/finetuning_from_nnssl.md``). They load
two parts of a checkpoint, the stem and an "encoder"; here the latter is the rest of the backbone,
its decoder included. They build the network that the checkpoint names, if the name ends in
``PlainConvUNet``: ``nnunet_anatomix.finetuning.nnssl_network.AnatomixPlainConvUNet``.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pretraining.backbone.feature_network import compares_directions
from pretraining.backbone.weights import Weights
from pretraining.common.atomic import atomic_write
from pretraining.common.config import to_dict
from pretraining.common.finite import require_finite

PLAN = "nnssl_adaptation_plan"
"""Key of the description in a checkpoint of nnssl."""
NETWORK = "nnunet_anatomix.finetuning.nnssl_network.AnatomixPlainConvUNet"
"""Class that nnU-Net builds."""
STEM, BODY = "stem", "body"
"""Prefixes of the two parts in a checkpoint."""
_PATCH_SIDE = 96
"""Recommended patch side, voxels: that of most datasets in the paper's Table 8."""


def export_nnssl(path: str | Path, weights: Weights) -> None:
    """Write weights as a checkpoint of nnssl, atomically.

    Args:
        path: The ``.pth`` file to write.
        weights: Weights to write.

    Raises:
        NotFinite: If a tensor contains NaN or infinity.
    """
    require_finite(weights.state, f"weights for {path}")
    architecture = weights.architecture
    kwargs = to_dict(architecture)
    channels = kwargs.pop("in_channels")
    patch = [max(architecture.min_side, _PATCH_SIDE // architecture.multiple * architecture.multiple)] * 3
    plan = {
        "architecture_plans": {
            "arch_class_name": NETWORK,
            "arch_kwargs": kwargs
            | {
                "strides": [[1, 1, 1]] + [[2, 2, 2]] * architecture.poolings,
                "feature_norm": "voxelwise" if compares_directions(architecture) else "none",
            },
            "arch_kwargs_requiring_import": [],
        },
        # Without a spacing, nnU-Net keeps the one that it plans for the dataset.
        "pretrain_plan": {"configurations": {"3d_fullres": {"spacing": None, "patch_size": patch}}},
        "pretrain_num_input_channels": channels,
        "recommended_downstream_patchsize": patch,
        "key_to_encoder": BODY,
        "key_to_stem": STEM,
        "keys_to_in_proj": [f"{STEM}.conv"],
        "key_to_lpe": None,
    }
    state = {
        name if name.startswith(f"{STEM}.") else f"{BODY}.{name}": tensor
        for name, tensor in weights.network().state_dict().items()  # in float32
    }
    citation = {
        "type": "Pretraining",
        "name": "anatomix",
        "apa_citations": [
            "Dey, N., Billot, B., Wong, H. E., Wang, C. J., Ren, M., Grant, P. E., Dalca, A. V., & Golland, P. (2025). "
            "Learning general-purpose biomedical volume representations using randomized synthesis. ICLR 2025."
        ],
    }
    with atomic_write(path) as partial:
        torch.save({"network_weights": state, PLAN: plan, "citations": [citation]}, partial)
