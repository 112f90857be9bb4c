"""Test trainings limited by wall time: they end in time on any machine, and resume."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from itertools import pairwise

import pytest

from pretraining.backbone.unet import UNetConfig
from pretraining.common.config import to_dict
from pretraining.common.errors import InputError, Interrupted
from pretraining.engine.synthesis import EngineConfig
from pretraining.learning import budget as budget_module
from pretraining.learning.budget import TimeBudget
from pretraining.learning.checkpoint import Checkpoint, load_checkpoint
from pretraining.learning.distributed import Ranks
from pretraining.learning.metrics import Metrics
from pretraining.learning.objectives.choice import ObjectiveConfig
from pretraining.learning.objectives.contrastive import ContrastiveConfig
from pretraining.learning.objectives.projection import ProjectionConfig
from pretraining.learning.schedule import OptimizerConfig, rate_in_time
from pretraining.learning.train import train
from pretraining.learning.train_config import TrainConfig
from pretraining.templates.procedural import procedural_bank
from tests.ranks import run_ranks

TINY = TrainConfig(
    steps=2,
    log_every=1,
    validate_every=1000,
    validation_pairs=1,
    save_every=1000,
    backbone=UNetConfig(width=2, poolings=2),
    objective=ObjectiveConfig(contrastive=ContrastiveConfig(positions=32), projection=ProjectionConfig(width=8)),
    optimizer=OptimizerConfig(rate=1e-3, schedule="cosine"),
    engine=EngineConfig(side=16),
)


class FakeTime:
    """Clock that only steps and validations advance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def slow_machine(monkeypatch):
    """Make steps and validations take a given time; a step may ask the process to stop."""

    def install(*, step_s: float, validation_s: float = 0.0, stop_at: int | None = None) -> FakeTime:
        fake = FakeTime()
        import pretraining.learning.train as module

        for part in (budget_module, module):
            monkeypatch.setattr(part, "time", fake)
        monkeypatch.setattr(module, "Metrics", lambda: Metrics(began=fake.now))
        step, validate = module.training_step, module.validate
        taken = []

        def slow_step(state, samples, metrics, rate, stop):
            fake.now += step_s
            taken.append(rate)
            if len(taken) == stop_at:
                stop.signal = 15
            step(state, samples, metrics, rate, stop)

        def slow_validate(*arguments):
            fake.now += validation_s
            return validate(*arguments)

        monkeypatch.setattr(module, "training_step", slow_step)
        monkeypatch.setattr(module, "validate", slow_validate)
        fake.rates = taken
        return fake

    return install


@pytest.fixture(scope="module")
def bank():
    return procedural_bank(8)


def checkpoint_after(seconds: float = 0.0, **changes) -> Checkpoint:
    return Checkpoint(step=0, config={}, templates={}, model={}, optimizer={}, seconds=seconds, **changes)


