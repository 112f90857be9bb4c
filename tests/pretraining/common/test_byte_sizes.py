"""Parsing and formatting of human-readable sizes."""

from __future__ import annotations

import pytest

from pretraining.common.byte_sizes import format_bytes, parse_bytes
from pretraining.common.errors import InputError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4G", 4 * 2**30),
        ("512M", 512 * 2**20),
        (" 1.5 GiB ", 3 * 2**29),
        ("2kb", 2048),
        ("1000", 1000),
        ("7B", 7),
        (".5T", 2**39),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "4X", "-4G", "0", "0.1", "4 4G", "4GG", "1e9", "nan", "٤G", "auto"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(InputError, match=f"4G or 512M, found '{text}'"):
        parse_bytes(text)


@pytest.mark.parametrize("size", [1, 1000, 1023, 1024, 5_000_000, 4 * 2**30, 3 * 2**41])
def test_what_is_shown_is_read_back_to_three_digits(size):
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.005)
