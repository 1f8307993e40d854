"""Which tokenizer class a folder asks for: as AutoTokenizer of transformers chooses.

`tokenizer` calls `class_of`. A class that is another one's alias is a name in `_ALIASES`; a family's own class is a
line in `_OF_TYPE`.

Source: AutoTokenizer of transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.tokenizer.classes import CLASSES, GENERIC, MARIAN
from transformer_fast.files.tokenizer.settings import TokenizerSettings

# Other names of these classes, without "Fast" at the end. PreTrainedTokenizer and the like mean the generic one.
_ALIASES = {
    "ElectraTokenizer": "BertTokenizer",
    "MobileBertTokenizer": "BertTokenizer",
    "SqueezeBertTokenizer": "BertTokenizer",
    "LxmertTokenizer": "BertTokenizer",
    "BartTokenizer": "RobertaTokenizer",
    "LongformerTokenizer": "RobertaTokenizer",
    "LEDTokenizer": "RobertaTokenizer",
    "MvpTokenizer": "RobertaTokenizer",
}

# Classes of transformers that are none of these. A name that is not here, either, is unknown there, too.
_OTHERS = frozenset(
    f"{name}Tokenizer"
    for name in """
    Barthez Bartpho Basic BertGeneration BertJapanese Bertweet BioGpt BlenderbotSmall Blenderbot
    ByT5 CTRL Canine Character Clvp CodeLlama Cohere ConvBert CpmAnt Cpm DPRContextEncoder
    DPRQuestionEncoder DPRReader Deberta Dia Esm Esmc FNet FSMT FastSpeech2Conformer Flaubert Funnel
    GPTNeoXJapanese GPTSw3 Herbert Lasr LayoutLMv2 LayoutLMv3 LayoutXLM Luke M2M100 MBart50 MBart MLuke
    MarkupLM Mecab Mgpstr MyT5 Nllb Nougat OpenAIGPT PLBart Pegasus Perceiver Phobert Pop2Piano ProphetNet
    Qwen3_5 Rag Reformer RemBert RoCBert RoFormer SeamlessM4T Siglip2 Siglip Speech2Text SpeechT5 Splinter Tapas
    Tipsv2 Udop VideoPrism Vits Wav2Vec2CTC Wav2Vec2PhonemeCTC Wordpiece XGLM XLM XLNet
    """.split()
)

# model_type -> the class that transformers registers for it.
_OF_TYPE = {
    "albert": "AlbertTokenizer",
    "bart": "RobertaTokenizer",
    "bert": "BertTokenizer",
    "big_bird": "BigBirdTokenizer",
    "camembert": "CamembertTokenizer",
    "clip": "CLIPTokenizer",
    "data2vec-text": "RobertaTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "gptj": "GPT2Tokenizer",
    "gte": "XLMRobertaTokenizer",
    "granite": GENERIC,
    "marian": MARIAN,
    "mistral": GENERIC,
    "mixtral": GENERIC,
    "modernbert": GENERIC,
    "mpnet": "MPNetTokenizer",
    "mt5": "T5Tokenizer",
    "nomic_bert": "BertTokenizer",
    "olmo2": GENERIC,
    "phi": "GPT2Tokenizer",
    "phi3": GENERIC,
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "starcoder2": "GPT2Tokenizer",
    "t5": "T5Tokenizer",
    "whisper": "WhisperTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
# Those whose folders often name a wrong class: the registered one counts.
_REGISTERED_COUNTS = frozenset({"modernbert", "phi3", "qwen2"})


def class_of(config: Mapping[str, Any], settings: TokenizerSettings, data: bytes | None) -> str:
    """The name of the class that AutoTokenizer takes for a folder: a key of CLASSES.

    config: the content of config.json. data: tokenizer.json, if there is one.

    Raises:
        CheckpointError: it is a class that is not supported.
    """
    declared = settings.options.get("tokenizer_class") or config.get("tokenizer_class")
    if declared is not None and not isinstance(declared, str):
        raise CheckpointError(f"{settings.place}: tokenizer_class is {declared!r}; needed: a string")
    declared = None if declared is None else declared.removesuffix("Fast")
    model_type = config.get("model_type")
    registered = _OF_TYPE.get(model_type) if isinstance(model_type, str) else None
    if declared is None:
        return registered or GENERIC
    if _has_code(settings):  # transformers runs none of it unless it is told to, and takes the class by its name
        return _known(declared, settings)
    counts = model_type in _REGISTERED_COUNTS
    if declared == "LlamaTokenizer" and not counts and model_type != "mistral" and b'"ByteLevel"' in (data or b""):
        return GENERIC
    if registered == GENERIC or (registered is not None and counts):
        return registered
    return _known(declared, settings)


def _has_code(settings: TokenizerSettings) -> bool:
    """Does the folder bring a tokenizer class of its own?"""
    code = settings.options.get("auto_map")
    return code.get("AutoTokenizer") is not None if isinstance(code, dict) else code is not None


def _known(declared: str, settings: TokenizerSettings) -> str:
    if declared in CLASSES:
        return declared
    if declared in _OTHERS:
        raise CheckpointError(
            f"{settings.place}: tokenizer_class is {declared!r}; supported: {', '.join(sorted(CLASSES))}"
        )
    return _ALIASES.get(declared, GENERIC)
