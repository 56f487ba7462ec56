"""How Sphinx builds this site; `make docs` does it.

It has to work from a USB stick: nothing is loaded from elsewhere, and no page
of another site is asked for while it is built.
"""  # noqa: INP001 - not a package

from __future__ import annotations

import sys
from pathlib import Path

import llmlab

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "llmlab"
author = "The llmlab developers"
copyright = author  # noqa: A001 - the name that Sphinx asks for
version = release = llmlab.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "repository",
    "verbs",
    "python_api",
    "pictures",
]
exclude_patterns = ["_ext", "_static"]
html_theme = "furo"
html_title = "llmlab"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_search_summary = False  # it would fetch pages, which a browser refuses of file://
highlight_language = "none"  # of a block that names none; most are lines of %llm
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# Notebooks are executed by `make notebooks`; here they are shown with the outputs that they have.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_error_lexer = "none"  # an error of llmlab's is a sentence and a hint, no traceback
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # they would come from elsewhere
# A widget's HTML stands beside its view; plain text is what there is for whoever has neither.
nb_mime_priority_overrides = [("html", "text/html", 0)]
myst_heading_anchors = 4
myst_enable_extensions = ["deflist", "attrs_inline", "colon_fence"]

# Docstrings are written for reading as they are: `name` is code.
default_role = "literal"
smartquotes = False  # "" in a docstring is an empty text
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": True}
napoleon_use_ivar = True
napoleon_attr_annotations = False  # _ext/python_api.py writes them
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 80
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"

# What the site cannot describe. Each other name that is referred to must have an entry.
nitpick_ignore_regex: list[tuple[str, str]] = [
    # The standard library: its inventory would have to be fetched.
    (r"py:.*", r"(collections\.abc|pathlib|types|datetime|socket)\..*"),
    # The name of a choice between two words; autodoc sees names that only type checkers import as they are.
    (r"py:class", r"Library"),
]
