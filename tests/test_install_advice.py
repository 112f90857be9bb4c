"""No message or page advises to install this project by its name, which no index has."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
READ = ("nnunet_anatomix", "pretraining", "docs", "docker", "README.md", "CHANGELOG.md", "CONTRIBUTING.md")
BY_NAME = re.compile(r"pip3? install[^\n]*?[ \t]['\"]?(nnunet[-_]anatomix|anatomix)\b(?!/)")


def test_advice_names_a_clone_or_another_package():
    assert BY_NAME.search("run: pip install 'nnunet-anatomix[ants]'") and not BY_NAME.search("pip install '.[ants]'")
    files = [path for name in READ for path in ([REPOSITORY / name] if "." in name else (REPOSITORY / name).rglob("*"))]
    texts = {
        path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".md", "") and path.is_file()
    }
    assert len(texts) > 100
    assert not {path.name: found[0] for path, text in texts.items() if (found := BY_NAME.search(text))}
