"""Live comparison (marker `oracle`) of config.json, field by field: ours follows transformers, or refuses by name.

A tiny random model of each family is saved by transformers. Then each field of its config, and each that folders are
known to hold, is set to another value, one at a time, and both libraries load the folder. Where transformers cannot
make the model of the file's tensors, ours may refuse with any text; else results agree, or a CheckpointError names the
field. `pytest -rP` shows how many settings were read, without effect and refused, family by family.
"""

from __future__ import annotations

import functools
import json
from collections import Counter

import numpy as np
import pytest

from transformer_fast import load_model, models
from transformer_fast.files.errors import CheckpointError

pytestmark = pytest.mark.oracle

TOLERANCE = 1e-5
V = 40
SIZES = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20}
BERT = SIZES | {"max_position_embeddings": 24, "initializer_range": 0.3, "pad_token_id": 1}
IDS = {name: i for i, name in enumerate(("pad_token_id", "bos_token_id", "eos_token_id"), 1)}
GATED = BERT | IDS | {"num_key_value_heads": 2, "head_dim": 4}
GPT2 = {"vocab_size": V, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 4, "initializer_range": 0.3} | IDS
BART = {
    "vocab_size": V,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 24,
    "init_std": 0.3,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 3,
} | IDS
T5 = {"vocab_size": V, "d_model": 16, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 4, "initializer_factor": 0.6}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "decoder_start_token_id": 0}
VIT = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
VIT |= {"intermediate_size": 20, "initializer_range": 0.3}
WHISPER = {name: value for name, value in BART.items() if name != "max_position_embeddings"}
WHISPER |= {"num_mel_bins": 6, "max_source_positions": 8, "max_target_positions": 20, "begin_suppress_tokens": [2]}
TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20}
TEXT = TOWER | {"vocab_size": V, "max_position_embeddings": 24, "projection_dim": 8} | IDS
SIGHT = TOWER | {"image_size": 8, "patch_size": 4, "projection_dim": 8}
CLIP = {"text_config": TEXT, "vision_config": SIGHT, "projection_dim": 8}
WINDOWS = {"sliding_window": 5}
MODERN = SIZES | {"local_attention": 6, "max_position_embeddings": 24, "initializer_range": 0.3} | IDS
MODERN |= {"cls_token_id": 2, "sep_token_id": 3}

