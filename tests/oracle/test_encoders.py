"""Live comparisons (marker `oracle`): encoders of text and their heads with transformers' eager float32, every state.

transformers' padded positions are left out: what it computes there nobody should use, and here it is 0.
"""

from __future__ import annotations

import numpy as np
import pytest

from transformer_fast import load_model

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-5
SMALL = {"vocab_size": 50, "num_hidden_layers": 3, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40}
BERT = SMALL | {"max_position_embeddings": 32, "pad_token_id": 1}
DISTIL = {"vocab_size": 50, "n_layers": 3, "dim": 24, "n_heads": 3, "hidden_dim": 40, "max_position_embeddings": 32}
MODERN = SMALL | {"num_attention_heads": 2, "local_attention": 6, "max_position_embeddings": 64}
# Only values that the tests may use; the defaults lie outside of a small vocabulary.
MODERN |= {f"{name}_token_id": i for i, name in enumerate(("pad", "eos", "bos", "cls", "sep"))}

# In blocks of one place, since transformers reports the states of blocks that it fills up.
BIG_BIRD = BERT | {"block_size": 1, "num_random_blocks": 1, "sep_token_id": 9}

NOMIC = {name: value for name, value in BERT.items() if name != "pad_token_id"} | {"num_attention_heads": 2}

DEBERTA = {name: value for name, value in BERT.items() if name != "pad_token_id"} | {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
}

# transformers' family -> its config classes and further configs, beside the first.
FAMILIES = {
    "Bert": (
        BERT,
        {"hidden_act": "relu", "num_attention_heads": 1, "tie_word_embeddings": False},
        {"hidden_act": "gelu_new", "hidden_size": 28, "num_attention_heads": 4, "layer_norm_eps": 1e-5},
        {"hidden_act": "silu", "hidden_size": 21, "num_attention_heads": 3, "type_vocab_size": 4, "num_labels": 5},
    ),
    "Roberta": (
        BERT,
        {"pad_token_id": 0, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": False},
        {"hidden_size": 21, "num_attention_heads": 3, "type_vocab_size": 1, "num_labels": 3},
    ),
    "XLMRoberta": (BERT, {"hidden_act": "quick_gelu", "type_vocab_size": 1}),
    "Camembert": (BERT, {"pad_token_id": 0, "tie_word_embeddings": False, "num_labels": 3}),
    "Data2VecText": (BERT, {"pad_token_id": 0, "tie_word_embeddings": False, "num_labels": 3}),
    "Albert": (
        BERT | {"embedding_size": 10},
        {"num_hidden_layers": 5, "num_hidden_groups": 3, "inner_group_num": 2, "tie_word_embeddings": False},
        {"embedding_size": 24, "hidden_act": "relu", "num_hidden_groups": 3, "type_vocab_size": 4, "num_labels": 3},
    ),
    "DebertaV2": (
        DEBERTA,
        {"share_att_key": False, "position_biased_input": True, "type_vocab_size": 2, "tie_word_embeddings": False},
        {"share_att_key": False, "pos_att_type": ["c2p"], "legacy": False, "hidden_act": "gelu_new", "num_labels": 3},
        {"pos_att_type": "p2c", "position_buckets": -1, "max_relative_positions": 5, "pooler_hidden_act": "tanh"},
        {"conv_kernel_size": 3, "conv_act": "gelu", "attention_head_size": 8, "norm_rel_ebd": "none"},
        {"conv_kernel_size": 5, "conv_groups": 2, "num_hidden_layers": 1, "pos_att_type": None},
        {"embedding_size": 10, "position_biased_input": True, "relative_attention": False, "layer_norm_eps": 1e-5},
    ),
    "DistilBert": (
        DISTIL,
        {"activation": "relu", "tie_word_embeddings": False, "sinusoidal_pos_embds": True},
        {"dim": 21, "n_heads": 3, "num_labels": 4},
    ),
    "Electra": (
        BERT | {"embedding_size": 10},
        {"embedding_size": 24, "hidden_act": "relu", "tie_word_embeddings": False},
        {"embedding_size": 40, "hidden_act": "gelu_new", "hidden_size": 21, "type_vocab_size": 4, "num_labels": 3},
    ),
    "Gte": (
        NOMIC,
        {"hidden_act": "silu", "tie_word_embeddings": False, "type_vocab_size": 3},
        {"hidden_size": 20, "type_vocab_size": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 90.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}, "num_labels": 3},
    ),
    "MPNet": (BERT, {"hidden_act": "relu", "tie_word_embeddings": False}, {"hidden_size": 21, "num_labels": 3}),
    "BigBird": (
        BIG_BIRD,
        {"use_bias": False, "rescale_embeddings": True, "num_random_blocks": 2, "tie_word_embeddings": False},
        {
            "attention_type": "original_full",
            "hidden_act": "relu",
            "hidden_size": 21,
            "type_vocab_size": 4,
            "num_labels": 3,
        },
    ),
    "NomicBert": (
        NOMIC,
        {"hidden_act": "gelu", "tie_word_embeddings": False, "head_dim": 10, "type_vocab_size": 3},
        {
            "hidden_size": 20,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0},
            "num_labels": 3,
        },
    ),
    "JinaEmbeddingsV3": (
        NOMIC,
        {"hidden_act": "relu", "tie_word_embeddings": False, "type_vocab_size": 3},
        {
            "hidden_size": 20,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0},
            "num_labels": 3,
        },
    ),
    # transformers computes no windows of fewer than four places, and pads to the widest.
    "Longformer": (
        BERT | {"attention_window": [4, 8, 4], "sep_token_id": 2},
        {"attention_window": 6, "hidden_act": "relu", "tie_word_embeddings": False, "pad_token_id": 0},
        {"attention_window": 64, "hidden_size": 21, "type_vocab_size": 1, "num_labels": 3},
    ),
    "ModernBert": (
        MODERN,
        {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True, "decoder_bias": False},
        {"tie_word_embeddings": False, "classifier_pooling": "mean", "classifier_activation": "silu", "num_labels": 3},
        {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "hidden_activation": "gelu_new"},
        {"hidden_size": 20, "num_attention_heads": 2, "local_attention": 3},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            }
        },
    ),
}
CONFIGS = [(family, i) for family, configs in FAMILIES.items() for i in range(len(configs))]
# transformers has no head of these for the family.
LACKING = [("Gte", "ForQuestionAnswering"), ("NomicBert", "ForQuestionAnswering")]
TASKS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")

