"""Feature channels and memory of any network, measured on a small input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from nnunet_anatomix.finetuning.memory import step_memory_gb
from nnunet_anatomix.finetuning.other_network import bare_network
from pretraining.backbone.layer_output import LayerOutput, trial_run
from pretraining.backbone.network_spec import NetworkSpec

_SIDE = 32
"""Side of the measured cube, voxels, unless the network needs a larger one."""


@dataclass(frozen=True)
class NetworkSize:
    """Result of :func:`measure_network`.

    Attributes:
        channels: Feature channels.
        bytes_per_voxel: Bytes that training stores for the backward pass, per input voxel, in
            16-bit autocast.
        parameters: Number of parameters.
    """

    channels: int
    bytes_per_voxel: float
    parameters: int

    def training_memory_gb(self, patch: Sequence[int], batch: int, classes: int) -> float:
        """Estimate the peak memory of one training step, in 2^30 bytes.

        Args:
            patch: (X, Y, Z), voxels.
            batch: Patches per step.
            classes: Output channels of the segmentation head.
        """
        voxels = batch * prod(patch)
        # The head takes the features in float32.
        activations = voxels * (self.bytes_per_voxel + 4 * self.channels)
        return step_memory_gb(activations, self.parameters, voxels * classes)


def measure_network(spec: NetworkSpec) -> NetworkSize:
    """Run a network with random weights on a small cube.

    Args:
        spec: Description of the network.

    Returns:
        Its feature channels and memory.

    Raises:
        InputError: If it cannot be built, fails on the cube or gives no features.
    """
    side = max(spec.least_side, -(-_SIDE // spec.multiple) * spec.multiple)
    side = min(side, spec.max_side or side)
    with torch.random.fork_rng(devices=[]):
        net = bare_network(spec, 1, (side,) * 3).train()
        # Batch normalization needs two values per channel, even where the network pools to one.
        x = torch.rand((2 if side == spec.multiple else 1, 1, side, side, side))
    features_of = LayerOutput(net, spec.layer, spec.network)
    # Autocast also saves 16-bit copies of the weights, which do not grow with the patch.
    weights = {tuple(sorted(parameter.shape)) for parameter in net.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tuple(sorted(tensor.shape)) not in weights:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage  # kept alive, so that no address is used twice
        return tensor

    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    trial = trial_run(spec.network, side, "kwargs, ignore, multiple or min_side")
    with trial, saving, torch.autocast("cpu", torch.bfloat16):
        features = features_of(spec.scale_input(x))
    stored = sum(storage.nbytes() for storage in kept.values())
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return NetworkSize(features.shape[1], stored / x.numel(), parameters)
