"""Workflows and pre-commit hooks agree with metadata and Makefile; actions are pinned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted(REPOSITORY.glob(".github/workflows/*.yml"))
FILES = [*WORKFLOWS, *sorted(REPOSITORY.glob(".github/actions/*/action.yml"))]


def uses(node: object) -> list[str]:
    """Every action that a workflow names."""
    if isinstance(node, dict):
        own = [node["uses"]] if isinstance(node.get("uses"), str) else []
        return own + [name for value in node.values() for name in uses(value)]
    return [name for value in node for name in uses(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_actions_are_pinned(path):
    names = uses(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert names
    for name in names:
        local = name.startswith("./") and (REPOSITORY / name / "action.yml").is_file()
        assert local or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name), name


def test_every_promised_python_is_tested():
    promised = set(re.findall(r"Python :: (3\.\d+)", (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")))
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    assert set(jobs["linux"]["strategy"]["matrix"]["python"]) == promised
    assert jobs["minimum-versions"]["steps"][1]["with"] == {
        "python": min(promised, key=lambda one: int(one[2:])),
        "resolution": "lowest-direct",
    }


def test_targets_and_paths_exist():
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            for command in (step.get("run", "") for step in job["steps"]):
                if command.startswith("make "):
                    assert set(command.split()[1:]) <= targets
                assert all((REPOSITORY / one).exists() for one in command.split() if one.startswith("tests/"))


def test_pre_commit_formats_as_lint_does():
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    pinned = next(one["rev"] for one in hooks if "ruff" in one["repo"])
    lower, upper = re.search(
        r'"ruff>=([\d.]+),<([\d.]+)"', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    ).groups()
    assert Version(lower) <= Version(pinned) < Version(upper)
