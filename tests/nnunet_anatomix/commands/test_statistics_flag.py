"""Flag for the statistics of batch normalization: its effect on features and plans."""

from __future__ import annotations

import torch

from nnunet_anatomix.finetuning.network import AnatomixNetwork
from nnunet_anatomix.finetuning.plan_template import load_template
from nnunet_anatomix.finetuning.transfer import start_from
from pretraining.backbone.external_weights import load_feature_weights
from pretraining.backbone.find_weights import find_weights
from pretraining.backbone.weights import load_weights


def test_features_with_own_statistics_are_those_of_instance_normalization():
    running, own = (load_feature_weights("bundled", statistics=statistics) for statistics in ("running", "own"))
    assert (running.architecture.norm, own.architecture.norm, own.architecture.norm_affine) == (
        "batch",
        "instance",
        True,
    )
    scan = torch.rand((1, 1, 32, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(running.network()(scan), own.network()(scan), atol=1e-2)


def test_a_plan_with_own_statistics_starts_from_batch_norm_weights():
    template = load_template().with_statistics("own")
    kwargs = template.configuration["architecture"]["arch_kwargs"]
    assert (kwargs["norm"], kwargs["norm_affine"]) == ("instance", True)
    assert load_template().with_statistics("running") == load_template()
    network = AnatomixNetwork(1, 3, **kwargs)
    weights = load_weights(find_weights("bundled"))
    report = start_from(weights, network, image_channels=1)
    assert len(report.loaded) == len(
        [name for name in weights.state if "running" not in name and "num_batches" not in name]
    )
    assert torch.equal(network.backbone.stem.norm.weight, weights.state["stem.norm.weight"].float())