# The first place of a row with padding on the left sees padding only, there (an average). Here it is zeros in
# ModernBERT, and attends the tokens in DeBERTa.
SEES_PADDING = ("DebertaV2", "ModernBert")

LENGTH = 19
MASK = np.ones((5, LENGTH), np.int64)
MASK[1, 12:] = 0  # padding on the right
MASK[2, :7] = 0  # on the left
MASK[3, [3, 4, 9]] = 0  # holes
MASK[4, 1:] = 0


def made(torch, folder, family, changes, task, spread=0.2):
    """A random model of transformers, saved in `folder`, and ours of that folder; spread: of the matrices."""
    transformers = pytest.importorskip("transformers")
    if (family, task) in LACKING:
        pytest.skip("transformers has no such class")
    torch.manual_seed(len(str(changes)))
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family][0] | changes)
    config._attn_implementation = "eager"
    theirs = getattr(transformers, family + task)(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter += torch.randn_like(parameter) * (0.02 if name.endswith("bias") or parameter.ndim < 2 else spread)
    theirs.save_pretrained(folder)
    return theirs, load_model(folder)


def inputs_of(config):
    rng = np.random.default_rng(0)
    ids = rng.integers(6, config.vocab_size, MASK.shape)
    padding = config.pad_token_id if config.pad_token_id is not None else 0
    ids[MASK == 0] = padding
    ids[0, 5] = padding  # an id that is padding's own, but attended: RoBERTa does not count it
    inputs = {"input_ids": ids, "attention_mask": MASK}
    if config.model_type == "longformer":
        ids[:, [4, 10, 11]] = config.sep_token_id  # three a row, before and after which heads put global tokens
    if getattr(config, "type_vocab_size", 0):
        inputs["token_type_ids"] = rng.integers(0, config.type_vocab_size, MASK.shape)
    return inputs


def answers(torch, theirs, inputs):
    with torch.no_grad():
        found = theirs(
            **{name: torch.from_numpy(array) for name, array in inputs.items()},
            output_attentions=True,
            output_hidden_states=True,
        )
    return {
        name: [t.numpy() for t in value] if isinstance(value, tuple) else value.numpy()
        for name, value in found.items()
        if name != "cross_attentions"  # an empty tuple
    }


def agree(got, expected, mask):
    """All fields, without places whose mask is 0; there ours are 0."""
    keep = mask.astype(bool)
    assert got.keys() == list(expected)
    for name, value in expected.items():
        assert type(got[name]) is tuple if isinstance(value, list) else True
        pairs = zip(got[name], value, strict=True) if isinstance(value, list) else [(got[name], value)]
        for one, other in pairs:
            if name == "global_attentions":
                # transformers pads places to a multiple of the window, and fills in where a row has fewer such tokens.
                filled = np.ptp(other, axis=2, keepdims=True) == 0
                other = np.where(filled, 0, other)[:, :, : one.shape[2]]
            assert one.shape == other.shape and one.dtype == np.float32, name
            if name == "global_attentions" or (name == "attentions" and one.shape[3] != mask.shape[1]):
                other = other * keep[:, None, :, None]
            elif name == "attentions":
                both = keep[:, None, :, None] & keep[:, None, None, :]
                one, other = np.where(keep[:, None, :, None], one, 0), np.where(both, other, 0)
            elif one.shape[:2] == mask.shape:
                assert not one[~keep].any(), name
                one, other = one[keep], other[keep]
            np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=0, err_msg=name)


