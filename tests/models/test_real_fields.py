"""Fields of folders of transformers 3 and 4, of conversions and of tools, beside those that count: all are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from transformer_fast import models

SOURCE = Path("model/config.json")

# Every field of the base class, as transformers 4 wrote them for a config inside of a config.
WHOLE = {
    "_name_or_path": "",
    "add_cross_attention": False,
    "architectures": None,
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "bos_token_id": 0,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "decoder_start_token_id": None,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "finetuning_task": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "is_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "length_penalty": 1.0,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "prefix": None,
    "problem_type": None,
    "pruned_heads": {},
    "remove_invalid_values": False,
    "repetition_penalty": 1.0,
    "return_dict": True,
    "return_dict_in_generate": False,
    "sep_token_id": None,
    "suppress_tokens": None,
    "task_specific_params": None,
    "temperature": 1.0,
    "tf_legacy_loss": False,
    "tie_encoder_decoder": False,
    "tokenizer_class": None,
    "top_k": 50,
    "top_p": 1.0,
    "torch_dtype": None,
    "torchscript": False,
    "transformers_version": "4.24.0",
    "typical_p": 1.0,
    "use_bfloat16": False,
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}
BERT = SIZES | {"max_position_embeddings": 16}
GOOGLE = {
    "directionality": "bidi",
    "gradient_checkpointing": False,
    "output_past": True,
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
    "position_embedding_type": "absolute",
}
FAIRSEQ = {
    "_num_labels": 3,
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "classif_dropout": 0.0,
    "extra_pos_embeddings": 2,
    "force_bos_token_to_be_generated": True,
    "normalize_before": False,
    "student_decoder_layers": None,
}
# Class -> (the fields that count, further ones of real files).
FOLDERS = {
    "AlbertModel": (
        BERT,
        {"down_scale_factor": 1, "gap_size": 0, "net_structure_type": 0, "num_memory_blocks": 0}
        | {"classifier_dropout_prob": 0.1, "position_embedding_type": "absolute"},
    ),
    "BartModel": ({}, FAIRSEQ | {"num_hidden_layers": 12, "normalize_embedding": True}),
    "BertModel": (BERT, GOOGLE),
    "CLIPTextModel": ({}, {"dropout": 0.0, "initializer_factor": 1.0}),
    "CLIPVisionModel": ({}, {"dropout": 0.0, "initializer_factor": 1.0}),
    "DebertaV2Model": (
        SIZES | {"pos_att_type": "p2c|c2p", "max_relative_positions": -1, "position_buckets": 256},
        {"pooler_dropout": 0, "cls_dropout": 0.15, "pad_token_id": 0},
    ),
    "DistilBertModel": (
        {"vocab_size": 20, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 8},
        {"tie_weights_": True, "sinusoidal_pos_embds": False, "qa_dropout": 0.1, "output_past": True},
    ),
    "ElectraModel": (BERT, {"summary_last_dropout": 0.1, "position_embedding_type": "absolute"}),
    "GPT2Model": ({}, {"n_ctx": 1024, "summary_type": "cls_index", "summary_use_proj": True, "resid_pdrop": 0.1}),
    "Gemma2Model": ({}, {"hidden_act": "gelu_pytorch_tanh", "cache_implementation": "hybrid"}),
    "Gemma3TextModel": ({}, {"_sliding_window_pattern": 6, "use_bidirectional_attention": False}),
    "GPTJModel": (
        {},
        {"rotary": True, "summary_type": "cls_index", "scale_attn_weights": True, "task_specific_params": {}},
    ),
    "GPTNeoXModel": ({}, {"rope_theta": 10000, "partial_rotary_factor": 0.25, "classifier_dropout": 0.1}),
    "GptOssModel": (
        {},
        {"experts_per_token": 4, "initial_context_length": 4096, "router_aux_loss_coef": 0.9, "hidden_act": "silu"}
        | {"output_router_logits": False},
    ),
    "GraniteModel": ({}, {"attention_dropout": 0.1}),
    "GteModel": (
        {},
        {
            "pack_qkv": True,
            "unpad_inputs": False,
            "use_memory_efficient_attention": False,
            "layer_norm_type": "layer_norm",
        }
        | {"logn_attention_scale": False, "logn_attention_clip1": False, "position_embedding_type": "rope"}
        | {"classifier_dropout": 0.1, "matryoshka_dimensions": [256]},
    ),
    "JinaBertModel": (
        BERT,
        {"attn_implementation": "torch", "emb_pooler": "mean", "feed_forward_type": "geglu", "model_max_length": 8192}
        | {"position_embedding_type": "alibi"},
    ),
    "LEDModel": ({}, FAIRSEQ | {"num_hidden_layers": 12, "attention_dropout": 0.0}),
    "LlamaModel": ({}, {"is_llama_config": True, "rope_interleaved": False, "pretraining_tp": 1}),
    "LongT5Model": ({}, {"n_positions": 4096, "output_past": True}),
    "LongformerModel": (
        BERT,
        {"attention_mode": "longformer", "ignore_attention_mask": False, "gradient_checkpointing": False},
    ),
    "MPNetModel": (BERT, {"gradient_checkpointing": False}),
    "MarianModel": ({}, FAIRSEQ | {"num_hidden_layers": 12, "static_position_embeddings": True}),
    "MistralModel": ({}, {"attention_dropout": 0.0, "unsloth_version": "2024.9", "unsloth_fixed": True}),
    "MixtralModel": ({}, {"output_router_logits": False, "router_aux_loss_coef": 0.02, "router_jitter_noise": 0.0}),
    "ModernBertModel": (
        SIZES,
        {
            "layer_norm_eps": 1e-5,
            "reference_compile": None,
            "repad_logits_with_grad": False,
            "sparse_prediction": False,
        },
    ),
    "Olmo2Model": ({}, {"attention_dropout": 0.0}),
    "PhiModel": ({}, {"resid_pdrop": 0.1, "embd_pdrop": 0.0}),
    "Phi3Model": (
        {},
        {"auto_map": {"AutoModelForCausalLM": "modeling_phi3.Own"}, "resid_pdrop": 0.0, "attention_bias": False}
        | {"mlp_bias": False, "lm_head_bias": False, "full_attn_mod": 1, "interpolate_factor": 1},
    ),
    "Qwen2Model": ({}, {"use_mrope": False, "_attn_implementation_autoset": True, "transformers.js_config": {}}),
    "Qwen3Model": ({}, {"auto_map": {"AutoModel": "own.Model"}}),
    "Qwen3MoeModel": ({}, {"max_window_layers": 48, "output_router_logits": False, "router_aux_loss_coef": 0.001}),
    "RobertaModel": (BERT, {"output_past": True, "gradient_checkpointing": False}),
    "SmolLM3Model": ({}, {"max_window_layers": 28}),
    "Starcoder2Model": ({}, {"mlp_type": "default", "norm_type": "layer_norm", "residual_dropout": 0.1}),
    "T5Model": ({}, {"n_positions": 512, "output_past": True}),
    "ViTModel": ({}, {"encoder_stride": 16}),
    "WhisperModel": ({}, {"num_hidden_layers": 4, "apply_spec_augment": False, "median_filter_width": 7}),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_fields_of_real_folders(name):
    counting, further = FOLDERS[name]
    made = getattr(models, name)
    own = {field: value for field, value in WHOLE.items() if field not in made.config_class.__dataclass_fields__}
    assert made.read_config(own | counting | further, SOURCE) == made.read_config(counting, SOURCE)
