"""integrations/: nobody who does not use it pays for it. What it computes: oracle/test_from_torch.py."""

from __future__ import annotations

import pytest
from subprocesses import printed

from transformer_fast import integrations


def test_torch_is_not_imported_before_it_is_used():
    code = """
        import sys
        import transformer_fast.integrations, transformer_fast.nn
        print([name for name in ("torch", "transformers") if name in sys.modules])
    """
    assert printed(code) == "[]"


def test_names():
    assert set(integrations.__all__) <= set(dir(integrations))
    with pytest.raises(AttributeError, match="has no attribute 'to_torch'"):
        integrations.to_torch  # noqa: B018
