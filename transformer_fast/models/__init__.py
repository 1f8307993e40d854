"""Models: `load_model`, and the classes of all families, which are imported when they are first asked for.

`common` has what families share; beside it stands one file a family. `load_model` finds the class of a Hugging Face
folder by its model_type and architectures. A new family is a new file here with classes that derive from
`common.base.PretrainedModel`, and a line in `_FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import find_folder, open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.models.common.base import PretrainedModel
from transformer_fast.models.common.compute_types import ComputeType


def _heads(family: str, *further: str) -> dict[str, str]:
    """The classes <family>For<task>, which have the names of transformers' architectures."""
    tasks = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering", *further)
    return {f"{family}For{task}": f"{family}For{task}" for task in tasks}


def _decoder_heads(language_model: str, classifier: str) -> dict[str, str]:
    """A decoder's two heads, which have the names of transformers' architectures."""
    names = (language_model, f"{classifier}ForSequenceClassification")
    return {name: name for name in names}


def _named(*names: str) -> dict[str, str]:
    """Classes that have the names of transformers' architectures."""
    return {name: name for name in names}


# GTE's classes in the code that its folders came with -> ours, which have transformers' names.
_GTE = {f"NewFor{task}": f"GteFor{task}" for task in ("MaskedLM", "SequenceClassification", "TokenClassification")}
_GTE |= _named(*_GTE.values())

# The names of JinaBERT v3's classes in its first folders, which are XLM-RoBERTa's -> ours, which are transformers'.
_JINA_V3 = {
    f"XLMRobertaFor{task}": f"JinaEmbeddingsV3For{task}"
    for task in ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")
}
_JINA_V3 |= _named(*_JINA_V3.values())

