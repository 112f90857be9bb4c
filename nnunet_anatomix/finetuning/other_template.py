"""Plan template for another network, from the description of its weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from nnunet_anatomix.finetuning.other_network import OtherNetwork
from nnunet_anatomix.finetuning.other_size import NetworkSize, measure_network
from nnunet_anatomix.finetuning.plan_template import NetworkLimits, PlanTemplate
from pretraining.backbone.network_spec import NetworkSpec
from pretraining.common.config import to_dict

OTHER_NETWORK = f"{OtherNetwork.__module__}.{OtherNetwork.__qualname__}"
"""Value of ``network_class_name`` in plans for other networks."""


@dataclass(frozen=True, kw_only=True)
class OtherTemplate(PlanTemplate):
    """Template for another network; recipe, normalization and resampling are those of ours."""

    spec: NetworkSpec
    size: NetworkSize

    def limits(self, image_channels: int, classes: int) -> NetworkLimits:
        return NetworkLimits(
            multiple=self.spec.multiple,
            min_side=self.spec.least_side,
            needed_gb=partial(self.size.training_memory_gb, classes=classes),
        )


def other_template(base: PlanTemplate, spec: NetworkSpec) -> OtherTemplate:
    """Return a template with another network.

    Args:
        base: Template with all other settings.
        spec: Description of the network.

    Raises:
        InputError: If the network cannot be built or run.
    """
    size = measure_network(spec)
    fixed: dict[str, list[int]] = {"patch_size": []} if spec.size_argument is not None else {}
    architecture = {
        "network_class_name": OTHER_NETWORK,
        "arch_kwargs": {
            "spec": to_dict(spec),
            "channels": size.channels,
            "strides": [[1, 1, 1], [spec.multiple] * 3],
            **fixed,
        },
        "_kw_requires_import": [],
    }
    geometry = base.geometry
    if spec.max_side is not None:
        sides = {name: min(getattr(geometry, name), spec.max_side) for name in _SIDES}
        geometry = dataclasses.replace(geometry, **sides)
    return OtherTemplate(
        configuration={**base.configuration, "architecture": architecture},
        geometry=geometry,
        ct_clip_hu=base.ct_clip_hu,
        anatomix=base.anatomix,
        spec=spec,
        size=size,
    )


_SIDES = ("least_side", "patch_side", "generous_patch_side")
