"""Test that links between texts have targets, and that names of code in texts exist."""

from __future__ import annotations

import ast
import pydoc
import re
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEXTS = [
    *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts),
    *sorted(REPOSITORY.glob("*.md")),
    REPOSITORY / "plans" / "README.md",
]
_FENCED = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_ROLE = re.compile(r"\{py:(\w+)\}`~?([\w.]+)`")


def prose(path: Path) -> str:
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Derive the anchors of a text's headings, as GitHub and MyST do."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower().replace("`", "")).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_lead_to_files_and_headings(text):
    for target in _LINK.findall(prose(text)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (text.parent / name).resolve() if name else text
        assert file.exists(), f"{text.name} links to {target}, which does not exist"
        assert REPOSITORY in (file, *file.parents), f"{text.name} links to {target}, outside of the repository"
        if anchor:
            assert anchor in anchors(file), f"{text.name} links to {target}; headings there are {sorted(anchors(file))}"


def test_absolute_links_to_this_repository_lead_to_files_and_headings():
    """The README is shown by package indexes too, where relative links lead nowhere."""
    urls = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    raw = urls["Repository"].replace("https://github.com", "https://raw.githubusercontent.com")
    own = re.compile(rf"(?:{re.escape(urls['Repository'])}/blob|{re.escape(raw)})/main/([^)\s\"]+)")
    readme = REPOSITORY / "README.md"
    assert not [target for target in _LINK.findall(prose(readme)) if not target.startswith("https://")]
    targets = [target for text in TEXTS for target in own.findall(prose(text))]
    for target in targets:
        name, _, anchor = target.partition("#")
        assert (REPOSITORY / name).is_file() and (not anchor or anchor in anchors(REPOSITORY / name)), target
    assert len(targets) > 15
    labels = set(re.findall(r"\]\[([\w-]+)\]", prose(readme)))
    assert labels == set(re.findall(r"^\[([\w-]+)\]: ", prose(readme), re.MULTILINE))
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert f"repository-code: {urls['Repository']}\n" in citation
    assert f"{urls['Repository']}/" in (DOCS / "conf.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", [path for path in TEXTS if _ROLE.search(path.read_text(encoding="utf-8"))], ids=lambda path: path.stem
)
def test_functions_that_a_text_names_exist(text):
    missing = [name for _, name in _ROLE.findall(text.read_text(encoding="utf-8")) if pydoc.locate(name) is None]
    assert not missing


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_tests_and_modules_that_a_text_names_exist(text):
    named = set(
        re.findall(
            r"`((?:tests|pretraining|nnunet_anatomix|plans|docs)/[\w./]+\.(?:py|md|json|safetensors))`",
            text.read_text(),
        )
    )
    assert not sorted(name for name in named if not (REPOSITORY / name).is_file())


def test_every_explained_error_is_in_the_code():
    messages = [" ".join(message.split()) for message in _messages()]
    page = DOCS / "how-to" / "troubleshooting.md"
    explained = re.findall(r"^\| (`.+?`(?:, `.+?`)*)( \(.+?'s\))? \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(explained) > 50
    for texts, others in explained:
        for text in re.findall(r"`(.+?)`", texts):
            pattern = _pattern(text)
            assert others or any(pattern.search(message) for message in messages), f"no error in the code says: {text}"


def test_every_error_is_explained_or_says_what_to_do():
    page = (DOCS / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    cells = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    explained = [_pattern(text) for cell in cells for text in re.findall(r"`(.+?)`", cell)]
    messages = {" ".join(message.split()) for message in _messages()}
    mute = [
        message
        for message in messages
        if len(re.findall(r"[A-Za-z]{3,}", message)) > 1 and not _SAYS_WHAT_TO_DO.search(message)
        if not any(pattern.search(message) for pattern in explained)
    ]
    assert len(messages) > 500 and not mute, "explain these on the page, or say in them what to do"


_SAYS_WHAT_TO_DO = re.compile(
    r"; |\b(expected|must|needs?|without it|together|exclude|use|add|give|set|omit|choose|run|install|see|correct|"
    r"remove|copy|repeat|wait|write|call|pass|stop)\b"
)


def _pattern(text: str) -> re.Pattern[str]:
    """Match a message of the code by its pieces between the inserted values."""
    return re.compile(".*".join(re.escape(piece) for piece in text.split("…") if piece.strip()))


ERRORS = (
    "InputError",
    "UsageError",
    "CommandFailed",
    "Unusable",
    "Rejected",
    "NotWritten",
    "NotFinite",
    "InUse",
    "NothingTaken",
    "IsPublishedViT",
)
EXPECTATIONS = ("_refusal", "_error")
"""Methods that make an error of what was expected and what was found."""


def _messages() -> list[str]:
    """Collect the texts of all errors in the code, with … for inserted values."""
    found = []
    for package in ("pretraining", "nnunet_anatomix"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                if isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                    found += [_text(argument) for argument in node.args]
                elif isinstance(node.func, ast.Attribute) and node.func.attr in EXPECTATIONS:
                    found += [f"…: expected {_text(argument)}, found …" for argument in node.args[:1]]
    return found


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"
