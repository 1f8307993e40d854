"""Whisper: speech to text, an encoder of log-mel features and a decoder of text.

Source: Radford et al. 2022, https://arxiv.org/abs/2212.04356, and transformers' modeling_whisper and
generation_whisper. `load_model` finds this file by model_type "whisper"; `files.sound` makes
features of sound. `common.seq2seq` and `common.seq2seq_blocks` compute.

`generate` transcribes one segment (30 s) a row. Timestamps, and the search through longer recordings that is steered
by them, are not implemented.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transformer_fast.files.languages import WHISPER_LANGUAGES
from transformer_fast.generation import generate, stream
from transformer_fast.models.bart import GENERAL_NAMES, bart_shape, check_bart_fields, layer_sources
from transformer_fast.models.common.base import Source
from transformer_fast.models.common.output import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from transformer_fast.models.common.seq2seq import ConditionalGeneration, EncoderDecoder
from transformer_fast.models.common.seq2seq_blocks import Seq2SeqState, Stack
from transformer_fast.nn import Conv1d, Embedding
from transformer_fast.nn.sequences import PackedSequences

_TASKS = ("transcribe", "translate")


@dataclass(frozen=True)
class WhisperConfig:
    """The fields of config.json that have an effect; the defaults are transformers'.

    forced_decoder_ids: [[place, id], ...], of files that do not have them in generation_config.json.
    """

    vocab_size: int = 51865
    num_mel_bins: int = 80
    encoder_layers: int = 4
    encoder_attention_heads: int = 6
    encoder_ffn_dim: int = 1536
    decoder_layers: int = 4
    decoder_attention_heads: int = 6
    decoder_ffn_dim: int = 1536
    activation_function: str = "gelu"
    d_model: int = 384
    max_source_positions: int = 1500
    max_target_positions: int = 448
    tie_word_embeddings: bool = True
    forced_decoder_ids: Any = None

    general_names = GENERAL_NAMES | {"num_key_value_heads": "encoder_attention_heads"}
    without_effect = (
        # Training: which parts of the features are masked.
        "apply_spec_augment",
        "mask_feature_length",
        "mask_feature_min_masks",
        "mask_feature_prob",
        "mask_time_length",
        "mask_time_min_masks",
        "mask_time_prob",
        # Of the classifier of sounds, and of the times of words.
        "classifier_proj_size",
        "median_filter_width",
        "use_weighted_layer_sum",
        # Transformers reads it, and multiplies nothing.
        "scale_embedding",
    )

    def __post_init__(self) -> None:
        check_bart_fields(self)

    @property
    def max_position_embeddings(self) -> int:
        """How many tokens the decoder can count to."""
        return self.max_target_positions


class WhisperModel(EncoderDecoder):
    """The encoder and the decoder, without a head.

    Example:
        >>> model = load_model("whisper-tiny", head=False)                                            # doctest: +SKIP
        >>> model(features, decoder_input_ids=[[50258]]).last_hidden_state.shape                      # doctest: +SKIP
        (1, 1, 384)
    """

    config_class = WhisperConfig
    model_types = ("whisper",)
    neutral = {
        "is_encoder_decoder": (True, None),
        "is_decoder": (False, None),
        "quantization_config": (None,),
    }
    # The heads of generation and of classification.
    ignored = ("proj_out.", "projector.", "classifier.", "layer_weights")
    stacks = {"encoder.layers.": "encoder_layers", "decoder.layers.": "decoder_layers"}
    base_prefix = "model."
    target_field = "max_target_positions"

    def __init__(self, config: WhisperConfig) -> None:
        options = {"norm_first": True, "key_bias": False}
        encoder = Stack(bart_shape(config, "encoder", **options), config.encoder_layers)
        decoder = Stack(bart_shape(config, "decoder", **options), config.decoder_layers, cross=True)
        super().__init__(config, encoder, decoder)
        h = config.d_model
        self.conv1 = Conv1d(config.num_mel_bins, h, 3, padding=1)
        self.conv2 = Conv1d(h, h, 3, stride=2, padding=1)
        self.encoder_positions = Embedding(config.max_source_positions, h)
        self.decoder_embeddings = Embedding(config.vocab_size, h)
        self.decoder_positions = Embedding(config.max_target_positions, h)

    @classmethod
    def sources(cls, config: WhisperConfig, names: Collection[str]) -> dict[str, Source]:
        sources = layer_sources(config, biases="qv")
        sources["decoder_embeddings.weight"] = Source("decoder.embed_tokens.weight")
        for stack in ("encoder", "decoder"):
            sources[f"{stack}_positions.weight"] = Source(f"{stack}.embed_positions.weight")
        for kind in ("weight", "bias"):
            sources |= {f"{conv}.{kind}": Source(f"encoder.{conv}.{kind}") for conv in ("conv1", "conv2")}
            for stack in ("encoder", "decoder"):
                sources[f"{stack}.final_norm.{kind}"] = Source(f"{stack}.layer_norm.{kind}")
        return sources

    def encode(
        self, input_features: np.ndarray, output_attentions: bool = False, output_hidden_states: bool = False
    ) -> BaseModelOutput:
        """Run only the encoder: input_features as in `forward` -> last_hidden_state (B, max_source_positions, h)."""
        return self._encode(input_features, None, output_attentions, output_hidden_states).output()

    def forward(
        self,
        input_features: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        decoder_input_ids: np.ndarray | None = None,
        decoder_attention_mask: np.ndarray | None = None,
        encoder_outputs: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> Seq2SeqModelOutput:
        """As transformers' model: features and integers (B, Ld) in, last_hidden_state (B, Ld, h) out.

        input_features: float32 (B, num_mel_bins, 2 max_source_positions), of `audio.WhisperFeatureExtractor`.
        attention_mask has no effect, as in transformers: silence is a sound. The rest as in `EncoderDecoder.forward`.
        """
        return super().forward(
            input_features,
            None,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            output_attentions,
            output_hidden_states,
        )

    def embed_target(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Packed ids and positions (T,) -> (T, h)."""
        words = self.decoder_embeddings(ids)
        words += self.decoder_positions(positions)
        return words

    def _encode(self, input_features, attention_mask, output_attentions=False, output_hidden_states=False):
        config = self.config
        features, L = np.asarray(input_features), config.max_source_positions
        if features.dtype != np.float32:
            raise TypeError(f"input_features has dtype {features.dtype}; needed: float32")
        if features.ndim != 3 or features.shape[1:] != (config.num_mel_bins, 2 * L):
            raise ValueError(f"input_features has shape {features.shape}; needed: (B, {config.num_mel_bins}, {2 * L})")
        frames = self.conv2(self.conv1(features, activation="gelu"), activation="gelu")
        hidden = np.ascontiguousarray(frames.swapaxes(1, 2)) + self.encoder_positions.weight
        packing = PackedSequences(np.ones((len(features), L), np.bool_))
        return self._run_encoder(packing.pack(hidden), packing, output_attentions, output_hidden_states)


