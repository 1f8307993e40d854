"""The configs of embedding models and rerankers that people use, with small sizes, and their modules.

`tests/pipelines/test_published_models.py` makes a folder of each and runs it; docs/howto/models.md has a row of each.
To add a model: a line in MODELS, and its row. None was downloaded: the fields are those that folders of the
architecture are known to have, besides those that transformers writes into all (tests/models/test_real_fields.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VOCABULARY = 64


@dataclass(frozen=True)
class Published:
    """One model.

    fields: of config.json. modules: after the Transformer, of a sentence encoder; None: it is no sentence encoder.

    pipeline: "encode" (SentenceEncoder) or "predict" (CrossEncoder). model: the class that `load_model` takes for it;
    "": the first of architectures. adapters: the tasks of `encode`.
    """

    fields: dict[str, Any]
    modules: tuple[str, ...] | None = ("Pooling:mean", "Normalize")
    pipeline: str = "encode"
    model: str = ""
    adapters: tuple[str, ...] = ()


_SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": VOCABULARY,
}
_DROPOUT = {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1, "initializer_range": 0.02}
BERT = (
    _SIZES
    | _DROPOUT
    | {
        "architectures": ["BertModel"],
        "classifier_dropout": None,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 32,
        "model_type": "bert",
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "transformers_version": "4.30.0",
        "type_vocab_size": 2,
        "use_cache": True,
    }
)
_LABELS = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
_DIRECTIONS = {"directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12}
_DIRECTIONS |= {"pooler_num_fc_layers": 3, "pooler_size_per_head": 128, "pooler_type": "first_token_transform"}
XLM = BERT | {
    "architectures": ["XLMRobertaModel"],
    "bos_token_id": 0,
    "eos_token_id": 2,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 34,
    "model_type": "xlm-roberta",
    "output_past": True,
    "pad_token_id": 1,
    "type_vocab_size": 1,
}
MPNET = {name: value for name, value in BERT.items() if name not in ("classifier_dropout", "position_embedding_type")}
MPNET |= {"architectures": ["MPNetForMaskedLM"], "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-05}
MPNET |= {"max_position_embeddings": 34, "model_type": "mpnet", "pad_token_id": 1, "relative_attention_num_buckets": 32}
del MPNET["type_vocab_size"], MPNET["use_cache"]
DISTIL = {
    "activation": "gelu",
    "architectures": ["DistilBertModel"],
    "attention_dropout": 0.1,
    "dim": 24,
    "dropout": 0.1,
    "hidden_dim": 40,
    "initializer_range": 0.02,
    "max_position_embeddings": 32,
    "model_type": "distilbert",
    "n_heads": 3,
    "n_layers": 2,
    "pad_token_id": 0,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
    "vocab_size": VOCABULARY,
}
NOMIC = {
    "activation_function": "swiglu",
    "architectures": ["NomicBertModel"],
    "attn_pdrop": 0.0,
    "causal": False,
    "dense_seq_output": True,
    "embd_pdrop": 0.0,
    "fused_bias_fc": True,
    "fused_dropout_add_ln": True,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 8,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "model_type": "nomic_bert",
    "n_embd": 24,
    "n_head": 3,
    "n_inner": 40,
    "n_layer": 2,
    "n_positions": 32,
    "pad_vocab_size_multiple": 64,
    "parallel_block": False,
    "parallel_block_tied_norm": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "reorder_and_upcast_attn": False,
    "resid_pdrop": 0.0,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "summary_type": "cls_index",
    "type_vocab_size": 2,
    "use_flash_attn": True,
    "use_rms_norm": False,
    "use_xentropy": True,
    "vocab_size": VOCABULARY,
}
GTE = (
    _SIZES
    | _DROPOUT
    | {
        "architectures": ["NewModel"],
        "classifier_dropout": None,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "layer_norm_type": "layer_norm",
        "logn_attention_clip1": False,
        "logn_attention_scale": False,
        "max_position_embeddings": 32,
        "model_type": "new",
        "pack_qkv": True,
        "pad_token_id": 0,
        "position_embedding_type": "rope",
        "rope_scaling": {"factor": 2.0, "type": "ntk"},
        "rope_theta": 500000,
        "type_vocab_size": 0,
        "unpad_inputs": False,
        "use_memory_efficient_attention": False,
    }
)
JINA = BERT | {
    "architectures": ["JinaBertForMaskedLM"],
    "attn_implementation": "torch",
    "emb_pooler": "mean",
    "feed_forward_type": "geglu",
    "model_max_length": 8192,
    "position_embedding_type": "alibi",
}
_LORA = {"load_trained_adapters": False, "lora_adaptations": None, "lora_alpha": 1, "lora_dropout_p": 0.0}
_LORA |= {"lora_main_params_trainable": False, "lora_rank": 4, "matryoshka_dimensions": None, "emb_pooler": None}
_LORA |= {"truncate_dim": None, "use_flash_attn": True}
_TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
JINA_3 = XLM | _LORA
JINA_3 |= {"position_embedding_type": "rotary", "rotary_emb_base": 20000.0, "use_reg_tokens": False}
DEBERTA = (
    _SIZES
    | _DROPOUT
    | _LABELS
    | {
        "architectures": ["DebertaV2ForSequenceClassification"],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-07,
        "max_position_embeddings": 32,
        "max_relative_positions": -1,
        "model_type": "deberta-v2",
        "norm_rel_ebd": "layer_norm",
        "pad_token_id": 0,
        "pooler_dropout": 0,
        "pooler_hidden_act": "gelu",
        "pooler_hidden_size": 24,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "position_buckets": 16,
        "relative_attention": True,
        "share_att_key": True,
        "type_vocab_size": 0,
    }
)
MODERN = _SIZES | {
    "architectures": ["ModernBertModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "cls_token_id": 2,
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "eos_token_id": 3,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "layer_norm_eps": 1e-05,
    "local_attention": 8,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 32,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "reference_compile": True,
    "repad_logits_with_grad": False,
    "sep_token_id": 3,
    "sparse_pred_ignore_index": -100,
    "sparse_prediction": False,
}
ROBERTA = XLM | {"architectures": ["RobertaModel"], "model_type": "roberta"}

_CLS = ("Pooling:cls", "Normalize")
_MEAN = ("Pooling:mean",)


def _reranker(fields: dict[str, Any], architecture: str, **more: Any) -> Published:
    return Published(fields | _LABELS | {"architectures": [architecture]} | more, None, "predict")


# As docs/howto/models.md names them.
MODELS: dict[str, Published] = {
    "sentence-transformers/all-MiniLM-L6-v2": Published(BERT),
    "sentence-transformers/all-MiniLM-L12-v2": Published(BERT),
    "sentence-transformers/all-mpnet-base-v2": Published(MPNET, model="MPNetModel"),
    "sentence-transformers/multi-qa-MiniLM-L6-cos-v1": Published(BERT),
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": Published(BERT, _MEAN),
    "sentence-transformers/paraphrase-multilingual-mpnet-base-v2": Published(XLM, _MEAN),
    "sentence-transformers/LaBSE": Published(BERT | _DIRECTIONS, ("Pooling:cls", "Dense", "Normalize")),
    "sentence-transformers/distiluse-base-multilingual-cased-v2": Published(DISTIL, ("Pooling:mean", "Dense")),
    "BAAI/bge-small-en-v1.5": Published(BERT | _LABELS, _CLS),
    "BAAI/bge-base-en-v1.5": Published(BERT | _LABELS, _CLS),
    "BAAI/bge-large-en-v1.5": Published(BERT | _LABELS, _CLS),
    "BAAI/bge-small-zh-v1.5": Published(BERT | _LABELS | _DIRECTIONS, _CLS),
    "BAAI/bge-m3": Published(XLM, _CLS),
    "intfloat/e5-base-v2": Published(BERT),
    "intfloat/multilingual-e5-small": Published(BERT | {"tokenizer_class": "XLMRobertaTokenizer"}),
    "intfloat/multilingual-e5-large": Published(XLM),
    "thenlper/gte-base": Published(BERT),
    "Alibaba-NLP/gte-base-en-v1.5": Published(GTE, _CLS[:1], model="GteModel"),
    "Alibaba-NLP/gte-multilingual-base": Published(
        GTE | {"type_vocab_size": 1, "rope_theta": 20000, "architectures": ["NewModel"]}, _CLS, model="GteModel"
    ),
    "mixedbread-ai/mxbai-embed-large-v1": Published(BERT, _CLS[:1]),
    "Snowflake/snowflake-arctic-embed-m": Published(BERT, _CLS),
    "Snowflake/snowflake-arctic-embed-m-long": Published(NOMIC, _CLS),
    "Snowflake/snowflake-arctic-embed-l": Published(BERT, _CLS),
    "Snowflake/snowflake-arctic-embed-m-v2.0": Published(
        GTE | {"architectures": ["GteModel"], "type_vocab_size": 1, "matryoshka_dimensions": [8]},
        _CLS,
        model="GteModel",
    ),
    "Snowflake/snowflake-arctic-embed-l-v2.0": Published(XLM, _CLS),
    "nomic-ai/nomic-embed-text-v1": Published(NOMIC, _MEAN),
    "nomic-ai/nomic-embed-text-v1.5": Published(NOMIC, _MEAN),
    "nomic-ai/modernbert-embed-base": Published(MODERN),
    "ibm-granite/granite-embedding-125m-english": Published(ROBERTA, _CLS),
    "ibm-granite/granite-embedding-english-r2": Published(MODERN, _CLS),
    "jinaai/jina-embeddings-v2-base-en": Published(JINA, _MEAN, model="JinaBertModel"),
    "jinaai/jina-embeddings-v2-base-de": Published(JINA, _MEAN, model="JinaBertModel"),
    "jinaai/jina-embeddings-v3": Published(
        JINA_3
        | {"load_trained_adapters": True, "lora_adaptations": _TASKS, "task_instructions": dict.fromkeys(_TASKS, "")},
        model="JinaEmbeddingsV3Model",
        adapters=tuple(_TASKS),
    ),
    "cross-encoder/ms-marco-MiniLM-L6-v2": _reranker(BERT, "BertForSequenceClassification"),
    "BAAI/bge-reranker-base": _reranker(XLM, "XLMRobertaForSequenceClassification"),
    "BAAI/bge-reranker-v2-m3": _reranker(XLM, "XLMRobertaForSequenceClassification"),
    "mixedbread-ai/mxbai-rerank-base-v1": Published(DEBERTA, None, "predict"),
    "Alibaba-NLP/gte-multilingual-reranker-base": _reranker(
        GTE | {"type_vocab_size": 1}, "NewForSequenceClassification"
    ),
    "jinaai/jina-reranker-v1-turbo-en": _reranker(JINA, "JinaBertForSequenceClassification"),
    "jinaai/jina-reranker-v2-base-multilingual": _reranker(XLM | _LORA, "XLMRobertaForSequenceClassification"),
}
