"""Sphinx configuration. Building touches no network unless asked to.

``SKLEARN_BERT_DOCS_INTERSPHINX=1`` downloads the inventories of other projects and
links to them; without it their names are shown as plain text.
"""

import builtins
import os
import sys
from pathlib import Path

from sphinx.util.nodes import get_node_source

import sklearn_bert

HERE = Path(__file__).parent
HAS_GALLERY = any((HERE / "examples").glob("plot_*.py"))
HAS_INTERSPHINX = os.environ.get("SKLEARN_BERT_DOCS_INTERSPHINX") == "1"

project = "sklearn-bert"
author = "The sklearn-bert developers"
copyright = f"2026, {author}"
version = release = sklearn_bert.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "examples", "gallery/**/*.ipynb"]
templates_path = ["_templates"]
default_role = "literal"
smartquotes = False  # types and defaults are code

# Docstrings

autodoc_typehints = "none"  # numpydoc has the types
autosummary_generate = True
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # the class template lists them

# Pages in Markdown

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Look: everything the theme needs lies in the built site

html_theme = "pydata_sphinx_theme"
html_title = f"sklearn-bert {release}"
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "sklearn-bert"},
    "navigation_with_keys": False,
    "show_prev_next": False,
    "use_edit_page_button": False,
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
NO_SECTION = (  # pages with nothing to navigate in beside them
    *("install", "quickstart", "concepts", "coming_from", "faq", "benchmarks"),
    *("architecture", "contributing", "changelog"),
)
html_sidebars = {page: [] for page in NO_SECTION}

# Examples

if HAS_GALLERY:
    extensions.append("sphinx_gallery.gen_gallery")
    sphinx_gallery_conf = {
        "examples_dirs": "examples",
        "gallery_dirs": "gallery",
        "filename_pattern": r"plot_",
        "abort_on_example_error": True,
        "copyfile_regex": r".*\.json",
        "download_all_examples": False,
        "remove_config_comments": True,
        "show_signature": False,
        "write_computation_times": False,
    }

# Links to other projects

if HAS_INTERSPHINX:
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "joblib": ("https://joblib.readthedocs.io/en/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

EXTERNAL_MODULES = {
    *sys.stdlib_module_names,
    *dir(builtins),
    *("joblib", "matplotlib", "numpy", "pandas", "polars", "pyarrow", "scipy"),
    *("sentence_transformers", "sklearn", "skrub", "torch", "transformers"),
}


def show_as_text(app, env, node, contnode):
    """Render a reference to another project as text; ours must resolve."""
    is_inherited = "docstring of sklearn." in (get_node_source(node) or "")
    root = node["reftarget"].split(".")[0]
    is_external = node.get("refdomain") == "py" and root in EXTERNAL_MODULES
    return contnode if is_inherited or is_external else None


def setup(app):
    if not HAS_INTERSPHINX:
        app.connect("missing-reference", show_as_text)
