"""Live comparison (marker `oracle`) of BigBird's block-sparse attention, where a text does not fill its last block.

transformers fills it up and reports states and weights of the longer text: what is beyond the text is left out here.
test_encoders.py compares the heads and options, in blocks of one place.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest

from transformer_fast import load_model
from transformer_fast.models.big_bird import BigBirdModel

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-5
SIZES = {"vocab_size": 50, "num_hidden_layers": 3, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40}
REPORT = {"output_attentions": True, "output_hidden_states": True}


def made(torch, folder, task="Model", **changes):
    """A random model of transformers, saved in `folder`, and ours of that folder."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.BigBirdConfig(**SIZES | {"max_position_embeddings": 256, "sep_token_id": 9} | changes)
    config._attn_implementation = "eager"
    theirs = getattr(transformers, f"BigBird{task}")(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += torch.randn_like(parameter) * (0.02 if parameter.ndim < 2 else 0.2)
    theirs.save_pretrained(folder)
    return theirs, load_model(folder)


def answer(torch, theirs, ids, mask=None, **options):
    theirs = copy.deepcopy(theirs)  # after a text that is too short for blocks it would stay with full attention
    inputs = {"input_ids": torch.from_numpy(ids)}
    if mask is not None:
        inputs["attention_mask"] = torch.from_numpy(mask)
    with torch.no_grad():
        return theirs(**inputs, **options)


def masks(B, L, block):
    """All tokens; padding on the right, over several blocks, and on the left; holes; blocks of padding alone."""
    mask = np.ones((B, L), np.int64)
    mask[1, L - block - 1 :] = mask[2, 3:] = mask[3, : block + 1] = 0
    mask[4, [0, 4, block]] = mask[5, 2 * block : 4 * block] = 0
    return mask


# block_size, num_random_blocks, and lengths: the longest that sees all, the shortest that does not, and longer ones.
SHAPES = [(2, 1, (14, 15, 16, 31)), (3, 2, (27, 28, 40)), (5, 1, (35, 36, 52)), (16, 1, (112, 113, 200))]


@pytest.mark.parametrize("block, random, lengths", SHAPES)
def test_padded_calls(torch, isa, tmp_path, block, random, lengths):
    """A padded call has transformers' results for these very arguments: L says which block is the last."""
    theirs, ours = made(torch, tmp_path, block_size=block, num_random_blocks=random)
    rng = np.random.default_rng(0)
    for L in lengths:
        mask = masks(6, L, block)
        ids, keep = rng.integers(1, 50, mask.shape), mask.astype(bool)
        expected, found = answer(torch, theirs, ids, mask, **REPORT), ours(ids, mask, **REPORT)
        both = keep[:, None, :, None] & keep[:, None, None, :]
        np.testing.assert_allclose(found.pooler_output, expected.pooler_output, atol=TOLERANCE)
        for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
            np.testing.assert_allclose(one[keep], other.numpy()[:, :L][keep], atol=TOLERANCE)
        # Of a call that is too short for blocks transformers reports none.
        assert len(expected.attentions) == (3 if L > (5 + 2 * random) * block else 0)
        for one, other in zip(found.attentions, expected.attentions, strict=False):
            np.testing.assert_allclose(one * both, other.numpy()[..., :L, :L] * both, atol=TOLERANCE)


def test_texts_of_their_own_length(torch, isa, tmp_path):
    """Packed texts have the results that transformers gives each of them alone, sparse or not."""
    theirs, ours = made(torch, tmp_path, block_size=4, num_random_blocks=1)
    rng = np.random.default_rng(0)
    texts = [rng.integers(1, 50, n) for n in (90, 28, 29, 3, 61, 64)]
    cu_seqlens = np.cumsum([0, *map(len, texts)])
    packed = ours.encode_packed(np.concatenate(texts), cu_seqlens)
    for text, own in zip(texts, np.split(packed, cu_seqlens[1:-1]), strict=True):
        expected = answer(torch, theirs, text[None]).last_hidden_state[0]
        np.testing.assert_allclose(own, expected, atol=TOLERANCE)


@pytest.mark.parametrize("L", [1024, 1090, 3072])
def test_the_defaults_of_blocks(torch, tmp_path, L):
    """64 places and 3 random blocks; 1,024 and 3,072 have a plan of their own in transformers, which draws nothing."""
    theirs, ours = made(torch, tmp_path, num_hidden_layers=2, max_position_embeddings=3072)
    ids = np.random.default_rng(0).integers(1, 50, (1, L))
    expected = answer(torch, theirs, ids, output_hidden_states=True)
    for one, other in zip(ours(ids, output_hidden_states=True).hidden_states, expected.hidden_states, strict=True):
        np.testing.assert_allclose(one, other.numpy()[:, :L], atol=TOLERANCE)


@pytest.mark.parametrize("lengths", [(12, 12), (40, 17)], ids=str)
def test_answers_without_token_types(torch, tmp_path, lengths):
    """The question ends with the first separator; a row without one has a question of one token."""
    theirs, ours = made(torch, tmp_path, "ForQuestionAnswering", block_size=2, num_random_blocks=1)
    ids = np.random.default_rng(0).integers(10, 50, (3, lengths[0]))
    ids[0, [4, 8]], ids[1, 0] = 9, 9
    mask = (np.arange(lengths[0]) < np.array([lengths])[0, [0, 1, 1], None]).astype(np.int64)
    expected, found = answer(torch, theirs, ids, mask), ours(ids, mask)
    for name in ("start_logits", "end_logits"):
        one, other = found[name], expected[name].numpy()
        away = other < -9e5
        assert np.array_equal((one < -9e5), away & (mask == 1))
        np.testing.assert_allclose(one[(mask == 1) & ~away], other[(mask == 1) & ~away], atol=TOLERANCE)
        np.testing.assert_allclose(one[(mask == 1) & away], other[(mask == 1) & away], rtol=1e-6)


def test_no_random_blocks(torch, tmp_path):
    """transformers makes such a model, and cannot run it on long texts; here the first block counts once."""
    theirs, ours = made(torch, tmp_path, block_size=2, num_random_blocks=0)
    ids = np.random.default_rng(0).integers(1, 50, (1, 24))
    np.testing.assert_allclose(
        ours(ids[:, :10]).last_hidden_state, answer(torch, theirs, ids[:, :10]).last_hidden_state, atol=TOLERANCE
    )
    with pytest.raises(RuntimeError):
        answer(torch, theirs, ids)
    assert type(ours) is BigBirdModel and np.isfinite(ours(ids).last_hidden_state).all()