DEBERTA = BERT | {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"}
DEBERTA |= {"share_att_key": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16, "conv_kernel_size": 3}

# transformers' prefix of the family's classes -> its config and the models that are compared.
FAMILIES = {
    "Albert": (BERT | {"embedding_size": 8, "num_hidden_groups": 2}, ("ForPreTraining", "ForSequenceClassification")),
    "Bart": (BART, ("ForConditionalGeneration",)),
    "Bert": (BERT, ("ForMaskedLM", "ForSequenceClassification", "Model")),
    "CLIP": (CLIP, ("Model",)),
    "CLIPText": (TEXT, ("ModelWithProjection",)),
    "CLIPVision": (SIGHT, ("ModelWithProjection",)),
    "BigBird": (
        BERT | {"block_size": 1, "num_random_blocks": 1, "sep_token_id": 5},
        ("ForMaskedLM", "ForQuestionAnswering", "ForSequenceClassification"),
    ),
    "Camembert": (BERT, ("ForMaskedLM",)),
    "Data2VecText": (BERT, ("ForMaskedLM",)),
    "DebertaV2": (DEBERTA, ("ForMaskedLM", "ForSequenceClassification")),
    "DeiT": (VIT, ("ForImageClassificationWithTeacher", "Model")),
    "DistilBert": (
        {"vocab_size": V, "n_layers": 2, "dim": 16, "n_heads": 4, "hidden_dim": 20, "max_position_embeddings": 24}
        | {"initializer_range": 0.3},
        ("ForMaskedLM", "ForSequenceClassification"),
    ),
    "Electra": (BERT | {"embedding_size": 8}, ("ForPreTraining", "ForMaskedLM", "ForMultipleChoice")),
    "GPT2": (GPT2, ("LMHeadModel", "ForSequenceClassification")),
    "GPTJ": (GPT2 | {"rotary_dim": 2}, ("ForCausalLM",)),
    "GPTNeoX": (BERT | IDS | {"hidden_size": 32}, ("ForCausalLM", "ForSequenceClassification")),
    "Gemma": (GATED, ("ForCausalLM", "ForSequenceClassification")),
    "Gemma2": (GATED | WINDOWS | {"query_pre_attn_scalar": 4}, ("ForCausalLM",)),
    "GptOss": (GATED | WINDOWS | {"num_local_experts": 4, "num_experts_per_tok": 2}, ("ForCausalLM",)),
    "Granite": (GATED | {"attention_multiplier": 0.4}, ("ForCausalLM",)),
    "Gemma3Text": (GATED | WINDOWS | {"sliding_window_pattern": 2, "query_pre_attn_scalar": 4}, ("ForCausalLM",)),
    "Gte": (BERT | {"type_vocab_size": 2}, ("ForMaskedLM", "ForSequenceClassification")),
    "LED": (
        {name: value for name, value in BART.items() if name != "max_position_embeddings"}
        | {"max_encoder_position_embeddings": 24, "max_decoder_position_embeddings": 20, "attention_window": [4, 8]},
        ("ForConditionalGeneration",),
    ),
    "Llama": (GATED, ("ForCausalLM", "ForSequenceClassification")),
    "LongT5": (
        T5 | {"local_radius": 3, "global_block_size": 2, "encoder_attention_type": "transient-global"},
        ("ForConditionalGeneration", "EncoderModel"),
    ),
    # Windows that divide the length of the inputs: transformers pads what it reports of global tokens to a multiple.
    "Longformer": (BERT | {"attention_window": [4, 12]}, ("ForMaskedLM", "ForSequenceClassification")),
    "MPNet": (BERT, ("ForMaskedLM", "ForSequenceClassification")),
    "MT5": (T5, ("ForConditionalGeneration", "EncoderModel")),
    "Marian": (BART, ("MTModel",)),
    "Mistral": (GATED | WINDOWS, ("ForCausalLM",)),
    "Mixtral": (GATED | {"num_local_experts": 4}, ("ForCausalLM",)),
    "ModernBert": (MODERN, ("ForMaskedLM", "ForSequenceClassification")),
    "JinaEmbeddingsV3": (BERT, ("ForMaskedLM", "ForSequenceClassification")),
    "NomicBert": (BERT, ("ForMaskedLM", "ForSequenceClassification")),
    "Olmo2": (GATED, ("ForCausalLM",)),
    "Phi": ({n: v for n, v in GATED.items() if n != "head_dim"} | {"hidden_size": 32}, ("ForCausalLM",)),
    "Phi3": (GATED | {"hidden_size": 32, "head_dim": 8, "partial_rotary_factor": 0.5}, ("ForCausalLM",)),
    "Qwen2": ({n: v for n, v in GATED.items() if n != "head_dim"} | WINDOWS, ("ForCausalLM",)),
    "Qwen3": (GATED | WINDOWS | {"max_window_layers": 1}, ("ForCausalLM",)),
    "Qwen3Moe": (GATED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}, ("ForCausalLM",)),
    "Roberta": (BERT, ("ForMaskedLM", "ForSequenceClassification")),
    "SmolLM3": (GATED | {"no_rope_layer_interval": 2}, ("ForCausalLM",)),
    "Starcoder2": (GATED | WINDOWS, ("ForCausalLM",)),
    "T5": (T5, ("ForConditionalGeneration", "EncoderModel")),
    "ViT": (VIT, ("ForImageClassification", "Model")),
    "Whisper": (WHISPER, ("ForConditionalGeneration",)),
    "XLMRoberta": (BERT, ("ForTokenClassification",)),
}
CLASSES = {"Gemma3Text": "Gemma3", "Marian": "Marian"}  # of the models, where it is not that of the config
ROPE = (
    "GPTNeoX",
    "Gemma",
    "Gemma2",
    "Gemma3Text",
    "Granite",
    "Llama",
    "Mistral",
    "ModernBert",
    "Olmo2",
    "Phi",
    "Phi3",
    "Qwen2",
)
ROPE += ("GptOss", "Gte", "JinaEmbeddingsV3", "Mixtral", "NomicBert", "Qwen3", "Qwen3Moe", "SmolLM3", "Starcoder2")