@pytest.mark.parametrize("step_s", [2.0, 4.0])
def test_the_rate_falls_to_zero_when_the_time_ends(tmp_path, bank, slow_machine, step_s):
    time = slow_machine(step_s=step_s, validation_s=2.0)
    last = train(tmp_path, TINY, bank, minutes=2, device="cpu", workers=0)
    assert 1118 - step_s - 2 * 1.25 * 2 <= time.now <= 1120, (
        "the last validation fits into the time, and little of it is left over"
    )
    assert last.step == len(time.rates) > TINY.steps and last.validation_loss is not None
    assert all(a > b for a, b in pairwise(time.rates))
    assert time.rates[0] == TINY.optimizer.rate and time.rates[-1] < 1e-5
    middle = time.rates[len(time.rates) // 2]
    assert middle == pytest.approx(TINY.optimizer.rate / 2, rel=0.15)
    stored = load_checkpoint(tmp_path / "checkpoint.pt")
    assert stored.step == last.step and stored.minutes == 2 and 110 < stored.seconds <= 120


def test_a_run_that_was_stopped_goes_on_with_the_time_that_is_left(tmp_path, bank, slow_machine):
    time = slow_machine(step_s=2.0, validation_s=1.0, stop_at=20)
    with pytest.raises(Interrupted, match=r"saved at step 20.*2 minutes"):
        train(tmp_path, TINY, bank, minutes=2, device="cpu", workers=0)
    time.now += 5000  # nobody trains meanwhile
    first = list(time.rates)
    last = train(tmp_path, TINY, bank, resume=True, device="cpu", workers=0)
    assert 110 < last.seconds <= 120 and 52 <= last.step <= 60
    assert all(a > b for a, b in pairwise(time.rates)) and time.rates[-1] < 1e-5
    assert time.rates[20] == pytest.approx(first[-1], rel=0.1)
    again = train(tmp_path, TINY, bank, resume=True, device="cpu", workers=0)
    assert again.step == last.step, "the time is over"


@pytest.mark.slow
def test_other_minutes_change_the_rest_of_the_schedule_and_that_is_said(tmp_path, bank, slow_machine, caplog):
    time = slow_machine(step_s=5.0)
    train(tmp_path, TINY, bank, minutes=1, device="cpu", workers=0)
    ended = time.rates[-1]
    with caplog.at_level(logging.WARNING):
        last = train(tmp_path, TINY, bank, minutes=3, resume=True, device="cpu", workers=0)
    assert "3 minutes in place of 1 minutes" in caplog.text and "schedule changes" in caplog.text
    assert 160 < last.seconds <= 180 and last.minutes == 3
    assert time.rates[12] > 10 * ended and time.rates[-1] < 0.01 * TINY.optimizer.rate


def test_a_run_of_steps_can_go_on_by_time(tmp_path, bank, slow_machine, caplog):
    slow_machine(step_s=5.0)
    assert train(tmp_path, TINY, bank, device="cpu", workers=0).step == 2
    with caplog.at_level(logging.WARNING):
        last = train(tmp_path, TINY, bank, minutes=1, resume=True, device="cpu", workers=0)
    assert "in place of 2 steps" in caplog.text and 50 < last.seconds <= 60


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_minutes_that_are_none_are_refused(tmp_path, bank, minutes):
    with pytest.raises(InputError, match="--minutes above 0"):
        train(tmp_path / "run", TINY, bank, minutes=minutes, device="cpu", workers=0)
    assert not (tmp_path / "run").exists()


def test_stairs_share_the_time_and_the_warm_up_stays_in_steps():
    stairs = OptimizerConfig(rate=1.0)
    assert [rate_in_time(10**6, i / 10, stairs) for i in range(11)] == pytest.approx(
        [1, 1, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2, 0.2]
    )
    warm = OptimizerConfig(rate=1.0, warmup_steps=4, schedule="cosine")
    assert [rate_in_time(step, 0.0, warm) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert rate_in_time(2, 1.0, warm) == 0, "it ends at zero even where the time is over before the warm-up"


def test_all_ranks_follow_the_clock_of_the_first(monkeypatch):
    monkeypatch.setattr(budget_module, "from_first_rank", lambda value, ranks: 0.5 if ranks.rank else value)
    late = TimeBudget(1, checkpoint_after(59.0), Ranks(rank=1, world=2))
    assert not late.over(3)
    assert late.rate(3, TINY.optimizer) == pytest.approx(TINY.optimizer.rate / 2)


def test_steps_that_may_still_be_under_way_are_reserved_for():
    checkpoint = checkpoint_after()
    budget = TimeBudget(10, checkpoint, Ranks(), steps_in_flight=8)
    assert budget.needs_measurement
    budget.measure(steps=1, steps_s=100.0, ending_s=4.0)  # the first step compiles
    assert not budget.needs_measurement and checkpoint.reserve_s == pytest.approx(5)
    budget.measure(steps=10, steps_s=5.0, ending_s=None)
    assert checkpoint.reserve_s == pytest.approx(5 + 8 * 0.5)


@pytest.mark.slow  # trains for 9 seconds, whatever the machine
def test_two_processes_stop_at_the_same_step(tmp_path):
    several = replace(TINY, label_maps=2, save_every=1)
    (tmp_path / "tiny.json").write_text(json.dumps(to_dict(several)))
    options = [
        "--out",
        str(tmp_path / "run"),
        "--preset",
        str(tmp_path / "tiny.json"),
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    run_ranks(["-m", "pretraining", "train", *options, "--minutes", "0.15"])
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert checkpoint.step > 2 and 4 < checkpoint.seconds <= 9.5
    assert [record["rate"] for record in records if "rate" in record][-1] < 0.5 * TINY.optimizer.rate