@pytest.mark.parametrize("family, which", CONFIGS)
@pytest.mark.parametrize("task", TASKS)
def test_family(torch, isa, tmp_path, family, which, task):
    changes = FAMILIES[family][which] if which else {}
    if task == "ForQuestionAnswering":
        changes = {name: value for name, value in changes.items() if name != "num_labels"}
    theirs, ours = made(torch, tmp_path, family, changes, task)
    assert type(ours).__name__ == family + task
    inputs = inputs_of(theirs.config)
    if family in SEES_PADDING and task == "ForSequenceClassification":
        inputs = {name: array[[0, 1, 3, 4]] for name, array in inputs.items()}
    mask = inputs["attention_mask"]
    agree(ours(**inputs, output_attentions=True, output_hidden_states=True), answers(torch, theirs, inputs), mask)
    plain = ours(**inputs)
    reported = ours(**inputs, output_attentions=True, output_hidden_states=True)
    assert plain.attentions is plain.hidden_states is None
    assert all(np.array_equal(plain[name], reported[name]) for name in plain.keys()), "the same bits"


# Heads that one family alone has.
OWN_HEADS = [
    ("Bert", "ForPreTraining", {}),
    ("Bert", "ForNextSentencePrediction", {}),
    ("BigBird", "ForPreTraining", {}),
    ("Albert", "ForPreTraining", {"num_labels": 3}),
    ("Electra", "ForPreTraining", {}),
    ("Electra", "ForPreTraining", {"embedding_size": 24, "hidden_act": "tanh"}),
]


@pytest.mark.parametrize("family, task, changes", OWN_HEADS, ids=str)
def test_heads_of_one_family(torch, isa, tmp_path, family, task, changes):
    transformers = pytest.importorskip("transformers")
    theirs, ours = made(torch, tmp_path / "theirs", family, changes, task)
    assert type(ours).__name__ == family + task
    inputs = inputs_of(theirs.config)
    agree(ours(**inputs, output_attentions=True, output_hidden_states=True), answers(torch, theirs, inputs), MASK)
    ours.save_pretrained(tmp_path / "ours")
    _, info = getattr(transformers, family + task).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info


# Families with a head for choices, and options that this head alone reads.
WITH_CHOICES = (
    "Bert",
    "Roberta",
    "XLMRoberta",
    "Camembert",
    "Data2VecText",
    "DistilBert",
    "Electra",
    "MPNet",
    "BigBird",
    "Albert",
    "Longformer",
    "DebertaV2",
)
CHOICES = [(family, {}) for family in WITH_CHOICES]
CHOICES += [("Electra", {"summary_activation": name}) for name in ("tanh", "")]


@pytest.mark.parametrize("family, changes", CHOICES, ids=str)
def test_multiple_choice(torch, tmp_path, family, changes):
    transformers = pytest.importorskip("transformers")
    theirs, ours = made(torch, tmp_path / "theirs", family, changes, "ForMultipleChoice")
    inputs = inputs_of(theirs.config)
    rows = [0, 1, 3, 4] if family in SEES_PADDING else [0, 1, 2, 3]
    inputs = {name: array[rows].reshape(2, 2, -1) for name, array in inputs.items()}
    found = ours(**inputs, output_attentions=True, output_hidden_states=True)
    agree(found, answers(torch, theirs, inputs), inputs["attention_mask"].reshape(4, -1))
    ours.save_pretrained(tmp_path / "ours")
    made_again = getattr(transformers, f"{family}ForMultipleChoice")
    _, info = made_again.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_and_longest_texts(torch, tmp_path, family):
    theirs, ours = made(torch, tmp_path, family, {}, "Model")
    rng = np.random.default_rng(1)
    inputs = {"input_ids": rng.integers(6, 50, (2, ours.max_length))}
    agree(
        ours(**inputs, output_attentions=True, output_hidden_states=True),
        answers(torch, theirs, inputs),
        np.ones((2, ours.max_length)),
    )
    inputs = {"input_ids": rng.integers(6, 50, (2, 9)), "position_ids": rng.integers(0, 32, (2, 9))}
    agree(
        ours(**inputs, output_attentions=True, output_hidden_states=True),
        answers(torch, theirs, inputs),
        np.ones((2, 9)),
    )