GONE = object()  # a field that is taken out
ACTIVATIONS = ("relu", "silu", "gelu_new", "mish")
NAMED = {
    "activation": ACTIVATIONS,
    "activation_function": ACTIVATIONS,
    "attention_type": ("block_sparse", "original_full", "dense"),
    "attn_implementation": ("eager",),
    "classifier_activation": ACTIVATIONS,
    "conv_act": ACTIVATIONS,
    "classifier_pooling": ("mean", "max"),
    "dense_act_fn": ACTIVATIONS,
    "dtype": ("float16",),
    "encoder_attention_type": ("local", "transient-global"),
    "feed_forward_proj": ("silu", "gated-gelu", "gated-silu"),
    "hidden_act": ACTIVATIONS,
    "hidden_activation": ACTIVATIONS,
    "id2label": ({"0": "a", "1": "b"}, {"0": "a", "1": "b", "2": "c"}),
    "label2id": ({"a": 0, "b": 1},),
    "norm_rel_ebd": ("none", "layer_norm|other", "batch_norm"),
    "pooler_act": ACTIVATIONS,
    "pooler_hidden_act": ACTIVATIONS,
    "pos_att_type": ("c2p", "P2C | c2p", ["p2c"], ["p2p", "c2p"], None),
    "problem_type": ("regression", "single_label_classification", "multi_label_classification"),
    "summary_activation": ("tanh", "relu"),
    "summary_type": ("last", "mean", "cls_index"),
    "transformers_version": ("4.1.0",),
}
# Fields that config.json may hold whatever the family: of transformers' base class, of tools, and of a user.
EVERYWHERE = {
    "_name_or_path": ("somewhere",),
    "_num_labels": (3,),
    "add_cross_attention": (True, False),
    "attention_chunk_size": (4,),
    "auto_map": ({"AutoModel": "modeling.Own"},),
    "chunk_size_feed_forward": (1,),
    "classifier_dropout": (0.5,),
    "early_stopping": (True,),
    "gradient_checkpointing": (True,),
    "head_dim": (2, 4, 8),
    "id2label": NAMED["id2label"],
    "is_causal": (True, False),
    "is_decoder": (True, False),
    "is_encoder_decoder": (True, False),
    "layer_types": (["full_attention", "sliding_attention"],),
    "max_length": (9,),
    "num_beams": (3,),
    "num_labels": (2, 3),
    "output_attentions": (True, False),
    "output_hidden_states": (True, False),
    "per_layer_config": ({"0": {"num_attention_heads": 2}},),
    "pretraining_tp": (2,),
    "problem_type": NAMED["problem_type"],
    "pruned_heads": ({"0": [1]}, {}),
    "return_dict": (True, False),
    "sliding_window": (3,),
    "temperature": (0.5,),
    "tie_encoder_decoder": (True, False),
    "tie_last_hidden_states": (True, False),
    "tie_word_embeddings": (True, False),
    "unsloth_version": ("2026.1",),
    "use_cache": (False,),
    "use_return_dict": (False,),
    "users_own": (1,),
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8}
SCALINGS = [
    {"rope_type": "linear", "factor": 2.0},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0},
    {"rope_type": "default"},
    {"rope_type": "linear", "type": "dynamic", "factor": 2.0},
    YARN,
    LLAMA3,
    {"rope_type": "unheard of"},
    {},
    None,
]
NESTED = [{"full_attention": s, "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}} for s in SCALINGS]


def rotations(rope_parameters):
    """Settings of rotary positions: their fields alone, beside each other, and as older files have them."""
    for scaling in SCALINGS:
        yield {"rope_scaling": scaling}
        yield {"rope_scaling": scaling, "rope_parameters": GONE}
        yield {"rope_scaling": scaling, "rope_parameters": GONE, "rope_theta": 700.0}
        yield {"rope_parameters": scaling}
        yield {"rope_parameters": scaling, "rope_theta": 700.0}
    for nested in NESTED:
        yield {"rope_parameters": nested}
        yield {"rope_parameters": nested, "rope_scaling": SCALINGS[0]}
    for name in ("rope_theta", "rope_local_base_freq", "global_rope_theta", "local_rope_theta"):
        yield {name: 700.0}
        yield {name: 700.0, "rope_parameters": GONE}
    yield {"partial_rotary_factor": 0.5}
    yield {"partial_rotary_factor": 1.0}
    yield {"original_max_position_embeddings": 8}
    yield {"rope_interleaved": True}


def others(name, value):
    """Plausible values of a field other than its own."""
    if name in NAMED:
        return [other for other in NAMED[name] if other != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 2 * value]
    if isinstance(value, float):
        return [value * 1.5 + 0.1]
    if value is None:
        return [1, 0.5, True]
    if isinstance(value, list) and value and isinstance(value[0], str):
        return [value[::-1], ["full_attention"] * len(value), ["sliding_attention"] * len(value)]
    return [None]


def settings(family, config, content, whole):
    """Changes of config.json, each a dictionary; whole: also those that no head has a part in."""
    fields = content | {name: value for name, value in config.to_dict().items() if name not in content}
    for name, value in fields.items():
        if name in ("architectures", "model_type"):
            continue
        if isinstance(value, dict) and name.endswith("_config"):
            for field, inner in value.items():
                if field not in ("model_type", "architectures"):
                    yield from ({name: value | {field: other}} for other in others(field, inner))
            for field in ("users_own", "hidden_act", "is_decoder", "output_hidden_states", "max_length"):
                yield {name: value | {field: True}}
            continue
        yield from ({name: other} for other in others(name, value))
        if whole and name in content:
            yield {name: GONE}
    for general, own in config.attribute_map.items():
        yield {general: content[own]}
        yield from ({general: other} for other in others(general, content[own]))
        yield {general: content[own], own: GONE}
    for name, values in EVERYWHERE.items():
        yield from ({name: value} for value in values if fields.get(name, GONE) != value)
    if whole and family in ROPE:
        yield from rotations(content.get("rope_parameters"))


def inputs_of(config):
    rng = np.random.default_rng(0)
    ids = rng.integers(4, V, (2, 12))
    ids[0, 7], ids[:, -1] = 1, 3  # padding's id, attended; and the end of CLIP's texts
    kind = config.model_type
    pixels = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    if kind in ("vit", "deit", "clip_vision_model"):
        return {"pixel_values": pixels}
    if kind == "clip":
        return {"input_ids": ids, "pixel_values": pixels}
    if kind == "whisper":
        return {"input_features": rng.standard_normal((2, 6, 16)).astype(np.float32), "decoder_input_ids": ids[:, :7]}
    decoder = {"decoder_input_ids": ids[:, 3:10]} if kind in ("bart", "led", "longt5", "marian", "mt5", "t5") else {}
    return {"input_ids": ids} | decoder


def flat(output, prefix=""):
    """Name -> array of an output, also of one inside of another; what is not reported, and caches, are left out."""
    found = {}
    for name, value in output.items():
        if "past_key_values" in name or name == "cache" or value is None:
            continue
        if hasattr(value, "items"):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, (tuple, list)):
            found |= {f"{prefix}{name}.{i}": np.asarray(part) for i, part in enumerate(value)}
        else:
            found[prefix + name] = np.asarray(value)
    return found


def same(ours, theirs):
    """Are the outputs the same in names, shapes and numbers?"""
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == array.shape
        and np.allclose(ours[name], array, atol=TOLERANCE * max(1.0, np.abs(array).max(initial=0)), rtol=0)
        for name, array in theirs.items()
    )


