"""Label-free objective: features agree between both views (App. B.7, Ren et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from pretraining.backbone.unet import UNet, UNetConfig
from pretraining.common.checks import check_not_negative
from pretraining.engine.synthesis import Pair
from pretraining.learning.objectives.contrastive import contrastive_taps
from pretraining.learning.objectives.projection import ProjectionConfig, ProjectionHead
from pretraining.learning.objectives.sampling import features_at


@dataclass(frozen=True, kw_only=True)
class LabelFreeConfig:
    """Weights of the terms that keep features from collapsing; the defaults are the paper's."""

    variance: float = 0.01
    """Weight of the hinge on each embedding dimension's standard deviation."""
    covariance: float = 0.01
    """Weight of the squared covariances between dimensions."""
    orthogonality: float = 100.0
    """Weight of the squared cosines between skipped and decoded features, against redundancy."""

    def __post_init__(self) -> None:
        check_not_negative(variance=self.variance, covariance=self.covariance, orthogonality=self.orthogonality)


class LabelFree(nn.Module):
    """Backbone with a projection head and a predictor per level.

    Notes:
        Predictors and the stopped gradient follow SimSiam (Chen and He, 2021), as Ren et al. do.
        Variance and covariance are computed from embeddings of length √d, whose dimensions have a
        standard deviation of 1 if nothing has collapsed. The paper does not say which features are
        made orthogonal. Here, as in Ren et al., they come from the last convolution before a skip
        and the first one after it. Ren et al. compare embeddings of sampled voxels; here the
        features themselves are compared, at all voxels.
    """

    terms = ("similarity", "variance", "covariance", "orthogonality")

    def __init__(
        self, backbone: UNetConfig, projection: ProjectionConfig, config: LabelFreeConfig, positions: int
    ) -> None:
        super().__init__()
        self.backbone = UNet(backbone)
        self.positions = positions
        self.weights = (1.0, config.variance, config.covariance, config.orthogonality)
        shapes = self.backbone.tap_shapes()
        self.taps = contrastive_taps(backbone)
        self.skips = tuple((f"encoder.{level}.1", f"decoder.{level}.0") for level in range(backbone.poolings))
        self.levels = tuple(shapes[tap][1] for tap in self.taps)
        self.heads = nn.ModuleList(ProjectionHead(shapes[tap][0], projection) for tap in self.taps)
        width = projection.width
        self.predictors = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width // 4 or 1),
                nn.BatchNorm1d(width // 4 or 1),
                nn.ReLU(),
                nn.Linear(width // 4 or 1, width),
            )
            for _ in self.taps
        )

    def forward(self, sample: Pair, *, generator: Generator) -> Tensor:
        """Return the (4,) float32 terms, not yet weighted; labels are not used."""
        views = sample.views
        features = self.backbone.features(
            views[:, None], tuple({*self.taps, *(tap for pair in self.skips for tap in pair)})
        )
        with torch.autocast(views.device.type, enabled=False):
            terms = []
            for tap, level, head, predictor in zip(self.taps, self.levels, self.heads, self.predictors, strict=True):
                drawn = _sample_uniform(views[0].numel() // 8**level, self.positions, generator)
                embedded = head(features_at(features[tap], drawn).float())
                predicted = predictor(embedded.flatten(0, 1)).unflatten(0, embedded.shape[:2])
                cosine = functional.cosine_similarity(predicted, embedded.detach().flip(0), dim=2)
                terms.append(torch.stack([-cosine.mean(), *_collapse_terms(embedded.flatten(0, 1))]))
            cosines = [
                functional.cosine_similarity(features[before].float(), features[after].float(), dim=1)
                for before, after in self.skips
            ]
            orthogonality = torch.stack([cosine.square().mean() for cosine in cosines]).mean()
            return torch.cat([torch.stack(terms).mean(dim=0), orthogonality[None]])


def _collapse_terms(embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance and the covariance term of (n, d) embeddings."""
    d = embedded.shape[1]
    scaled = functional.normalize(embedded, dim=1) * d**0.5
    variance = functional.relu(1 - scaled.var(dim=0).add(1e-4).sqrt()).mean()
    covariance = torch.cov(scaled.T)
    return variance, (covariance.square().sum() - covariance.diagonal().square().sum()) / d


def _sample_uniform(voxels: int, count: int, generator: Generator) -> Tensor:
    """Draw distinct flat indices, uniformly over all voxels."""
    return torch.rand(voxels, generator=generator, device=generator.device).topk(min(count, voxels)).indices
