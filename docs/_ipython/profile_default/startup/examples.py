"""The scripts of examples/ can be imported by pages, so that what both show is written once.

IPython runs this in each kernel that builds a page (docs/conf.py sets IPYTHONDIR).
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[4] / "examples"))
