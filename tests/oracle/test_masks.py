"""Live comparisons (`oracle`) of masks with torch's BlockMask, which `blocks` reads as it is, and with LongT5."""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast.masks import blocks, causal, documents, prefix, window

pytestmark = pytest.mark.oracle

IDS = np.sort(np.random.default_rng(0).integers(0, 5, 700))

# The function of batch entry, head, query and key that FlexAttention takes (ids: IDS as a tensor), and our mask.
CASES = {
    "causal": (lambda b, h, i, j, ids: j <= i, causal()),
    "window": (lambda b, h, i, j, ids: (i - j <= 200) & (j <= i), window(200, 0)),
    "prefix": (lambda b, h, i, j, ids: (j <= i) | (j < 150), causal() | prefix(150)),
    "documents": (lambda b, h, i, j, ids: ids[i] == ids[j], documents(IDS)),
    "heads": (lambda b, h, i, j, ids: i - j <= 40 * h + 300 * b, window([[0, 40], [300, 340]], -1)),
}


@pytest.mark.parametrize("size", [128, (64, 32)])
@pytest.mark.parametrize("case", CASES)
def test_blocks_reads_a_block_mask(torch, case, size):
    from torch.nn.attention.flex_attention import create_block_mask, create_mask

    function, mask = CASES[case]
    ids = torch.from_numpy(IDS)
    arguments = (lambda b, h, i, j: function(b, h, i, j, ids), 2, 2, 700, 700, "cpu")
    dense = create_mask(*arguments).numpy()
    np.testing.assert_array_equal(np.broadcast_to(mask.dense(700, 700), dense.shape), dense)
    made = create_block_mask(*arguments, BLOCK_SIZE=size)
    partly, full = (made.kv_num_blocks, made.kv_indices), (made.full_kv_num_blocks, made.full_kv_indices)
    found = blocks(partly, made.BLOCK_SIZE, full=full, mask=mask)
    np.testing.assert_array_equal(found.dense(700, 700), dense)
    hidden = dense & ~blocks(partly, made.BLOCK_SIZE).dense(700, 700)
    assert hidden.any() == full[0].any().item(), "what is visible throughout is in `full` alone"


@pytest.mark.parametrize("radius", [5, 8])
def test_window_is_the_local_attention_of_long_t5(torch, radius):
    """transformers keeps the mask of a block of radius + 1 queries over that block and its neighbours."""
    from transformers.models.longt5.modeling_longt5 import _get_local_attention_mask

    size = radius + 1
    L = 6 * size
    local = _get_local_attention_mask(torch.ones(1, L), size, "cpu")[0, 0].numpy()  # (6, size, 3 size)
    wide = np.pad(window(radius, radius).dense(L, L)[0, 0], ((0, 0), (size, size)))
    for block in range(6):
        ours = wide[block * size : (block + 1) * size, block * size : (block + 3) * size]
        np.testing.assert_array_equal(local[block], ours)
