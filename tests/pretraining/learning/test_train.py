"""Test that training learns, and that a run killed at any time resumes exactly."""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pretraining.backbone.initialization import build
from pretraining.backbone.unet import UNetConfig
from pretraining.backbone.weights import load_weights
from pretraining.common.config import from_dict, to_dict
from pretraining.common.errors import InputError
from pretraining.engine.synthesis import EngineConfig
from pretraining.learning.checkpoint import load_checkpoint
from pretraining.learning.export import export_run
from pretraining.learning.objectives.choice import ObjectiveConfig
from pretraining.learning.objectives.contrastive import ContrastiveConfig, ContrastiveModel
from pretraining.learning.objectives.projection import ProjectionConfig
from pretraining.learning.schedule import OptimizerConfig, rate_at
from pretraining.learning.train import train
from pretraining.learning.train_config import TrainConfig
from pretraining.presets.loading import load_preset, preset_names
from pretraining.templates.procedural import procedural_bank
from tests.process_server import PythonProcess
from tests.ranks import run_ranks
from tests.shared_bank import default_bank

TINY = TrainConfig(
    steps=6,
    log_every=2,
    validate_every=3,
    validation_pairs=1,
    save_every=2,
    backbone=UNetConfig(width=2, poolings=2),
    objective=ObjectiveConfig(contrastive=ContrastiveConfig(positions=32), projection=ProjectionConfig(width=8)),
    engine=EngineConfig(side=16),
)


@pytest.fixture(scope="module")
def bank():
    return procedural_bank(8)


def same_state(a, b) -> bool:
    first, second = load_checkpoint(a).model, load_checkpoint(b).model
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_initial_weights_are_kaiming_normal_and_leave_the_global_state_alone():
    before = torch.get_rng_state()

    def model(seed: int) -> ContrastiveModel:
        return build(
            lambda: ContrastiveModel(UNetConfig(width=8), ProjectionConfig(), ContrastiveConfig()),
            torch.Generator().manual_seed(seed),
        )

    weight = model(0).backbone.bottleneck[0].conv.weight
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weight, model(0).backbone.bottleneck[0].conv.weight)
    assert not torch.equal(weight, model(1).backbone.bottleneck[0].conv.weight)
    assert weight.std().item() == pytest.approx((2 / (27 * weight.shape[1])) ** 0.5, rel=0.02)


def test_stairs_fall_and_the_cosine_ends_at_zero():
    stairs = OptimizerConfig()
    assert [rate_at(step, 600_000, stairs) for step in (0, 119_999, 120_000, 480_000, 599_999)] == pytest.approx(
        [2e-4, 2e-4, 1.6e-4, 4e-5, 4e-5]
    )
    cosine = OptimizerConfig(schedule="cosine", warmup_steps=10)
    rates = [rate_at(step, 100, cosine) for step in range(101)]
    assert rates[9] == pytest.approx(2e-4) and rates[100] == pytest.approx(0)
    assert all(a < b for a, b in pairwise(rates[:10])) and all(a > b for a, b in pairwise(rates[10:]))


def test_training_learns(tmp_path, bank):
    config = TrainConfig(
        steps=60,
        validation_pairs=1,
        backbone=UNetConfig(width=8, poolings=2),
        objective=ObjectiveConfig(contrastive=ContrastiveConfig(positions=128), projection=ProjectionConfig(width=32)),
        optimizer=OptimizerConfig(rate=3e-3, beta1=0.9, schedule="cosine"),
        engine=EngineConfig(side=16),
    )
    train(tmp_path, config, bank, device="cpu", workers=0)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"step", "loss", "terms", "rate", "steps_per_s", "waiting"} <= records[0].keys()
    losses = [record["loss"] for record in records if "loss" in record]
    # Means over ten label maps each; the loss fell by .13 with two seeds when this was written.
    assert losses[-1] < losses[0] - 0.08