# model_type in config.json -> file in models/, {name in its "architectures": class}, class without a head, which is
# taken for architectures that are not listed.
_FAMILIES: dict[str, tuple[str, dict[str, str], str]] = {
    "albert": ("albert", _heads("Albert", "MultipleChoice", "PreTraining"), "AlbertModel"),
    "bart": ("bart", {"BartForConditionalGeneration": "BartForConditionalGeneration"}, "BartModel"),
    "bert": ("bert", _heads("Bert", "MultipleChoice", "NextSentencePrediction", "PreTraining"), "BertModel"),
    "big_bird": ("big_bird", _heads("BigBird", "MultipleChoice", "PreTraining"), "BigBirdModel"),
    "camembert": ("roberta", _heads("Camembert", "MultipleChoice"), "CamembertModel"),
    "clip": (
        "clip",
        _named("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPVisionModel", "CLIPVisionModelWithProjection"),
        "CLIPModel",
    ),
    "clip_text_model": ("clip", _named("CLIPTextModelWithProjection"), "CLIPTextModel"),
    "clip_vision_model": ("clip", _named("CLIPVisionModelWithProjection"), "CLIPVisionModel"),
    "data2vec-text": ("roberta", _heads("Data2VecText", "MultipleChoice"), "Data2VecTextModel"),
    "deberta-v2": ("deberta_v2", _heads("DebertaV2", "MultipleChoice"), "DebertaV2Model"),
    "deit": ("vit", _named("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"), "DeiTModel"),
    "distilbert": ("distilbert", _heads("DistilBert", "MultipleChoice"), "DistilBertModel"),
    "electra": ("electra", _heads("Electra", "MultipleChoice", "PreTraining"), "ElectraModel"),
    "gemma": ("gemma", _decoder_heads("GemmaForCausalLM", "Gemma"), "GemmaModel"),
    "gemma2": ("gemma2", _decoder_heads("Gemma2ForCausalLM", "Gemma2"), "Gemma2Model"),
    "gemma3_text": ("gemma3", _decoder_heads("Gemma3ForCausalLM", "Gemma3Text"), "Gemma3TextModel"),
    "gpt2": ("gpt2", _decoder_heads("GPT2LMHeadModel", "GPT2"), "GPT2Model"),
    "gpt_neox": ("gpt_neox", _decoder_heads("GPTNeoXForCausalLM", "GPTNeoX"), "GPTNeoXModel"),
    "gptj": ("gptj", _decoder_heads("GPTJForCausalLM", "GPTJ"), "GPTJModel"),
    "gpt_oss": ("gpt_oss", _decoder_heads("GptOssForCausalLM", "GptOss"), "GptOssModel"),
    "granite": ("granite", _named("GraniteForCausalLM"), "GraniteModel"),
    "gte": ("gte", _GTE, "GteModel"),
    "jina_embeddings_v3": ("jina_v3", _heads("JinaEmbeddingsV3"), "JinaEmbeddingsV3Model"),
    "led": ("led", _named("LEDForConditionalGeneration"), "LEDModel"),
    "llama": ("llama", _decoder_heads("LlamaForCausalLM", "Llama"), "LlamaModel"),
    "longformer": ("longformer", _heads("Longformer", "MultipleChoice"), "LongformerModel"),
    "longt5": ("longt5", _named("LongT5ForConditionalGeneration", "LongT5EncoderModel"), "LongT5Model"),
    "marian": ("marian", {"MarianMTModel": "MarianMTModel"}, "MarianModel"),
    "mistral": ("mistral", _decoder_heads("MistralForCausalLM", "Mistral"), "MistralModel"),
    "mixtral": ("mixtral", _decoder_heads("MixtralForCausalLM", "Mixtral"), "MixtralModel"),
    "modernbert": ("modernbert", _heads("ModernBert"), "ModernBertModel"),
    "mpnet": ("mpnet", _heads("MPNet", "MultipleChoice"), "MPNetModel"),
    "mt5": ("t5", _named("MT5ForConditionalGeneration", "MT5EncoderModel"), "MT5Model"),
    "new": ("gte", _GTE, "GteModel"),
    "nomic_bert": (
        "nomic_bert",
        _named("NomicBertForMaskedLM", "NomicBertForSequenceClassification", "NomicBertForTokenClassification")
        | {"NomicBertForPreTraining": "NomicBertForMaskedLM"},  # what the first folders call it
        "NomicBertModel",
    ),
    "olmo2": ("olmo2", _decoder_heads("Olmo2ForCausalLM", "Olmo2"), "Olmo2Model"),
    "phi": ("phi", _decoder_heads("PhiForCausalLM", "Phi"), "PhiModel"),
    "phi3": ("phi3", _decoder_heads("Phi3ForCausalLM", "Phi3"), "Phi3Model"),
    "qwen2": ("qwen2", _decoder_heads("Qwen2ForCausalLM", "Qwen2"), "Qwen2Model"),
    "qwen3": ("qwen3", _decoder_heads("Qwen3ForCausalLM", "Qwen3"), "Qwen3Model"),
    "qwen3_moe": ("qwen3_moe", _decoder_heads("Qwen3MoeForCausalLM", "Qwen3Moe"), "Qwen3MoeModel"),
    "roberta": ("roberta", _heads("Roberta", "MultipleChoice"), "RobertaModel"),
    "smollm3": ("smollm3", _decoder_heads("SmolLM3ForCausalLM", "SmolLM3"), "SmolLM3Model"),
    "starcoder2": ("starcoder2", _decoder_heads("Starcoder2ForCausalLM", "Starcoder2"), "Starcoder2Model"),
    "t5": ("t5", _named("T5ForConditionalGeneration", "T5EncoderModel"), "T5Model"),
    "vit": ("vit", _named("ViTForImageClassification"), "ViTModel"),
    "whisper": ("whisper", {"WhisperForConditionalGeneration": "WhisperForConditionalGeneration"}, "WhisperModel"),
    "xlm-roberta": ("roberta", _heads("XLMRoberta", "MultipleChoice"), "XLMRobertaModel"),
}

# Families whose model_type is another's: (model_type, field, value) in config.json -> as above.
_VARIANTS: dict[tuple[str, str, str], tuple[str, dict[str, str], str]] = {
    ("bert", "position_embedding_type", "alibi"): ("jina_bert", _heads("JinaBert", "MultipleChoice"), "JinaBertModel"),
    ("xlm-roberta", "position_embedding_type", "rotary"): ("jina_v3", _JINA_V3, "JinaEmbeddingsV3Model"),
}

# Of the classes above, those that are a part of a family's model and have no head: head=False takes them as well.
_PARTS = ("CLIPTextModel", "CLIPVisionModel", "LongT5EncoderModel", "MT5EncoderModel", "T5EncoderModel")

# Public class -> file in models/. A config is in the file of its model.
_FILES = {
    name: file
    for file, classes, base in (*_FAMILIES.values(), *_VARIANTS.values())
    for name in (*classes.values(), base)
}

__all__ = ["CheckpointError", "PretrainedModel", "find_class", "find_folder", "load_model", "text_encoder_class"]