@pytest.mark.parametrize("family, which", CONFIGS)
@pytest.mark.parametrize("task", TASKS)
def test_transformers_loads_what_we_save(torch, tmp_path, family, which, task):
    """Every tensor under transformers' name: nothing missing, nothing left over, the same numbers."""
    transformers = pytest.importorskip("transformers")
    changes = FAMILIES[family][which] if which else {}
    if task == "ForQuestionAnswering":
        changes = {name: value for name, value in changes.items() if name != "num_labels"}
    theirs, ours = made(torch, tmp_path / "theirs", family, changes, task)
    ours.save_pretrained(tmp_path / "ours")
    options = {"output_loading_info": True, "attn_implementation": "eager"}
    again, info = getattr(transformers, family + task).from_pretrained(tmp_path / "ours", **options)
    assert not any(info.values()), info
    for (name, one), (other_name, other) in zip(theirs.named_parameters(), again.named_parameters(), strict=True):
        # By untied models, which have one behind it.
        unused = name in ("cls.predictions.bias", "lm_head.bias", "predictions.bias")
        same = np.array_equal(one.detach().numpy(), other.detach().numpy())
        assert name == other_name and (same or (unused and not ours.config.tie_word_embeddings)), name
    fresh = type(ours)(ours.config)
    fresh.save_pretrained(tmp_path / "fresh")
    _, info = getattr(transformers, family + task).from_pretrained(tmp_path / "fresh", **options)
    assert not any(info.values()), info


@pytest.mark.parametrize("which", ["none", "some", "all"])
def test_global_tokens(torch, isa, tmp_path, which):
    """Longformer: rows with different numbers of them, next to each other and apart, padding among them."""
    theirs, ours = made(torch, tmp_path, "Longformer", {}, "Model")
    inputs = inputs_of(theirs.config)
    chosen = np.full(MASK.shape, int(which == "all"))
    if which == "some":
        chosen[0, [0, 3, 4, 18]], chosen[2, [2, 9]], chosen[3, 4:9], chosen[4, 0] = 1, 1, 1, 1
    inputs["global_attention_mask"] = chosen
    found = ours(**inputs, output_attentions=True, output_hidden_states=True)
    agree(found, answers(torch, theirs, inputs), MASK)


@pytest.mark.parametrize("family", ["DebertaV2", "Roberta", "MPNet", "ModernBert", "Longformer"])
def test_long_texts(torch, tmp_path, family):
    """Beyond the farthest bucket of MPNet (128), the windows of ModernBERT and Longformer (64 to each side), and
    DeBERTa's block of rows (256)."""
    changes = {"max_position_embeddings": 310, "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    changes |= {"ModernBert": {"local_attention": 128}, "Longformer": {"attention_window": 128}}.get(family, {})
    # With the spread of the narrower models, float32 itself is 1e-5 away from float64, here and there.
    theirs, ours = made(torch, tmp_path, family, changes, "Model", spread=0.1)
    mask = np.ones((3, 300), np.int64)
    mask[1, :70], mask[2, 40:90] = 0, 0
    ids = np.random.default_rng(2).integers(6, 50, mask.shape)
    inputs = {"input_ids": np.where(mask, ids, theirs.config.pad_token_id), "attention_mask": mask}
    mask = inputs["attention_mask"]
    agree(ours(**inputs, output_attentions=True, output_hidden_states=True), answers(torch, theirs, inputs), mask)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_that_are_not_attended(torch, tmp_path, family):
    """ColBERT's expanded queries: the last tokens of a row see it, and no token sees them."""
    # transformers gives a token of which no other is in its window an average of all.
    changes = {"local_attention": 2 * LENGTH} if family == "ModernBert" else {}
    theirs, ours = made(torch, tmp_path, family, changes, "Model")
    mask = np.ones((3, LENGTH), np.int64)
    mask[1, 12:] = mask[2, 1:] = 0
    ids = np.random.default_rng(0).integers(6, ours.config.vocab_size, mask.shape)
    starts, attended = np.arange(4) * LENGTH, mask.astype(bool).reshape(-1)
    if family == "DebertaV2":  # in which such a token is nothing but its place
        with pytest.raises(ValueError, match="DebertaV2Model runs no token unseen"):
            ours.encode_packed(ids.reshape(-1), starts, attended=attended)
        return
    expected = theirs(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state.detach()
    found = ours.encode_packed(ids.reshape(-1), starts, attended=attended)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=TOLERANCE)
    row = ours.encode_packed(ids[1], starts[:2], attended=attended[LENGTH : 2 * LENGTH])
    assert np.array_equal(row, found[LENGTH : 2 * LENGTH])
