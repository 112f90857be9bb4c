"""Label ensembles: many random templates in one volume (Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from pretraining.bank.balance import draw_balanced
from pretraining.bank.template_bank import TemplateBank
from pretraining.common.checks import check_choice, check_range
from pretraining.common.random import integer, integers
from pretraining.common.triple import triple
from pretraining.engine.affine import AffineConfig, recentre, sample_affine
from pretraining.engine.bending import Bend, BendConfig, Curves, bend_curves, sample_bend
from pretraining.engine.foreground import Foreground, ForegroundConfig, apply_foreground, sample_foreground
from pretraining.engine.median import median_3x3x3
from pretraining.engine.placement import Placement, make_placement, paste_templates
from pretraining.engine.resident import load_packed

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """Settings of label ensembles (App. B.1.1)."""

    template_count: tuple[int, int] = (20, 40)
    """Range of the number of templates, both ends included; each is one label."""
    draw: Literal["uniform", "balanced"] = "uniform"
    """Distribution of the templates: uniform, or balanced over regions and kinds of organ."""
    affine: AffineConfig = field(default_factory=AffineConfig)
    """Random affine map of each template."""
    bend: BendConfig = field(default_factory=BendConfig)
    """Smooth random deformation of each template; none by default, as published."""
    placement: Literal["published", "paper"] = "published"
    """Placement of templates: as the published code does, or as Algorithm 1 says."""
    median: bool = True
    """Filter the labels with a 3x3x3 median."""
    foreground: ForegroundConfig = field(default_factory=ForegroundConfig)
    """Foreground mask and envelope."""

    def __post_init__(self) -> None:
        check_range("[1, 250]", template_count=self.template_count)  # labels are 8-bit
        check_choice(("uniform", "balanced"), draw=self.draw)
        check_choice(("published", "paper"), placement=self.placement)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Random parameters of one label ensemble."""

    shape: Shape
    """Shape of the volume, voxels."""
    templates: tuple[int, ...]
    """Indices into the bank, in the order of pasting; a template may occur twice."""
    affines: tuple[np.ndarray, ...]
    """(3, 4) map of each template, see :func:`pretraining.engine.affine.sample_affine`."""
    placement: Literal["published", "paper"]
    """Key of ``PLACEMENTS``."""
    median: bool
    """Filter the labels with a 3x3x3 median."""
    foreground: Foreground | None
    """Foreground mask and envelope, if any."""
    bends: tuple[Bend | None, ...]
    """Deformation of each template, if any."""

    @property
    def label_count(self) -> int:
        """Upper bound of the labels: they are in 0..label_count - 1."""
        return (
            1
            + len(self.templates)
            + (self.foreground is not None)
            + (self.foreground is not None and self.foreground.envelope_radius_vox is not None)
        )


def sample_ensemble(config: EnsembleConfig, shape: Shape, bank: TemplateBank, generator: Generator) -> Ensemble:
    """Draw the templates, their deformations and the foreground mask.

    Args:
        config: Ranges and probabilities.
        shape: (X, Y, Z) of the volume, voxels.
        bank: Templates to choose from; no mask is read.
        generator: Sole source of randomness.

    Returns:
        All that :func:`render_ensemble` needs besides the bank.

    Notes:
        Balanced draws choose a region of the body first, then a kind of organ, then a template of
        it (:func:`pretraining.bank.balance.draw_balanced`), so that a source with many subjects
        does not dominate the samples.
    """
    count = integer(*config.template_count, generator)
    if config.draw == "balanced":
        templates = draw_balanced(bank.regions, count, generator)
    else:
        templates = tuple(integers(count, 0, len(bank) - 1, generator))
    return Ensemble(
        shape=shape,
        templates=templates,
        affines=tuple(sample_affine(config.affine, generator) for _ in range(count)),
        placement=config.placement,
        median=config.median,
        foreground=sample_foreground(config.foreground, shape, generator),
        # Drawn last, so that enabling it does not change the other parameters.
        bends=tuple(sample_bend(config.bend, generator) for _ in range(count)),
    )


