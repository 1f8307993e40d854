"""Fields of config.json that every family may meet: without effect on inference, or with one value that has none.

`config.read_config` refuses a field that is in none of these lists, nor among the family's own fields. A field of
transformers' `PreTrainedConfig`, or one that tools write into folders of all families, goes here; a field of one family
goes into `without_effect` of its Config, or into `neutral` of its model.
"""

from __future__ import annotations

from collections.abc import Mapping

from transformer_fast.generation.config import KNOWN as _GENERATION

# Where a folder comes from, and with what it was made. `load_model` reads model_type and architectures; with auto_map
# transformers, too, takes its own classes for the families that it knows, unless it is told to trust the folder's code.
_BOOKKEEPING = {
    "_auto_class",
    "_commit_hash",
    "_name_or_path",
    "_original_object_hash",
    "architectures",
    "auto_map",
    "custom_pipelines",
    "language",
    "license",
    "model_name",
    "model_type",
    "name_or_path",
    "sentence_transformers",
    "tokenizer_class",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
}

# Settings of pipelines, which read them from the file themselves; label2id is id2label, turned round. problem_type
# chooses a loss, and in a pipeline the scores; CrossEncoder reads the one of sentence-transformers.
_PIPELINES = {
    "finetuning_task",
    "label2id",
    "prefix",
    "problem_type",
    "sbert_ce_default_activation_function",
    "task_specific_params",
}

# Of heads, where a family has none of the kind; the others have them among their fields. Transformers no longer reads
# _num_labels.
_HEADS = {"_num_labels", "id2label", "num_labels", "tie_word_embeddings"}

# In what type or by which code transformers computes. Tensors are read in the type of the file, whatever dtype says.
_IMPLEMENTATION = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_experts_implementation",
    "_experts_implementation_internal",
    "_flash_attn_2_enabled",
    "attn_implementation",
    "bf16",
    "chunk_size_feed_forward",
    "dtype",
    "experts_implementation",
    "fp16",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "output_past",
    "pretraining_tp",
    "tf_legacy_loss",
    "torch_dtype",
    "torchscript",
    "use_bfloat16",
    "use_cache",
    "use_flash_attention_2",
    "xla_device",
}

# Training: dropout, layers left out by chance, first values of weights, losses.
_TRAINING = {
    "activation_dropout",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "classif_dropout",
    "classifier_dropout",
    "decoder_layerdrop",
    "dropout",
    "dropout_rate",
    "embd_pdrop",
    "embedding_dropout",
    "encoder_layerdrop",
    "hidden_dropout",
    "hidden_dropout_prob",
    "init_std",
    "initializer_cutoff_factor",
    "initializer_factor",
    "initializer_range",
    "layerdrop",
    "loss_type",
    "mlp_dropout",
    "neftune_noise_alpha",
    "qa_dropout",
    "resid_pdrop",
    "seq_classif_dropout",
    "summary_first_dropout",
    "summary_last_dropout",
}

# Ids that tokenizers and generation know by themselves. The families for which one has an effect declare it.
_TOKENS = {
    "bos_token_id",
    "cls_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "mask_token_id",
    "pad_token_id",
    "sep_token_id",
    "unk_token_id",
}

# `PretrainedModel` follows them: they say what a call returns where it does not say so itself.
REPORTS = ("output_attentions", "output_hidden_states")

# Defaults of generation, which `generation.config` reads here where there is no generation_config.json.
WITHOUT_EFFECT = frozenset(
    _BOOKKEEPING
    | _PIPELINES
    | _HEADS
    | _IMPLEMENTATION
    | _TRAINING
    | _TOKENS
    | set(REPORTS)
    | _GENERATION
    | {"generation_config", "forced_decoder_ids"}
)

# Fields of transformers' base class that choose something -> the values with which they change nothing.
NEUTRAL: Mapping[str, tuple] = {
    "quantization_config": (None,),
    "pruned_heads": ({}, None),
    "is_decoder": (False, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False, None),
    "per_layer_config": (None, {}),
    "return_dict": (True,),
    "tie_last_hidden_states": (None,),
}
