"""models/common/output.py: the ways in which transformers' outputs are read."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast.models.common.output import BaseModelOutputWithPooling

STATE, POOLED = np.zeros((1, 2, 3)), np.zeros((1, 3))


def test_access():
    output = BaseModelOutputWithPooling(STATE, POOLED)
    assert output.last_hidden_state is output[0] is output["last_hidden_state"] is STATE
    assert output.pooler_output is output[1] is output["pooler_output"] is POOLED
    assert output.keys() == list(output) == ["last_hidden_state", "pooler_output"]
    assert output.to_tuple() == (STATE, POOLED) == output[:2] and len(output) == 2
    assert dict(output.items()) == dict(output) == {"last_hidden_state": STATE, "pooler_output": POOLED}
    assert "pooler_output" in output


def test_fields_that_are_none_are_attributes_only():
    output = BaseModelOutputWithPooling(STATE)
    assert output.pooler_output is None
    assert output.keys() == ["last_hidden_state"] and len(output) == 1 and "pooler_output" not in output
    with pytest.raises(IndexError):
        output[1]
    with pytest.raises(KeyError, match="this output has last_hidden_state"):
        output["pooler_output"]
