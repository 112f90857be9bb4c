"""Recipe of a plan: the ``anatomix`` block, its defaults and its schedule."""

from __future__ import annotations

import pytest

from nnunet_anatomix.finetuning.plan_template import load_template
from nnunet_anatomix.finetuning.recipe import Recipe, default_learning_rate, read_recipe
from pretraining.backbone.unet import UNetConfig
from pretraining.common.config import to_dict
from pretraining.common.errors import InputError


def test_shipped_template_equals_the_defaults():
    template = load_template()
    assert template.anatomix == Recipe() and template.backbone == UNetConfig()


def test_defaults_are_the_papers():
    recipe = Recipe()
    assert (recipe.iterations, recipe.epochs, recipe.learning_rate) == (37_500, 150, 2e-4)


@pytest.mark.parametrize(
    "iterations, epochs", [(1, 1), (4, 4), (20, 10), (251, 10), (600, 10), (2_600, 11), (37_500, 150)]
)
def test_epochs_add_up_to_the_iterations(iterations, epochs):
    recipe = read_recipe({}, {"ANATOMIX_ITERATIONS": str(iterations)})
    steps = [recipe.iterations_in(epoch) for epoch in range(recipe.epochs)]
    assert len(steps) == epochs and sum(steps) == iterations and min(steps) >= 1


def test_environment_takes_precedence_over_the_plan():
    plan = {"anatomix": {"iterations": 100, "optimizer": {"learning_rate": 1e-3}}}
    assert read_recipe(plan, {}).iterations == 100
    changed = read_recipe(plan, {"ANATOMIX_ITERATIONS": "7"})
    assert changed.iterations == 7 and changed.learning_rate == 1e-3


def test_the_papers_recipe_has_table_9_with_the_plans_ranges_and_one_rate():
    planned = read_recipe({"anatomix": {"augmentation": {"policy": "nnunet", "shear": 0.1}}}, {})
    paper = planned.as_in_paper()
    assert (paper.augmentation.policy, paper.augmentation.shear, paper.schedule.head_factor) == ("table9", 0.1, 1.0)
    assert paper.learning_rate == planned.learning_rate and paper.as_in_paper() == paper


def test_recipe_survives_json():
    assert read_recipe({"anatomix": to_dict(Recipe())}, {}) == Recipe()


@pytest.mark.parametrize(
    "block, environment, message",
    [
        ({"iteration": 5}, {}, "unknown keys"),
        ({"iterations": 0}, {}, "iterations"),
        ({"iterations": "many"}, {}, "iterations"),
        ({"optimizer": {"learning_rate": -1.0}}, {}, "learning_rate"),
        ({"augmentation": {"gamma": [0.0, 1.0]}}, {}, "gamma"),
        ({"augmentation": {"policy": "heavy"}}, {}, "policy"),
        ({"schedule": {"head_factor": 0}}, {}, "head_factor"),
        ({}, {"ANATOMIX_ITERATIONS": "1.5"}, "ANATOMIX_ITERATIONS"),
        ({}, {"ANATOMIX_ITERATIONS": "0"}, "ANATOMIX_ITERATIONS"),
    ],
)
def test_invalid_values_are_refused_by_name(block, environment, message):
    with pytest.raises(InputError, match=message):
        read_recipe({"anatomix": block}, environment)


def test_short_trainings_have_higher_rates_and_the_papers_its_own():
    rates = [default_learning_rate(iterations) for iterations in (1, 250, 1_500, 6_000, 37_500, 250_000)]
    assert (
        rates == sorted(rates, reverse=True)
        and rates[0] == rates[2] == pytest.approx(1e-3)
        and rates[-1] == rates[-2] == 2e-4
    )
    assert Recipe(iterations=6_000).learning_rate == pytest.approx(5e-4)
