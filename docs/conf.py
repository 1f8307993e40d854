"""Settings of the documentation site; `make docs` builds it into build/docs.

Pages are Markdown (MyST). A page whose front matter names a kernel is executed while it is built (myst-nb): an error in
a cell ends the build. What is done here beyond Sphinx stands in _ext/, a file each: `docstrings` and `reference`
(autodoc), `repository_links` (links to files outside of docs/), `mathml` (formulas without scripts). How figures of
executed pages become SVG in the colours of the page: _ipython/. A new page goes into a toctree (index.md here or in its
folder), which tests/project/test_docs.py checks.
"""

import logging
import os
import sys
from pathlib import Path

import transformer_fast

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "transformer_fast"
author = "The transformer_fast developers"
release = version = transformer_fast.__version__
copyright = "the transformer_fast developers; Apache License 2.0"

extensions = ["myst_nb", "sphinx.ext.autodoc", "docstrings", "reference", "mathml", "repository_links"]
exclude_patterns = ["_*"]
nitpicky = True

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

autodoc_mock_imports = ["torch", "transformers"]
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 100
# Annotations name types of modules that are not public, and of NumPy.
nitpick_ignore_regex = [("py:.*", ".*")]

# Cells run in a kernel of their own a page, in a temporary folder, with nothing but what is installed.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 120
nb_merge_streams = True
logging.getLogger("traitlets").setLevel(logging.WARNING)  # it tells of every kernel
os.environ["IPYTHONDIR"] = str(HERE / "_ipython")
os.environ["TRANSFORMER_FAST_CHECKOUT"] = str(HERE.parent)
os.environ["HF_HUB_OFFLINE"] = "1"
# Two pages run at once: threads of both would wait for each other, and small sizes gain nothing from them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

smartquotes = False
html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"transformer_fast {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