def load_model(
    path_or_hub_id: str | Path | ModelSource,
    *,
    head: bool = True,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    compute_type: ComputeType = "auto",
    ignore_fields: Collection[str] = (),
    packed_cache: str | Path | None = None,
) -> PretrainedModel:
    """The model in a folder with config.json and safetensors weights, in a file that ends in .gguf, or on the Hugging
    Face hub, ready to be called.

    Its class is the one that config.json names first in "architectures" (BertForMaskedLM, ...), or the family's model
    without a head, where none is named that this library has, or where head=False. A folder wins over a hub id.
    Weights are packed from the type that the file has, without a float32 copy; embedding tables stay in the file.

    compute_type: how weights are kept for products. "float32" and, for checkpoints of floating-point numbers, "auto"
    keep the file's values, "auto" in the bytes of the file: the same results. It keeps 8-bit integers, the blocks of
    GGUF files and the 4 bits of GPTQ, AWQ and compressed-tensors, too, whose products round activations. "float16" and
    "bfloat16" take half the memory and round weights to 11 (up to 65,504) or 8 significant bits; sums are float32, and
    so are activations, but on the levels avx512bf16 and amx, whose products with bfloat16 round them, too;
    "bfloat16_a32" does not. "int8" and "int8_a16" take a quarter: weights in 8 bits, activations rounded to 8 or
    16 bits in every product, sums exact (docs/low_precision.md says how accurate and how fast). "int4" takes a sixth,
    with activations in 16 bits, "int4_a8" in 8; "auto_a8" is "auto" with activations in 8 bits for the blocks of a
    file, as llama.cpp has them: prompts take 0.6 of the time. Convolutions, norms and embeddings stay as they are.
    A mapping gives parts another type than the rest, which is "": {"": "int8",
    "lm_head": "float32"}; parts have our names or the checkpoint's.
    ignore_fields: names of fields of config.json that are as if they were not there. A field that the family does not
    know is refused, since it may choose another computation; here the caller says that it does not.
    packed_cache: a folder for packed weights, which is made if it is not there. The first process to load a model
    writes a file of them, as large as they are; it and others map that file: they load without packing, and share the
    memory. There is a file for each model, compute_type and instruction set, and another one when the model's files
    change; one that is damaged (PackedCacheWarning) or of another version is written anew (docs/howto/processes.md).
    revision, cache_dir, token, local_files_only: of huggingface_hub.snapshot_download, for hub ids. Only JSON,
    safetensors, text and SentencePiece files are fetched.

    Raises:
        ValueError: there is no such compute_type, or it names a part that the model does not have.
        TypeError: ignore_fields is a string.
        CheckpointError: there is no such folder or model, its files are malformed, or the model is of a family that is
        not supported.
        OSError: packed_cache cannot be written.

    Example:
        >>> model = load_model("all-MiniLM-L6-v2")                                                    # doctest: +SKIP
        >>> model(np.array([[101, 7592, 102]])).last_hidden_state.shape                               # doctest: +SKIP
        (1, 3, 384)
    """
    source = open_source(
        path_or_hub_id, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
    )
    checkpoint = Checkpoint.open(source)
    model_class = _class_of(checkpoint.config, source, head)
    return model_class.from_checkpoint(
        checkpoint, compute_type=compute_type, ignore_fields=ignore_fields, packed_cache=packed_cache
    )


def find_class(source: ModelSource, *, head: bool = True) -> type[PretrainedModel]:
    """The class that `load_model` takes for a source; of its files, config.json alone is read.

    Raises:
        CheckpointError: there is no config.json, or the model is of a family that is not supported.

    Example:
        >>> find_class(open_source("bert-base-uncased")).__name__                                     # doctest: +SKIP
        'BertForMaskedLM'
    """
    return _class_of(source.object("config.json"), source, head)


def text_encoder_class(source: ModelSource) -> type[PretrainedModel]:
    """The class that encodes the texts of a source by `encode_packed`; of T5's kind the encoder without the decoder.

    Raises:
        CheckpointError: as `find_class`, or the model encodes no text.

    Example:
        >>> text_encoder_class(open_source("t5-small")).__name__                                      # doctest: +SKIP
        'T5EncoderModel'
    """
    found = find_class(source, head=False)
    encoder = getattr(found, "encoder_class", found)
    if not hasattr(encoder, "encode_packed"):
        raise CheckpointError(f"{source}: {found.__name__} encodes no text")
    return encoder


def _class_of(config: Mapping[str, Any], source: ModelSource, head: bool) -> type[PretrainedModel]:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in _FAMILIES:
        raise CheckpointError(
            f"{source.place('config.json')}: model_type is {model_type!r}; supported: {', '.join(sorted(_FAMILIES))}"
        )
    variants = (
        made for (kind, field, value), made in _VARIANTS.items() if (kind, config.get(field)) == (model_type, value)
    )
    file, classes, name = next(variants, _FAMILIES[model_type])
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        named = classes.get(architectures[0], name)
        name = named if head or named in _PARTS else name
    return getattr(_family(file), name)


def __getattr__(name: str) -> Any:
    file = _FILES.get(f"{name.removesuffix('Config')}Model" if name.endswith("Config") else name)
    if file is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_family(file), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})


def _family(file: str) -> Any:
    return import_module(f"transformer_fast.models.{file}")