@pytest.fixture(scope="module")
def unbroken(bank, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "unbroken"
    train(folder, TINY, bank, device="cpu", workers=0)
    return folder


@pytest.mark.parametrize(("stop", "workers"), [(2, 0), (3, 1), (4, 0)])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, bank, unbroken, stop, workers, monkeypatch):

    class Killed(Exception):
        pass

    import pretraining.learning.monitor as monitor

    def advance(self):
        self.done = getattr(self, "done", 0) + 1
        if self.done == stop:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(monitor.Monitor, "advance", advance)
        train(tmp_path / "broken", TINY, bank, device="cpu", workers=0)
    train(tmp_path / "broken", TINY, bank, resume=True, device="cpu", workers=workers)
    assert same_state(unbroken / "checkpoint.pt", tmp_path / "broken" / "checkpoint.pt")
    losses = [
        [
            (record["step"], record["loss"])
            for record in map(json.loads, (run / "log.jsonl").read_text().splitlines())
            if "loss" in record
        ]
        for run in (unbroken, tmp_path / "broken")
    ]
    assert [step for step, _ in losses[0]] == [step for step, _ in losses[1]] == [2, 3, 4, 6]


def test_kill_9_loses_nothing(tmp_path):
    """Kill the command repeatedly, at arbitrary steps."""
    small = replace(TINY, steps=30, save_every=1, validate_every=30)
    (tmp_path / "tiny.json").write_text(json.dumps(to_dict(small)))

    def command(run: str, *flags: str) -> list[str]:
        options = [
            "--out",
            str(tmp_path / run),
            "--preset",
            str(tmp_path / "tiny.json"),
            "--device",
            "cpu",
            "--workers",
            "0",
            *flags,
        ]
        return [sys.executable, "-m", "pretraining", "train", *options]

    steps_at_death = []
    while len(steps_at_death) < 2:
        process = PythonProcess(command("killed", "--resume"))
        log, seen = tmp_path / "killed" / "log.jsonl", (steps_at_death or [0])[-1]
        while process.poll() is None and (not log.is_file() or last_step(log) < seen + 3):
            time.sleep(0.01)
        process.kill()
        process.wait()
        steps_at_death.append(load_checkpoint(tmp_path / "killed" / "checkpoint.pt").step)
    assert 0 < steps_at_death[0] < steps_at_death[1] < 30
    train(tmp_path / "killed", small, default_bank(), resume=True, device="cpu", workers=0)
    train(tmp_path / "unbroken", small, default_bank(), device="cpu", workers=0)
    assert same_state(tmp_path / "unbroken" / "checkpoint.pt", tmp_path / "killed" / "checkpoint.pt")


def last_step(log) -> int:
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if line.endswith("}")]
    return max(steps, default=0)


def test_a_run_is_neither_overwritten_nor_resumed_with_something_else(tmp_path, bank):
    train(tmp_path, TINY, bank, device="cpu", workers=0)
    with pytest.raises(InputError, match="add --resume"):
        train(tmp_path, TINY, bank, device="cpu", workers=0)
    with pytest.raises(InputError, match=r"steps: 6 -> 7"):
        train(tmp_path, replace(TINY, steps=7), bank, resume=True, device="cpu", workers=0)
    with pytest.raises(InputError, match="other templates"):
        train(tmp_path, TINY, procedural_bank(3), resume=True, device="cpu", workers=0)
    assert load_checkpoint(tmp_path / "checkpoint.pt").step == TINY.steps


def test_a_run_is_exported_with_its_card_and_starts_another(tmp_path, bank):
    train(tmp_path / "run", TINY, bank, device="cpu", workers=0)
    export_run(tmp_path / "run", tmp_path / "weights.safetensors", which="last", notes="a test")
    weights = load_weights(tmp_path / "weights.safetensors")
    assert weights.card["iterations"] == TINY.steps and weights.card["templates"]["count"] == len(bank)
    assert from_dict(TrainConfig, weights.card["config"]) == TINY
    again = replace(TINY, steps=1, optimizer=OptimizerConfig(rate=1e-12))
    start = train(tmp_path / "next", again, bank, init_from=tmp_path / "weights.safetensors", device="cpu", workers=0)
    torch.testing.assert_close(start.model["backbone.output.weight"], weights.state["output.weight"])
    export_run(tmp_path / "run", tmp_path / "published.pth", file_format="published")
    assert load_weights(tmp_path / "published.pth").architecture == TINY.backbone
    with pytest.raises(InputError, match=r"expected a \.pth file"):
        export_run(tmp_path / "run", tmp_path / "weights.safetensors", file_format="published")
    with pytest.raises(InputError, match="no checkpoint"):
        export_run(tmp_path / "nowhere", tmp_path / "weights.safetensors")


