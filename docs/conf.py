"""Configuration of the documentation site (`make docs`); warnings are errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "ext"))

from pretraining.common.versions import VERSION

project = "nnunet-anatomix"
author = "nnunet-anatomix maintainers"
copyright = author
version = release = VERSION

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "from_code",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
# Annotations name classes of torch and SimpleITK, which have no pages here. tests/docs checks the
# names of this project.
nitpicky = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_url_schemes = ("http", "https", "mailto")

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_use_rtype = False
# Sphinx would link the names of a list of attributes to any object of the same name.
napoleon_custom_sections = [("Attributes", "params_style")]

html_theme = "furo"
html_title = f"{project} {version}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": "https://github.com/nnunet-anatomix/nnunet-anatomix/",
    "source_branch": "main",
    "source_directory": "docs/",
}
copybutton_exclude = ".linenos, .gp, .go"
