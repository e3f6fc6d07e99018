"""How the guides and the API reference are built: python -m sphinx -W -b html examples/guides build/docs."""

import pyg_schnet

project = "pyg_schnet"
copyright = "pyg_schnet developers"
release = pyg_schnet.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "myst_parser",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_default_options = {
    "members": True,
    "imported-members": True,
    "show-inheritance": True,
    "ignore-module-all": False,
}
autodoc_typehints = "description"
autodoc_member_order = "groupwise"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
html_theme = "alabaster"
html_show_sphinx = False
