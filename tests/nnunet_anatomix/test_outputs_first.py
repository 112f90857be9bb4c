"""Output paths are checked before any input is read; all files are written atomically."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import nnunet_anatomix.cli
import pretraining.cli

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = {
    "features": ("nnunet-anatomix", "features", "missing.nii.gz", "--out", "taken/f.nii.gz"),
    "register": (
        "nnunet-anatomix",
        "register",
        "--fixed",
        "missing.nii.gz",
        "--moving",
        "missing.nii.gz",
        "--out",
        "taken/out",
    ),
    "register --pairs": ("nnunet-anatomix", "register", "--pairs", "missing.csv", "--out", "taken"),
    "apply": ("nnunet-anatomix", "apply", "missing.h5", "--to", "missing.nii.gz", "--out", "taken/out"),
    "apply --batch": ("nnunet-anatomix", "apply", "--batch", "missing.csv", "--out", "taken"),
    "align": ("nnunet-anatomix", "align", "--scans", "scans.csv", "--out", "taken/out"),
    "baseline": ("nnunet-anatomix", "baseline", "smit", "missing.pt", "--out", "taken/smit.json"),
    "evaluate": ("nnunet-anatomix", "evaluate", "segmentation", "missing", "missing", "--out", "taken/out"),
    "templates": ("anatomix-pretrain", "templates", "--source", "missing", "--out", "taken/t.bank"),
    "preview": ("anatomix-pretrain", "preview", "--templates", "missing.bank", "--out", "taken/p.png"),
    "judge": ("anatomix-pretrain", "judge", "missing.safetensors", "--data", "missing", "--json", "taken/scores.json"),
    "sweep": ("anatomix-pretrain", "sweep", "--variants", "missing.json", "--data", "missing", "--out", "taken/out"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_output_paths_are_checked_first(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "scans.csv").write_text("scan\nmissing.nii.gz\n")
    program, *arguments = COMMANDS[command]
    monkeypatch.setattr("sys.argv", [program, *arguments])
    with pytest.raises(SystemExit) as stopped:
        (nnunet_anatomix.cli if program == "nnunet-anatomix" else pretraining.cli).main()
    assert "taken is a file" in str(stopped.value) and stopped.value.code == str(stopped.value)
    assert (tmp_path / "taken").read_text() == "mine" and {path.name for path in tmp_path.iterdir()} == {
        "taken",
        "scans.csv",
    }


WRITERS = {
    "savefig",
    "imsave",
    "save_file",
    "savez",
    "savez_compressed",
    "to_csv",
    "write_text",
    "write_bytes",
    "save_as",
}
"""Methods and functions of libraries that write files."""
ELSEWHERE = {
    "nnunet_anatomix/demo/pictures.py": {"savefig"},  # its callers pass the temporary path
    "nnunet_anatomix/study/report.py": {"savefig"},
    "nnunet_anatomix/clinical/dicom/decoding.py": {"save_as"},  # in a temporary folder
    "pretraining/common/html_page.py": {""},  # imsave into memory
    "nnunet_anatomix/clinical/delivery/case_files.py": {"savefig", "save_as", "write_bytes"},
}


def unguarded(tree: ast.AST) -> Iterator[str]:
    """Yield the names of writers that are called outside ``with atomic_write(...)``."""

    def within(node: ast.AST, guarded: bool) -> Iterator[str]:
        if isinstance(node, ast.With):
            called = {ast.unparse(item.context_expr).split("(")[0] for item in node.items}
            guarded = guarded or bool(called & {"written_whole", "atomic_write"})
        if isinstance(node, ast.Call) and not guarded:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if name in WRITERS or ast.unparse(node.func) in ("torch.save", "np.save", "imsave"):
                yield name
            mode = [
                ast.unparse(argument)
                for argument in (*node.args, *(word.value for word in node.keywords if word.arg == "mode"))
            ]
            if (name == "open" or ast.unparse(node.func) == "open") and {"'w'", "'wb'", "'x'", "'xb'"} & set(mode):
                yield f"open({', '.join(mode)})"
        for child in ast.iter_child_nodes(node):
            yield from within(child, guarded)

    yield from within(tree, False)


def test_all_files_are_written_atomically():
    for package in ("pretraining", "nnunet_anatomix"):
        for path in (REPOSITORY / package).rglob("*.py"):
            name = path.relative_to(REPOSITORY).as_posix()
            found = set(unguarded(ast.parse(path.read_text()))) - ELSEWHERE.get(name, set())
            assert not found, f"{name}: {found}"


def test_the_check_finds_unguarded_writers():
    for text in (
        "figure.savefig(path)",
        "torch.save(a, path)",
        "open(path, 'w')",
        "path.open('wb')",
        "path.write_text('a')",
    ):
        assert list(unguarded(ast.parse(text)))
        assert not list(unguarded(ast.parse(f"with atomic_write(a) as path:\n    {text}")))
    assert not list(unguarded(ast.parse("path.open('rb'); open(path); path.open('a')")))
