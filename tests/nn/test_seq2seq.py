"""nn/seq2seq: what caches generate is what recomputing everything gives; torch's tokens (golden); attention weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import assert_same_bits

from transformer_fast import functional, nn, reference
from transformer_fast.generation import generate, stream
from transformer_fast.nn.seq2seq.source import Sources, Tokens

GOLDEN = Path(__file__).parent.parent / "golden" / "layers.npz"
WORDS, START, END, PAD = 40, 1, 2, 0


def transformer(batch_first, norm_first, learned=False):
    nn.manual_seed(3)
    positions = nn.LearnedPositionalEmbedding(30, 16) if learned else nn.SinusoidalPositionalEncoding(16)
    body = nn.Transformer(16, 2, 2, 2, 32, batch_first=batch_first, norm_first=norm_first)
    embeddings = nn.Embedding(WORDS, 16), nn.Embedding(WORDS, 16)
    return nn.TransformerGenerator(body, *embeddings, nn.Linear(16, WORDS), positions, embedding_scale=4.0)


def recurrent(cell, bidirectional, num_layers=2):
    nn.manual_seed(4)
    model = nn.RecurrentSeq2Seq(WORDS, WORDS, 8, 16, num_layers, cell, bidirectional, attention_size=12)
    model.output_projection.weight = model.output_projection.weight * 6  # so that tokens vary
    return model


MODELS = {
    "transformer": lambda: transformer(True, False),
    "transformer-pre": lambda: transformer(False, True, learned=True),
    "gru": lambda: recurrent("gru", True),
    "lstm": lambda: recurrent("lstm", False),
}
SOURCE = np.random.default_rng(0).integers(3, WORDS, (4, 7))
MASK = np.array([[1] * 7, [0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1, 1]])  # padding anywhere


class Recomputing:
    """The same model without a state: each step runs everything that there is so far."""

    is_encoder_decoder = True

    class State:
        def __init__(self, *arrays):
            self.arrays = arrays

        def reorder(self, index):
            self.arrays = tuple(array[index] for array in self.arrays)

    def __init__(self, model):
        self.model, self.config = model, model.config

    def start(self, input_ids, attention_mask=None, *, decoder_input_ids, capacity):
        state = self.State(input_ids, attention_mask, decoder_input_ids)
        return self._logits(state), state

    def step(self, ids, state):
        source, mask, target = state.arrays
        state.arrays = source, mask, np.concatenate([target, ids[:, None]], axis=1)
        return self._logits(state)

    def _logits(self, state):
        source, mask, target = state.arrays
        return self.model(source, target, mask)[:, -1]


WAYS = {
    "greedy": {},
    "prompt": {"decoder_input_ids": np.array([[START, 5, 6]] * 4)},
    "beams": {"num_beams": 3},
    "more": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
    "sampling": {"do_sample": True, "seed": 1, "num_return_sequences": 3},
}


@pytest.mark.thread_unsafe(reason="the last line holds for the weights that one thread draws after manual_seed()")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_recomputing_everything(name, way, isa):
    model = MODELS[name]()
    options = {"eos_token_id": END, "pad_token_id": PAD, "max_new_tokens": 12}
    options |= {"decoder_start_token_id": START} | WAYS[way]
    got = generate(model, SOURCE, MASK, **options)
    np.testing.assert_array_equal(got, generate(Recomputing(model), SOURCE, MASK, **options))
    assert len(np.unique(got)) > 3


@pytest.mark.parametrize("name", MODELS)
def test_step_by_step_is_all_at_once(name, isa, threads):
    model, target = MODELS[name](), np.random.default_rng(1).integers(3, WORDS, (4, 6))
    expected = model(SOURCE, target, MASK)
    logits, state = model.start(SOURCE, MASK, decoder_input_ids=target[:, :2], capacity=3)
    np.testing.assert_allclose(logits, expected[:, 1], atol=2e-6)
    for i in range(2, 6):
        np.testing.assert_allclose(model.step(target[:, i], state), expected[:, i], atol=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_reorder(name):
    """More rows, fewer, mixed, and rows of one source that do not stand side by side."""
    model, target = MODELS[name](), np.random.default_rng(1).integers(3, WORDS, (4, 8))
    _, state = model.start(SOURCE, MASK, decoder_input_ids=target[:, :1], capacity=4)
    rows = np.arange(4)
    past = target[:, :1]
    for i, index in enumerate(([0, 0, 1, 1, 2, 2, 3, 3], [1, 0, 3, 2, 5, 5, 6, 7], [7, 0, 3], [2, 1, 1, 0], [3, 3])):
        state.reorder(np.array(index))
        rows, past = rows[index], past[index]
        ids = np.resize(target[:, i + 1], len(index))
        past = np.concatenate([past, ids[:, None]], axis=1)
        expected = model(SOURCE[rows], past, MASK[rows])[:, -1]
        np.testing.assert_allclose(model.step(ids, state), expected, atol=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name, isa):
    model, target = MODELS[name](), np.random.default_rng(1).integers(3, WORDS, (4, 5))
    together = model(SOURCE, target, MASK)
    for b in range(4):
        alone = model(SOURCE[b : b + 1, MASK[b] > 0], target[b : b + 1])
        np.testing.assert_allclose(together[b : b + 1], alone, atol=2e-6)


def test_golden_tokens_of_torch(isa):
    """Made by golden/make_layers.py: torch.nn.Transformer, everything computed again at each step."""
    body = nn.Transformer(8, 2, 1, 2, 12, batch_first=True)
    embeddings = nn.Embedding(20, 8), nn.Embedding(20, 8)
    model = nn.TransformerGenerator(
        body, *embeddings, nn.Linear(8, 20), nn.SinusoidalPositionalEncoding(8), embedding_scale=8**0.5
    )
    with np.load(GOLDEN) as golden:
        model.load_state_dict({n.removeprefix("greedy."): golden[n] for n in golden.files if n.startswith("greedy.")})
        target, mask = golden["target"], ~golden["source_padding"]
        new = target.shape[1] - 1
        got = generate(model, golden["source"], mask, decoder_start_token_id=1, max_new_tokens=new, eos_token_id=None)
        np.testing.assert_array_equal(got, target)
        logits = model(golden["source"], target[:, :-1], mask)
        np.testing.assert_allclose(logits, golden["logits"], atol=1e-5)


def plain_recurrent(model, source, target):
    """One row of RecurrentSeq2Seq with one layer, in float64, from its formula: (logits (T, V), weights (T, S))."""
    p = {name: array.astype(np.float64) for name, array in model.state_dict().items()}
    op = getattr(reference, model.cell)

    def run(part, x, **options):
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        arrays = [p[f"{part}.{name}"] for name in names]
        if options.get("direction") == "both":
            arrays = [np.concatenate([a, p[f"{part}.{n}_reverse"]]) for a, n in zip(arrays, names, strict=True)]
        return op(x, *arrays, **options)

    def linear(x, part):
        return x @ p[f"{part}.weight"].T + p.get(f"{part}.bias", 0)

    both = "both" if model.encoder.bidirectional else "forward"
    states, *last = run("encoder", p["source_embedding.weight"][source][:, None], direction=both)
    s = [np.tanh(linear(last[0].reshape(-1), "bridge"))]
    if model.cell == "lstm":
        s.append(linear(last[1].reshape(-1), "cell_bridge"))
    logits, weights = [], []
    for word in p["target_embedding.weight"][target]:
        scores = np.tanh(linear(s[0], "attention.query_proj") + linear(states[:, 0], "attention.key_proj"))
        weights.append(reference.softmax(scores @ p["attention.v"]))
        context = weights[-1] @ states[:, 0]
        start = dict(zip(("h_0", "c_0"), (a[None, None] for a in s), strict=False))
        y, *s = run("decoder", np.concatenate([word, context])[None, None], **start)
        s = [a[0, 0] for a in s]
        logits.append(linear(np.concatenate([y[0, 0], context, word]), "output_projection"))
    return np.array(logits), np.array(weights)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_against_its_formula(cell, bidirectional, isa):
    model, target = recurrent(cell, bidirectional, num_layers=1), np.random.default_rng(1).integers(3, WORDS, (4, 5))
    logits, weights = model(SOURCE, target, MASK, output_attentions=True)
    assert_same_bits(model(SOURCE, target, MASK), logits)
    assert weights.shape == (4, 5, 7)
    for b in range(4):
        expected = plain_recurrent(model, SOURCE[b, MASK[b] > 0], target[b])
        np.testing.assert_allclose(logits[b], expected[0], atol=1e-5)
        np.testing.assert_allclose(weights[b][:, MASK[b] > 0], expected[1], atol=2e-6)
        assert (weights[b][:, MASK[b] == 0] == 0).all()


def test_stream_gives_the_same_tokens():
    model = MODELS["gru"]()
    options = {"decoder_start_token_id": START, "max_new_tokens": 5, "eos_token_id": END, "pad_token_id": PAD}
    ids = np.stack(list(stream(model, SOURCE, MASK, **options)), axis=1)
    np.testing.assert_array_equal(ids, generate(model, SOURCE, MASK, **options)[:, 1:])


def test_a_source_of_padding_alone_gives_numbers():
    mask = MASK.copy()
    mask[2] = 0
    for name, make in MODELS.items():
        logits = make()(SOURCE, np.full((4, 3), 5), mask)
        assert np.isfinite(logits).all(), name


def test_learned_positions_end():
    model = transformer(True, False, learned=True)
    ids = generate(model, SOURCE, MASK, decoder_start_token_id=START, max_length=30)
    assert ids.shape == (4, 30)
    with pytest.raises(IndexError, match="positions"):
        model(SOURCE, np.full((4, 31), 5))


def test_tokens():
    tokens = Tokens(SOURCE, MASK)
    np.testing.assert_array_equal(tokens.lengths, [7, 4, 4, 5])
    np.testing.assert_array_equal(tokens.ids[1, :4], SOURCE[1, 3:])
    np.testing.assert_array_equal(tokens.ids[3, :5], SOURCE[3][MASK[3] > 0])
    np.testing.assert_array_equal(tokens.padding.sum(axis=1), [0, 3, 3, 2])
    spread = tokens.in_place(np.broadcast_to(tokens.ids[:, None].astype(np.float32), (4, 2, 7)))
    np.testing.assert_array_equal(spread[:, 1], SOURCE * MASK)


def test_beams_of_a_source_share_it():
    array = np.arange(3.0)
    sources = Sources([array])
    sources.reorder(np.repeat(np.arange(3), 2))
    sources.reorder(np.array([1, 0, 3, 3, 4, 5]))
    assert sources.arrays[0] is array
    assert sources.grouped(np.zeros((6, 4, 5))).shape == (3, 8, 5)
    sources.reorder(np.array([5, 0]))
    np.testing.assert_array_equal(sources.arrays[0], [2, 0])


def test_bad_input():
    model = transformer(True, False)
    target = np.full((4, 2), 5)
    for family in (model, recurrent("gru", True)):
        with pytest.raises(TypeError, match="input_ids"):
            family(SOURCE.astype(float), target)
        with pytest.raises(ValueError, match="input_ids"):
            family(SOURCE[0], target)
        with pytest.raises(ValueError, match="attention_mask"):
            family(SOURCE, target, MASK[:, :5])
        for name, given in (("input_ids", ([[5, 6], [5]], target)), ("decoder_input_ids", (SOURCE, [[5, 6], [5]]))):
            with pytest.raises(ValueError, match=f"^{name} has rows of different lengths"):
                family(*given)
        with pytest.raises(ValueError, match="decoder_input_ids"):
            family(SOURCE, target[:3])
        with pytest.raises(ValueError, match="decoder_input_ids"):
            family.start(SOURCE, decoder_input_ids=target[:, :0], capacity=5)
        with pytest.raises(IndexError):
            family(SOURCE + WORDS, target)
        with pytest.raises(ValueError, match="decoder_start_token_id"):
            generate(family, SOURCE)
    with pytest.raises(ValueError, match="cell"):
        nn.RecurrentSeq2Seq(WORDS, WORDS, 8, 16, cell="rnn")

    class Other(nn.TransformerDecoderLayer):
        pass

    decoders = [nn.Linear(16, 16), nn.TransformerDecoder(Other(16, 2), 1)]
    for decoder in decoders:
        body = nn.Transformer(16, 2, 1, custom_decoder=decoder)
        with pytest.raises(TypeError, match="needed: TransformerDecoder"):
            nn.TransformerGenerator(body, nn.Embedding(5, 16), nn.Embedding(5, 16), nn.Linear(16, 5))


def test_another_isa():
    model = transformer(True, False)
    before = functional.get_isa()
    try:
        for isa in functional.available_isas():
            functional.set_isa(isa)
            generate(model, SOURCE, MASK, decoder_start_token_id=START, max_new_tokens=2)
    finally:
        functional.set_isa(before)