class WhisperForConditionalGeneration(ConditionalGeneration):
    """Whisper with the layer that scores the next token: `generate` transcribes or translates.

    Example:
        >>> model, extractor = load_model("whisper-tiny"), WhisperFeatureExtractor()                  # doctest: +SKIP
        >>> features = extractor(read_wav("speech.wav", 16000))                                       # doctest: +SKIP
        >>> model.generate(**features, language="en")                                                 # doctest: +SKIP
        array([[ 2221,    13,  2326,   388,   391]])
    """

    model_class = WhisperModel
    config_class = WhisperConfig
    model_types = WhisperModel.model_types
    neutral = WhisperModel.neutral
    stacks = WhisperModel.stacks
    base_prefix = WhisperModel.base_prefix
    head_tensor = "proj_out.weight"
    head_prefixes = ("proj_out.",)
    prepends_decoder_start = False  # a prompt goes before it

    def forward(
        self,
        input_features: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        decoder_input_ids: np.ndarray | None = None,
        decoder_attention_mask: np.ndarray | None = None,
        encoder_outputs: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> Seq2SeqLMOutput:
        """As `WhisperModel.forward`, with logits (B, Ld, V) in place of the decoder's last state."""
        return super().forward(
            input_features,
            None,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            output_attentions,
            output_hidden_states,
        )

    def start(
        self,
        input_ids: None = None,
        attention_mask: np.ndarray | None = None,
        *,
        capacity: int,
        decoder_input_ids: np.ndarray,
        input_features: np.ndarray | None = None,
        encoder_outputs: Any = None,
        kv_cache_dtype: str | None = None,
    ) -> tuple[np.ndarray, Seq2SeqState]:
        """Encoder and first tokens of a generation; see `transformer_fast.generation`."""
        return super().start(
            input_features,
            None,
            capacity=capacity,
            decoder_input_ids=decoder_input_ids,
            encoder_outputs=encoder_outputs,
            kv_cache_dtype=kv_cache_dtype,
        )

    def generate(
        self,
        input_features: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        *,
        language: str | Sequence[str] | None = None,
        task: str | None = None,
        prompt_ids: np.ndarray | None = None,
        return_timestamps: bool | None = None,
        encoder_outputs: Any = None,
        **options: Any,
    ) -> np.ndarray:
        """The text's ids of each row, (B, L), without the prompt and the end, padded where a row is shorter.

        input_features: as in `forward`, one segment a row. language: "en", "English" or "<|en|>", or one a row; without
        it the folder's settings tell, or the model itself hears. task: "transcribe" (default) or "translate" (to
        English). prompt_ids (n,): text that comes before. return_timestamps must be False. The other options are those
        of `transformer_fast.generation.generate`.

        Raises:
            ValueError, TypeError: an argument does not fit; the text names it.
            NotImplementedError: timestamps.
        """
        options, ids = self._prepared(
            input_features, language, task, prompt_ids, return_timestamps, encoder_outputs, options
        )
        rows = generate(self, **options)[:, ids.shape[1] :]
        return self._text(rows)

    def stream(
        self,
        input_features: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
        *,
        language: str | Sequence[str] | None = None,
        task: str | None = None,
        prompt_ids: np.ndarray | None = None,
        return_timestamps: bool | None = None,
        encoder_outputs: Any = None,
        **options: Any,
    ) -> Iterator[np.ndarray]:
        """As `generate`, one token of each row (B,) at a time, the end and the padding after it included."""
        options, _ = self._prepared(
            input_features, language, task, prompt_ids, return_timestamps, encoder_outputs, options
        )
        return stream(self, **options)

    def detect_language(self, input_features: np.ndarray | None = None, encoder_outputs: Any = None) -> np.ndarray:
        """The id of the language token that fits each row best, (B,).

        Raises:
            ValueError: the folder's generation_config.json has no lang_to_id.
        """
        languages = self._setting("lang_to_id", "language")
        start = self._start_id()
        if encoder_outputs is None:
            encoder_outputs = self.encode(input_features)
        rows = len(encoder_outputs[0])
        logits = self(encoder_outputs=encoder_outputs, decoder_input_ids=np.full((rows, 1), start)).logits[:, -1]
        ids = np.array(sorted(languages.values()))
        return ids[np.argmax(logits[:, ids], axis=1)]

    # ------------------------------------------------------------------------------------------------------------------
    # The prompt

    def _prepared(self, input_features, language, task, prompt_ids, return_timestamps, encoder_outputs, options):
        """The arguments of `generate`, and the decoder's prompt (B, n)."""
        defaults = self.generation_config
        if return_timestamps is None:
            return_timestamps = defaults.get("return_timestamps")
        if return_timestamps:
            raise NotImplementedError(f"return_timestamps is {return_timestamps!r}; needed: False")
        if encoder_outputs is None:
            if input_features is None:
                raise ValueError(f"input_features is None; needed: float32 (B, {self.config.num_mel_bins}, frames)")
            encoder_outputs = self.encode(input_features)
        ids = self._prompt(len(encoder_outputs[0]), encoder_outputs, language, task)
        if prompt_ids is not None:
            prompt_ids = np.asarray(prompt_ids)
            if prompt_ids.ndim != 1:
                raise ValueError(f"prompt_ids has shape {prompt_ids.shape}; needed: (n,)")
            ids = np.concatenate([np.tile(prompt_ids, (len(ids), 1)), ids], axis=1)
        limit, n = self.config.max_target_positions, ids.shape[1]
        new = options.get("max_new_tokens", defaults.get("max_new_tokens"))
        length = options.get("max_length", defaults.get("max_length"))
        if (new or 0) + n > limit:
            raise ValueError(f"max_new_tokens is {new} after {n} tokens; needed: at most {limit} in all")
        if new is None and length is not None:
            # transformers counts max_length without the prompt here.
            options["max_length"] = min(length + min(limit // 2 - 1, n), limit)
        return {"decoder_input_ids": ids, "encoder_outputs": encoder_outputs, **options}, ids

    def _prompt(self, rows: int, encoder_outputs: Any, language, task: str | None) -> np.ndarray:
        """The first ids of the decoder, (B, n): start, language, task, no timestamps."""
        defaults = self.generation_config
        if defaults.get("is_multilingual") is False and not (language is None and task is None):
            raise ValueError("language or task is given for a model that knows English only; needed: neither")
        language = defaults.get("language") if language is None else language
        task = defaults.get("task") if task is None else task
        if task is not None and task not in _TASKS:
            raise ValueError(f"task is {task!r}; needed: one of {', '.join(_TASKS)}")
        prompt: list[int | None] = [self._start_id()]
        if language is None and task is None:
            prompt += self._forced()
        if language is not None:
            ids = self._language_ids(language, rows)
        elif "lang_to_id" in defaults and (len(prompt) == 1 or prompt[1] is None):
            ids = self.detect_language(encoder_outputs=encoder_outputs)
        else:
            ids = None
        columns = [np.full(rows, -1 if token is None else token) for token in prompt]
        if ids is not None:
            columns[1:2] = [ids]
        tasks = defaults.get("task_to_id", {})
        if task is not None:
            columns.append(np.full(rows, self._setting("task_to_id", "task")[task]))
        elif language is not None and tasks:
            columns.append(np.full(rows, tasks["transcribe"]))
        last = defaults.get("no_timestamps_token_id")
        if last is not None and not (columns[-1] == last).all():
            columns.append(np.full(rows, last))
        return np.stack([column for column in columns if (column >= 0).all()], axis=1)

    def _forced(self) -> list[int | None]:
        """The ids that forced_decoder_ids puts after the start; None is the language that is to be detected."""
        forced = self.generation_config.get("forced_decoder_ids") or self.config.forced_decoder_ids or []
        pairs = isinstance(forced, list) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in forced)
        if not pairs or [place for place, _ in forced] != list(range(1, len(forced) + 1)):
            raise ValueError(f"forced_decoder_ids is {forced}; needed: [[1, id], [2, id], ...]")
        return [token for _, token in forced]

    def _language_ids(self, language: str | Sequence[str], rows: int) -> np.ndarray:
        known = self._setting("lang_to_id", "language")
        languages = [language] * rows if isinstance(language, str) else list(language)
        if len(languages) != rows:
            raise ValueError(f"language has {len(languages)} entries; needed: one, or {rows}, one a row")
        ids = []
        for language in languages:
            if not isinstance(language, str):
                raise TypeError(f"language holds {language!r}; needed: strings")
            name = language.lower()
            token = name if name in known else f"<|{WHISPER_LANGUAGES.get(name, name)}|>"
            if token not in known:
                codes = ", ".join(n.strip("<|>") for n in known)
                raise ValueError(f"language is {language!r}; needed: one of {codes}, or such a language's name")
            ids.append(known[token])
        return np.array(ids)

    def _setting(self, name: str, argument: str) -> dict[str, int]:
        if name not in self.generation_config:
            raise ValueError(f"{argument} needs {name} in the folder's generation_config.json; there is none")
        return self.generation_config[name]

    def _start_id(self) -> int:
        start = self.generation_config.get("decoder_start_token_id")
        if start is None:
            raise ValueError("decoder_start_token_id is None; needed: the id that decoding begins with")
        return start

    def _text(self, rows: np.ndarray) -> np.ndarray:
        """Rows (B, n) without the end and what follows it, padded to the longest."""
        ends = self.generation_config.get("eos_token_id")
        ended = np.isin(rows, [] if ends is None else ends)
        lengths = np.where(ended.any(axis=1), ended.argmax(axis=1), rows.shape[1])
        rows = rows[:, : lengths.max(initial=0)].copy()
        pad = self.generation_config.get("pad_token_id")
        if pad is not None:
            rows[np.arange(rows.shape[1]) >= lengths[:, None]] = pad
        return rows