def test_a_damaged_checkpoint_is_one_clear_line(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"half of one")
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_sigterm_saves_and_resuming_loses_nothing(tmp_path):
    small = replace(TINY, steps=20, save_every=20, validate_every=20, log_every=1)
    (tmp_path / "tiny.json").write_text(json.dumps(to_dict(small)))

    def command(run: str, *flags: str) -> list[str]:
        options = [
            "--out",
            str(tmp_path / run),
            "--preset",
            str(tmp_path / "tiny.json"),
            "--device",
            "cpu",
            "--workers",
            "1",
            *flags,
        ]
        return [sys.executable, "-m", "pretraining", "train", *options]

    process = PythonProcess(command("stopped"))
    log = tmp_path / "stopped" / "log.jsonl"
    while process.poll() is None and (not log.is_file() or last_step(log) < 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    stopped_at = load_checkpoint(tmp_path / "stopped" / "checkpoint.pt").step
    assert (
        process.returncode == 143
        and 4 <= stopped_at < 20
        and f"saved at step {stopped_at}" in said
        and "Traceback" not in said
    )
    train(tmp_path / "stopped", small, default_bank(), resume=True, device="cpu", workers=0)
    train(tmp_path / "unbroken", small, default_bank(), device="cpu", workers=0)
    assert same_state(tmp_path / "unbroken" / "checkpoint.pt", tmp_path / "stopped" / "checkpoint.pt")


def test_two_processes_follow_one(tmp_path):
    """Split the label maps; the order of sums differs, so weights agree within rounding."""
    several = replace(TINY, steps=4, label_maps=4, precision="fp32", optimizer=OptimizerConfig(rate=1e-3))
    (tmp_path / "tiny.json").write_text(json.dumps(to_dict(several)))

    options = ["--preset", tmp_path / "tiny.json", "--device", "cpu", "--workers", 0, "--out", tmp_path / "two"]
    run_ranks(["-m", "pretraining", "train", *options])
    train(tmp_path / "one", several, default_bank(), device="cpu", workers=0)
    one, two = (load_checkpoint(tmp_path / run / "checkpoint.pt") for run in ("one", "two"))
    start = train(
        tmp_path / "start",
        replace(several, steps=1, optimizer=OptimizerConfig(rate=1e-12)),
        default_bank(),
        device="cpu",
    )
    weights = [name for name in one.model if name.endswith("weight") and "backbone" in name]
    moved = sum((one.model[name] - start.model[name]).norm() for name in weights)
    apart = sum((one.model[name] - two.model[name]).norm() for name in weights)
    assert moved > 0.1 and apart < 0.02 * moved
    assert one.validation_loss == pytest.approx(two.validation_loss, rel=0.05)
    means = [name for name in one.model if name.endswith("running_var")]
    assert all(torch.allclose(one.model[name], two.model[name], rtol=0.3, atol=0.05) for name in means)
    records = [
        [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()] for run in ("one", "two")
    ]
    for first, second in zip(*records, strict=True):
        assert first["step"] == second["step"]
        assert first.get("loss", 0) == pytest.approx(second.get("loss", 0), rel=0.01)
        assert first.get("noise_scale", 0) == pytest.approx(second.get("noise_scale", 0), rel=0.05)
    assert any(record.get("noise_scale", 0) > 0 for record in records[0])


def test_label_maps_that_ranks_cannot_share_are_refused(tmp_path, bank, monkeypatch):
    from contextlib import contextmanager

    import pretraining.learning.train as module
    from pretraining.learning.distributed import Ranks

    @contextmanager
    def three(device):
        yield Ranks(rank=0, world=3)

    monkeypatch.setattr(module, "process_group", three)
    with pytest.raises(InputError, match="label_maps=1 can't be shared among 3"):
        train(tmp_path, TINY, bank, device="cpu", workers=0)


def test_an_average_of_the_weights_is_validated_resumed_and_exported(tmp_path, bank):
    averaged = replace(TINY, average_decay=0.5, optimizer=OptimizerConfig(rate=1e-2))
    train(tmp_path / "run", averaged, bank, device="cpu", workers=0)
    train(tmp_path / "half", replace(averaged, steps=6), bank, device="cpu", workers=0)
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    name = "backbone.output.weight"
    assert not torch.equal(checkpoint.average[f"module.{name}"], checkpoint.model[name])
    weights = export_run(tmp_path / "run", tmp_path / "w.safetensors", which="last")
    assert torch.equal(weights.state["output.weight"], checkpoint.average[f"module.{name}"])


def test_the_run_folder_shows_what_happened(tmp_path, bank):
    train(tmp_path, TINY, bank, device="cpu", workers=0)
    from matplotlib.image import imread

    assert imread(tmp_path / "pictures" / "features-0000006.png").std() > 0.05
    assert list((tmp_path / "tensorboard").iterdir())


def test_gradients_are_cut_to_the_length_asked_for(tmp_path, bank):
    for limit, name in ((1e-3, "cut"), (0.0, "free")):
        config = replace(TINY, steps=2, optimizer=OptimizerConfig(max_gradient_norm=limit))
        train(tmp_path / name, config, bank, device="cpu", workers=0)
    cut, free = (
        load_checkpoint(tmp_path / name / "checkpoint.pt").optimizer["state"][0]["exp_avg"].norm()
        for name in ("cut", "free")
    )
    assert cut < 0.1 * free


def test_a_loss_far_above_its_first_value_stops_the_run(tmp_path, bank, monkeypatch):
    import pretraining.learning.train as module

    monkeypatch.setattr(module, "MAX_LOSS_RISE", -0.5)
    with pytest.raises(
        FloatingPointError, match=r"at step 2 \(from sample 0 on, seed 0\); the checkpoint holds step 0"
    ):
        train(tmp_path, TINY, bank, device="cpu", workers=0)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_weights_that_are_not_finite_stop_the_run(tmp_path, bank):
    wild = replace(TINY, optimizer=OptimizerConfig(rate=1e30))
    with pytest.raises(FloatingPointError, match="not finite at step"):
        train(tmp_path, wild, bank, device="cpu", workers=0)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid(name):
    assert load_preset(TrainConfig, name).steps > 0


@pytest.mark.parametrize(
    ("wrong", "named"), [({"steps": 0}, "steps"), ({"engine": {"side": 40}}, "side"), ({"stepz": 3}, "stepz")]
)
def test_a_wrong_config_is_refused_by_name(wrong, named):
    with pytest.raises(InputError, match=named):
        from_dict(TrainConfig, wrong)


@pytest.mark.parametrize(("after", "batches"), [(0.0, 0), (0.5, 3), (1.0, 6)])
def test_running_averages_are_kept_after_the_share_that_is_asked_for(tmp_path, bank, after, batches):
    checkpoint = train(tmp_path, replace(TINY, freeze_statistics_after=after), bank, device="cpu", workers=0)
    assert checkpoint.model["backbone.stem.norm.num_batches_tracked"] == batches
    assert (checkpoint.model["backbone.stem.norm.running_mean"] == 0).all() == (batches == 0)


def test_running_averages_of_a_network_without_any_are_refused():
    with pytest.raises(ValueError, match="freeze_statistics_after is for"):
        replace(TINY, freeze_statistics_after=0.5, backbone=UNetConfig(width=2, poolings=2, norm="instance"))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        replace(TINY, freeze_statistics_after=1.5)