def render_ensemble(params: Ensemble, bank: TemplateBank, device: torch.device | str = "cpu") -> Tensor:
    """Render the label volume: paste the templates, filter, mask (Algorithm 1).

    Args:
        params: Parameters from :func:`sample_ensemble`.
        bank: Bank that ``params`` refers to.
        device: Device that computes the volume.

    Returns:
        (X, Y, Z) uint8, 0 is background. Without a foreground mask, the i-th template, counted from
        1, has label i. With one, label 1 is the inside of the mask where there is no template, the
        i-th template has label i + 1, and the envelope has the last label. A template that is fully
        covered or masked leaves a gap in the numbers.

    Notes:
        The published code counts templates from 0, so that its first one vanishes; ours counts
        from 1.
    """
    labels = torch.zeros(params.shape, dtype=torch.uint8, device=device)
    # Lines 3 to 7: each template, deformed, over the earlier ones.
    place_template = PLACEMENTS[params.placement]
    placements = [
        place_template(affine, bank.shape(i), params.shape, bend_curves(bend, params.shape) if bend else None)
        for i, affine, bend in zip(params.templates, params.affines, params.bends, strict=True)
    ]
    paste_templates(labels, load_packed(bank, params.templates, labels.device), placements)
    if params.median:  # line 8
        labels = median_3x3x3(labels)
    if params.foreground is not None:  # lines 9 to 18
        labels = apply_foreground(labels, params.foreground, envelope_label=params.label_count - 1)
    return labels


def place_published(affine: np.ndarray, crop: Shape, shape: Shape, curves: Curves | None = None) -> Placement:
    """Place a template as the published code does.

    The template is padded symmetrically to at least the volume's shape and repeated periodically,
    and the map acts about voxel (0, 0, 0).

    Args:
        affine: (3, 4) map from output to input voxel index.
        crop: Shape of the template's bounding box, voxels.
        shape: (X, Y, Z) of the volume, voxels.
        curves: Deformation from :func:`pretraining.engine.bending.bend_curves`, if any.
    """
    period = triple(max(n, size) for n, size in zip(crop, shape, strict=True))
    offset = triple((p - n) // 2 for p, n in zip(period, crop, strict=True))
    return make_placement(affine, crop=crop, offset=offset, period=period, shape=shape, curves=curves)


def place_paper(affine: np.ndarray, crop: Shape, shape: Shape, curves: Curves | None = None) -> Placement:
    """Place a template as Algorithm 1 says.

    The template is centre-cropped or padded to the volume's shape, the map acts about the centre,
    and outside is background.

    Args:
        affine: (3, 4) map from output to input voxel index.
        crop: Shape of the template's bounding box, voxels.
        shape: (X, Y, Z) of the volume, voxels.
        curves: Deformation from :func:`pretraining.engine.bending.bend_curves`, if any.
    """
    middle = (np.array(shape) - 1) / 2
    count = triple(min(n, size) for n, size in zip(crop, shape, strict=True))
    first = triple((n - used) // 2 for n, used in zip(crop, count, strict=True))
    offset = triple((size - used) // 2 for size, used in zip(shape, count, strict=True))
    # A period longer than any distance within the mapped volume, so that no repetition is visible.
    reach = np.abs(affine[:, :3]) @ np.array(shape) + 2 * np.abs(affine[:, 3]) + np.array(shape)
    if curves is not None:
        reach = reach + 2 * sum(np.abs(curve).max(1) for curve in curves)
    period = triple(2 * int(r) for r in reach)
    matrix = recentre(affine, middle, middle)
    return make_placement(
        matrix, crop=crop, offset=offset, period=period, shape=shape, first=first, count=count, curves=curves
    )


PLACEMENTS = {"published": place_published, "paper": place_paper}
"""Placement functions by name, the values of :attr:`EnsembleConfig.placement`."""
