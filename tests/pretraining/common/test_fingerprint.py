"""Fingerprints depend on all of their inputs and on nothing else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pretraining.common.fingerprint import file_sha256, file_state, fingerprint


def test_a_fingerprint_depends_on_all_of_what_it_is_made_from():
    settings = {"rate": 1e-3, "files": [Path("a"), None]}
    assert (
        fingerprint(settings)
        == fingerprint({"rate": 1e-3, "files": ["a", None]})
        != fingerprint({**settings, "rate": 2e-3})
    )
    assert len(fingerprint(settings)) == 16 and fingerprint(settings, length=32).startswith(fingerprint(settings))


def test_files_are_known_by_their_state_or_by_their_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * (2**20 + 3))
    before, content = file_state(path), file_sha256(path)
    assert content == hashlib.sha256(path.read_bytes()).hexdigest()
    os.utime(path, ns=(1, 1))
    assert file_state(path) != before and file_sha256(path) == content
