"""How guides and API reference are built: ``python -m sphinx -W -n -b html examples/guides build/docs``.

Sphinx, since the docstrings have formulas and cross-references in its markup; ``-W -n`` makes wrong ones errors.
"""

import pyg_schnet

project = "pyg_schnet"
author = copyright = "pyg_schnet developers"
release = pyg_schnet.__version__
html_theme = "alabaster"
html_theme_options = {"page_width": "1100px", "sidebar_width": "200px"}

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_missing"
]  # links to files of the repository outside of the guides; tests/test_guides.py

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say what is expected, with shapes and units
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # once, not beside the fields of named tuples

nitpick_ignore_regex = [
    # Private bases, and other packages, which are not documented here
    (
        r"py:class",
        r"pyg_schnet\..*\.(_\w+|CheckpointMixin|Conversions|DerivativeTask|FiniteModule|SharedModule|ScheduledModule|EvaluatedModule)",
    ),
    (r"py:exc", r"PropertyNotImplementedError"),
    (r"py:data", r"Ensemble|Optimizer"),
    (r"py:.*", r"(torch_sim|openmm|openmmml|ipi)\b.*"),
    (r"py:.*", r"(torch|torch_geometric|numpy|ase|lightning|matplotlib|typing|collections|os|pathlib|enum|abc)\b.*"),
]
