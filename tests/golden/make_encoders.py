"""Makes encoders/: tiny encoders of text as transformers saves them, and what it answers.

Needs the extra `oracle`. Run it from anywhere:

    python tests/golden/make_encoders.py            # all
    python tests/golden/make_encoders.py electra    # these folders only; the others keep their bits

The weights are bfloat16, which is what they are rounded to before transformers answers; one model is cut into shards.
The tests of models/ read the files through tests/helpers/encoder_checks.py, without torch.
"""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent / "encoders"
SMALL = {"vocab_size": 30, "num_hidden_layers": 2, "hidden_size": 15, "num_attention_heads": 3, "intermediate_size": 17}
BERT = SMALL | {"max_position_embeddings": 12, "pad_token_id": 1}
DISTIL = {"vocab_size": 30, "n_layers": 2, "dim": 15, "n_heads": 3, "hidden_dim": 17, "max_position_embeddings": 12}
MODERN = SMALL | {"hidden_size": 12, "num_attention_heads": 2, "local_attention": 4, "max_position_embeddings": 16}
MODERN |= {f"{name}_token_id": i for i, name in enumerate(("pad", "eos", "bos", "cls", "sep"))}
# Longer than 7 places is sparse, in blocks of one place.
BIG_BIRD = BERT | {"block_size": 1, "num_random_blocks": 1, "sep_token_id": 9}
# Separators are beyond the ids that are drawn; transformers computes no windows of fewer than four places.
LONG = BERT | {"attention_window": [4, 8], "sep_token_id": 2, "max_position_embeddings": 16}
NOMIC = SMALL | {"hidden_size": 12, "num_attention_heads": 2, "max_position_embeddings": 16}
DEBERTA = SMALL | {"max_position_embeddings": 12, "relative_attention": True, "norm_rel_ebd": "layer_norm"}
ALBERT = BERT | {"num_hidden_layers": 3, "embedding_size": 10}
GTE = NOMIC | {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}
LABELS = {0: "low", 1: "middle", 2: "high"}

# Folder -> transformers' family and task, config.
MODELS = {
    "bert": ("Bert", "ForSequenceClassification", BERT | {"hidden_act": "gelu_new", "id2label": LABELS}),
    "roberta": ("Roberta", "ForMaskedLM", BERT | {"hidden_act": "relu", "tie_word_embeddings": False}),
    "xlm-roberta": ("XLMRoberta", "ForTokenClassification", BERT | {"type_vocab_size": 1, "id2label": LABELS}),
    "distilbert": ("DistilBert", "ForQuestionAnswering", DISTIL),
    "electra": ("Electra", "ForPreTraining", BERT | {"embedding_size": 15, "hidden_act": "gelu_new"}),
    "electra-generator": ("Electra", "ForMaskedLM", BERT | {"embedding_size": 20, "hidden_act": "relu"}),
    "mpnet": ("MPNet", "ForMaskedLM", BERT | {"hidden_act": "gelu_pytorch_tanh"}),
    "big-bird": ("BigBird", "ForMaskedLM", BIG_BIRD | {"use_bias": False, "rescale_embeddings": True}),
    "big-bird-answers": ("BigBird", "ForQuestionAnswering", BIG_BIRD | {"hidden_act": "relu"}),
    "nomic-bert": (
        "NomicBert",
        "ForMaskedLM",
        NOMIC | {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    ),
    "jina-v3": (
        "JinaEmbeddingsV3",
        "ForSequenceClassification",
        NOMIC | {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}, "id2label": LABELS},
    ),
    "albert": ("Albert", "ForMaskedLM", ALBERT | {"num_hidden_groups": 2, "inner_group_num": 2}),
    "albert-labels": ("Albert", "ForSequenceClassification", ALBERT | {"hidden_act": "relu", "id2label": LABELS}),
    "deberta-v2": (
        "DebertaV2",
        "ForTokenClassification",
        DEBERTA
        | {"pos_att_type": ["c2p", "p2c"], "max_relative_positions": 5, "type_vocab_size": 3, "embedding_size": 10}
        | {"conv_kernel_size": 3, "conv_groups": 3, "id2label": LABELS},
    ),
    "deberta-v3": (
        "DebertaV2",
        "ForMaskedLM",
        DEBERTA
        | {"pos_att_type": "p2c|c2p", "position_buckets": 4, "share_att_key": True, "position_biased_input": False}
        | {"legacy": False},
    ),
    "gte": ("Gte", "ForSequenceClassification", GTE | {"type_vocab_size": 0, "id2label": LABELS}),
    "longformer": ("Longformer", "ForMaskedLM", LONG | {"hidden_act": "relu", "tie_word_embeddings": False}),
    "longformer-classifier": ("Longformer", "ForSequenceClassification", LONG | {"id2label": LABELS}),
    "modernbert": ("ModernBert", "ForMaskedLM", MODERN | {"norm_bias": True, "classifier_activation": "silu"}),
}
SHARDED = "xlm-roberta"


def inputs_of(config) -> dict[str, torch.Tensor]:
    ids = torch.randint(6, config.vocab_size, (4, 8))
    mask = torch.ones(4, 8, dtype=torch.int64)
    mask[1, 5:], mask[2, :3], mask[3, [2, 5]] = 0, 0, 0  # padding on the right, on the left, in between
    ids[mask == 0] = config.pad_token_id or 0
    types = {"token_type_ids": torch.randint(0, 2, (4, 8))} if getattr(config, "type_vocab_size", 0) > 1 else {}
    return {"input_ids": ids, "attention_mask": mask, **types}


def make(name: str, family: str, task: str, options: dict) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**options)
    config._attn_implementation = "eager"
    model = getattr(transformers, family + task)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 0.1)
            parameter.copy_(parameter.bfloat16())
        # A copy: the frequencies of rotary positions would be rounded too.
        copy.deepcopy(model).bfloat16().save_pretrained(
            FOLDER / name, max_shard_size="4KB" if name == SHARDED else "1GB"
        )
        inputs = inputs_of(config)
        found = model(**inputs, output_attentions=True, output_hidden_states=True)
    answers = {"hidden_states": torch.stack(found.hidden_states), "attentions": found.attentions[-1]}
    if found.get("global_attentions"):
        # transformers pads their places to a multiple of the window.
        answers["global_attentions"] = found.global_attentions[-1][:, :, : inputs["input_ids"].shape[1]]
    answers |= {field: found[field] for field in ("logits", "start_logits", "end_logits") if field in found}
    np.savez_compressed(FOLDER / name / "answers.npz", **{k: v.numpy() for k, v in (inputs | answers).items()})


if __name__ == "__main__":
    wanted = {name: MODELS[name] for name in sys.argv[1:]}
    if not wanted:
        shutil.rmtree(FOLDER, ignore_errors=True)
        wanted = MODELS
    for name, options in wanted.items():
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        make(name, *options)
    print(sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()), "bytes")