def answer(torch, made, folder, inputs):
    """(what transformers computes, or None where it cannot make this model of the folder; are all tensors used?)."""
    try:
        options = {"attn_implementation": "eager", "dtype": torch.float32, "output_loading_info": True}
        model, info = made.from_pretrained(folder, **options)
        unused = bool(info.pop("unexpected_keys", None))
        if any(info.values()):
            return None, True
        with torch.no_grad():
            output = model.eval()(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    except Exception:  # a value that transformers refuses, each time with another type of error
        return None, True
    return flat(output) if hasattr(output, "items") else {}, not unused


def verdict(folder, changes, ask, inputs):
    """(what came of a setting, what was wrong); ask: `answer` of the folder, which a refusal by name does without."""
    error = None
    try:
        model = load_model(folder)
        actual = flat(model(**inputs))
    except CheckpointError as refusal:
        error = str(refusal)
        if any(name in error for name in named(changes)):
            return "refused", ""
    except ValueError as failure:
        error = str(failure)
    expected, fits = ask()
    if error is not None:
        return ("refused", "") if expected is None or not fits else ("unnamed", error)
    if expected is None:
        return "unfit", ""  # transformers makes no model of it, ours does
    if same(actual, expected):
        return "equal", ""
    both = [n for n in actual.keys() & expected.keys() if actual[n].shape == expected[n].shape]
    gap = max((abs(actual[name] - expected[name]).max() for name in both), default=None)
    return "different", f"reported by one: {sorted(expected.keys() ^ actual.keys())}; difference: {gap}"


def named(changes):
    """The fields that a setting changes; of a config inside the config, its fields."""
    return [*changes, *(field for value in changes.values() if isinstance(value, dict) for field in value)]


def read_by(model, changes):
    fields = {*model.config.__dataclass_fields__, *getattr(type(model.config), "general_names", {})}
    return any(name in fields or name in ("output_attentions", "output_hidden_states") for name in changes)


@pytest.mark.slow  # hundreds of models
@pytest.mark.parametrize("family", FAMILIES)
def test_each_field_is_followed_or_refused(torch, tmp_path, family):
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    options, tasks = FAMILIES[family]
    wrong, counts, seen = [], Counter(), set()
    for task in tasks:
        folder = tmp_path / task
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**json.loads(json.dumps(options)))
        made = getattr(transformers, CLASSES.get(family, family) + task)
        theirs = made(config).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter += 0.2 * torch.randn_like(parameter) * (parameter.ndim < 2)  # biases are 0 when they are made
        theirs.save_pretrained(folder)
        content, inputs = json.loads((folder / "config.json").read_text()), inputs_of(config)
        if task == "EncoderModel":
            inputs.pop("decoder_input_ids")
        if task == "ForMultipleChoice":
            inputs = {name: array[:, None] for name, array in inputs.items()}
        first = load_model(folder)
        for changes in ({}, *settings(family, config, content, task == tasks[0])):
            text = json.dumps(changes, default=lambda _: "(gone)", sort_keys=True)
            if (task, text) in seen:
                continue
            seen.add((task, text))
            given = {name: value for name, value in (content | changes).items() if value is not GONE}
            (folder / "config.json").write_text(json.dumps(given))
            ask = functools.partial(answer, torch, made, folder, inputs)
            found, why = verdict(folder, changes, ask, inputs)
            if found in ("different", "unnamed"):
                wrong.append(f"{family + task} {text}: {found}: {why}".replace(str(folder), "..."))
            if found == "equal":
                found = "read and equal" if read_by(first, changes) else "without effect and equal"
            counts[found] += 1
    print(family, dict(counts))
    assert not wrong, "\n".join(wrong)
    assert min(counts[name] for name in ("read and equal", "without effect and equal", "refused")) > 5


@pytest.mark.parametrize("family", FAMILIES)
def test_general_names_are_transformers(family):
    """attribute_map of transformers' class, as far as there are such fields."""
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, f"{family}Config")
    _, _, name = models._FAMILIES[theirs.model_type]
    ours = getattr(models, name).config_class
    assert getattr(ours, "general_names", {}) == theirs.attribute_map
