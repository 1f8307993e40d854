"""`generate` and `stream`: from arguments to a prompt, a config and one of the searches.

See the package's docstring for what a model has to offer. `GenerationMixin` gives both to a model as methods.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.json_files import write_json
from transformer_fast.functional import arrays
from transformer_fast.generation.beams import beam_search
from transformer_fast.generation.config import GenerationConfig, read_generation_config, resolve
from transformer_fast.generation.logits import Processor, processors
from transformer_fast.generation.search import greedy, sampler, search
from transformer_fast.generation.speculation import Speculation, speculation
from transformer_fast.generation.speculation import run as speculative
from transformer_fast.generation.stopping import Stop


@dataclass
class _Task:
    """A generation, checked, with nothing computed yet."""

    model: Any
    config: GenerationConfig
    ids: np.ndarray  # (B, n): what the new ids are appended to
    inputs: dict[str, Any]  # arguments of model.start
    steps: list[Processor]
    stop: Stop
    tokens: np.ndarray | None  # (B, n): False where the prompt is padding; None: nowhere
    speculation: Speculation

    def start(self) -> tuple[np.ndarray, Any]:
        return self.model.start(**self.inputs, capacity=self.stop.max_length)

    def search(self) -> Iterator[np.ndarray]:
        config, ids = self.config, self.ids
        logits, state = self.start()
        if self.speculation.wanted:
            yield from speculative(
                self.model, self.speculation, logits, state, ids, self.tokens, self.steps, config, self.stop
            )
            return
        if config.num_return_sequences > 1:
            index = np.repeat(np.arange(len(ids)), config.num_return_sequences)
            logits, ids = logits[index], ids[index]
            state.reorder(index)
        choose = sampler(np.random.default_rng(config.seed)) if config.do_sample else greedy
        # As transformers: without an id that ends rows, those that a stop string has ended go on until all have.
        pad = config.pad if config.eos else None
        yield from search(self.model, logits, state, ids, self.steps, choose, self.stop, pad)


def _task(model: Any, input_ids, attention_mask, logits_processor, tokenizer, options: dict[str, Any]) -> _Task:
    config, inputs = resolve(getattr(model, "generation_config", {}), options)
    if inputs.get("past_key_values", 0) is None:
        del inputs["past_key_values"]
    accepted = inspect.signature(model.start).parameters
    unknown = [name for name in inputs if name not in accepted or name == "capacity"]
    if unknown:
        raise TypeError(f"generate() got {', '.join(unknown)}, which {type(model).__name__} does not take")
    if input_ids is not None:
        input_ids = _ids("input_ids", input_ids)
    if getattr(model, "is_encoder_decoder", False):
        ids = _decoder_ids(model, config, input_ids, inputs)
        inputs["decoder_input_ids"] = ids
        tokens = None
    else:
        if input_ids is None:
            raise TypeError("input_ids is None; needed: integers (B, L)")
        ids = input_ids
        attention_mask = tokens = _tokens(ids, attention_mask, config)
    max_length = config.longest(ids.shape[1], getattr(model.config, "max_position_embeddings", None))
    steps = processors(config, ids.shape[1], max_length, tokens, logits_processor, source=input_ids)
    stop = Stop(max_length, config.eos, config.stop_strings, tokenizer, config.max_time)
    if "past_key_values" in inputs and max(config.num_beams, config.num_return_sequences) > 1:
        raise ValueError(
            f"past_key_values is given with num_beams={config.num_beams} and num_return_sequences="
            f"{config.num_return_sequences}; needed: 1, since the rows of a past would become others"
        )
    drafts = speculation(model, options, config, len(ids) * config.num_return_sequences)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
    return _Task(model, config, ids, inputs, steps, stop, tokens, drafts)


def _ids(name: str, array: Any) -> np.ndarray:
    array = arrays.as_array(array, name, arrays.PADDED)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}; needed: integers")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} has shape {array.shape}; needed: (B, L) with L >= 1")
    return array.astype(np.int64, copy=False)


def _tokens(ids: np.ndarray, mask: Any, config: GenerationConfig) -> np.ndarray | None:
    """(B, L) booleans, False for padding; None where all are tokens. Without a mask the padding id tells them apart."""
    if mask is None:
        if config.pad is None or config.pad in config.eos:
            return None
        tokens = ids != config.pad
    else:
        mask = arrays.as_array(mask, "attention_mask")
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask has shape {mask.shape}; needed: {ids.shape}, one value a token")
        tokens = mask != 0
    if not tokens.any(axis=1).all():
        row = int(np.argmin(tokens.any(axis=1)))
        raise ValueError(f"row {row} of input_ids holds padding only; needed: at least one token")
    return None if tokens.all() else tokens


def _decoder_ids(model: Any, config: GenerationConfig, input_ids: np.ndarray | None, inputs: dict) -> np.ndarray:
    """The first ids of the decoder, (B, n): the start token, and after it the ids given."""
    given = inputs.pop("decoder_input_ids", None)
    if given is not None:
        given = _ids("decoder_input_ids", given)
    start = config.decoder_start_token_id if config.decoder_start_token_id is not None else config.bos_token_id
    if start is None:
        if given is None:
            raise ValueError("decoder_start_token_id is None; needed: the id that decoding begins with")
        return given
    main = given if given is not None else input_ids if input_ids is not None else next(iter(inputs.values()), None)
    if main is None:
        raise TypeError("input_ids is None; needed: integers (B, L), or the model's own main input")
    starts = _start_column(start, len(main))
    if given is None:
        return starts
    if getattr(model, "prepends_decoder_start", True) and (given[:, :1] != starts).all():
        return np.concatenate([starts, given], axis=1)
    return given


def _start_column(start: Any, rows: int) -> np.ndarray:
    """The id that decoding begins with as (rows, 1): one for all, or a list with one a row."""
    if np.ndim(start) and len(start) != rows:
        raise ValueError(f"decoder_start_token_id has {len(start)} ids; needed: one, or {rows}, one a row")
    return np.broadcast_to(np.asarray(start, np.int64).reshape(-1, 1), (rows, 1))


def generate(
    model: Any,
    input_ids: Any = None,
    attention_mask: Any = None,
    *,
    logits_processor: Any = None,
    tokenizer: Any = None,
    streamer: Any = None,
    **options: Any,
) -> np.ndarray:
    """Continues each row of input_ids (B, L): ids (B * num_return_sequences, L + new), padded where a row has ended.

    For an encoder-decoder model the result holds the decoder's ids. Options are those of `GenerationConfig`, with
    transformers' meaning: greedy search by default, beam search with num_beams, sampling with do_sample (with both,
    beams by chance); the model's `generation_config` gives the defaults. attention_mask (B, L) is 0 where padding is,
    on the left or on the right; without it pad_token_id tells, unless that id also ends rows. For an encoder-decoder,
    as in transformers, everything is a token without a mask.

    logits_processor: callable(ids (B, n), scores (B, V)) -> scores, or a list of them.
    tokenizer: needed for stop_strings. streamer: has put(ids) and end(); it gets the prompt and then ids (B,).
    Further arguments go to the model:
    kv_cache_dtype: "float32", "bfloat16", "float16" or "int8", how keys and values are kept between tokens; those of an
    encoder's states, too.
    kv_page_size, of decoders: keys and values are kept in pages of so many tokens, a multiple of 16 (64 is a good one):
    rows that continue one prompt (num_return_sequences, beams) hold it once and read it once, and pages are copied
    only when rows part. Layers with a sliding window keep theirs in one piece. It rounds in another order where rows
    share.
    past_key_values, of decoders: a past of the first columns of input_ids, which are not computed again (without beams
    and padding). It is changed in place, and then holds all ids of the result but the last.

    Speculation, for one row without beams: the same tokens (with an assistant and do_sample: tokens of the same
    distribution), sooner where drafts are often right; their number adapts, down to none.
    prompt_lookup_num_tokens: draft at most so many tokens that followed an earlier occurrence of the last
    max_matching_ngram_size (2) tokens or fewer.
    assistant_model: a smaller model of the same vocabulary drafts at most num_assistant_tokens (20).

    Raises:
        ValueError, TypeError: an argument does not fit; the text names it.
        NotImplementedError: an option of transformers that is not supported here.

    Source: transformers' GenerationMixin.generate.

    Example:
        >>> model.generate([[464, 2068]], max_new_tokens=3)                                           # doctest: +SKIP
        array([[ 464, 2068, 7586, 21831, 18045]])
    """
    task = _task(model, input_ids, attention_mask, logits_processor, tokenizer, options)
    if task.config.num_beams > 1:
        if streamer is not None:
            raise ValueError(f"streamer is given and num_beams is {task.config.num_beams}; needed: num_beams=1")
        logits, state = task.start()
        return beam_search(model, logits, state, task.ids, task.steps, task.stop, task.config)
    ids = np.repeat(task.ids, task.config.num_return_sequences, axis=0)
    if streamer is not None:
        streamer.put(ids)
    chosen = []
    for tokens in task.search():
        chosen.append(tokens)
        if streamer is not None:
            streamer.put(tokens)
    if streamer is not None:
        streamer.end()
    return np.concatenate([ids, np.stack(chosen, axis=1)], axis=1)


def stream(
    model: Any,
    input_ids: Any = None,
    attention_mask: Any = None,
    *,
    logits_processor: Any = None,
    tokenizer: Any = None,
    **options: Any,
) -> Iterator[np.ndarray]:
    """As `generate`, one token at a time: yields the next ids (B * num_return_sequences,) as soon as they are known.

    Raises:
        ValueError: num_beams > 1, whose ids are not final before the end. Otherwise as `generate`.

    Example:
        >>> for ids in model.stream([[464, 2068]], max_new_tokens=3):                                 # doctest: +SKIP
        ...     print(ids)
    """
    task = _task(model, input_ids, attention_mask, logits_processor, tokenizer, options)
    if task.config.num_beams > 1:
        raise ValueError(f"num_beams is {task.config.num_beams}; needed: 1, since beams are not final before the end")
    return task.search()


class GenerationMixin:
    """`generate` and `stream` for a model that offers `start` and `step`; goes before the model's base class.

    generation_config holds the defaults of the model's folder, by option; that of the class, what transformers' config
    class assumes where config.json says nothing and there is no generation_config.json.
    """

    is_encoder_decoder = False
    generation_config: dict[str, Any] = {}
    carried = ("generation_config",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.generation_config = dict(type(self).generation_config)

    @classmethod
    def from_checkpoint(cls, checkpoint: Any, **options: Any) -> Any:
        """The model of a checkpoint with its generation defaults; see `load_model`."""
        model = super().from_checkpoint(checkpoint, **options)
        ignored = options.get("ignore_fields", ())
        told = {name: value for name, value in checkpoint.config.items() if name not in ignored}
        found = read_generation_config(checkpoint.source, cls.generation_config | told)
        model.__dict__["generation_config"] = found  # not by an attribute, with which it would pickle with its weights
        return model

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """As the model's base class, whose options these are, and generation_config.json."""
        super().save_pretrained(folder, **options)
        write_json(Path(folder) / "generation_config.json", self.generation_config)

    def generate(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> np.ndarray:
        """See `transformer_fast.generation.generate`."""
        return generate(self, input_ids, attention_mask, **options)

    def stream(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Iterator[np.ndarray]:
        """See `transformer_fast.generation.stream`."""
        return stream(self, input_ids, attention_mask, **options)
