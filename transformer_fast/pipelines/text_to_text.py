"""`Summariser` and `Translator`: texts in, other texts out, by encoder-decoder models (BART, T5, Marian, ...).

config.json holds what a task needs (words before the text, options of the search) under task_specific_params; see
`TextToText`. A new task is one more class with a `_task`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import Tokenizer
from transformer_fast.models import PretrainedModel, load_model
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.models.common.seq2seq import ConditionalGeneration
from transformer_fast.models.whisper import WhisperForConditionalGeneration
from transformer_fast.pipelines.texts import TextPipeline, is_single, several

Pipeline = TypeVar("Pipeline", bound="TextToText")


class TextToText(TextPipeline):
    """A model that writes texts, with what it needs for its task.

    Attributes:
        prefix: what is put before each text.
        options: options of `model.generate` for the task; those of a call come before them.
    """

    model_class = ConditionalGeneration

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer, prefix: str = "", options=None) -> None:
        super().__init__(model, tokenizer)
        self.prefix = prefix
        self.options = dict(options or {})

    @classmethod
    def _from_task(cls: type[Pipeline], source: ModelSource, task: str | None, **options: Any) -> Pipeline:
        model = load_model(source, **options)
        if not isinstance(model, cls.model_class) or isinstance(model, WhisperForConditionalGeneration):
            raise CheckpointError(
                f"{source}: holds a {type(model).__name__}; {cls.__name__} needs an encoder-decoder that writes texts"
            )
        tasks = source.object("config.json").get("task_specific_params") or {}
        options = tasks.get(task, {}) if isinstance(tasks, dict) else None
        if not isinstance(options, dict):
            place = source.place("config.json")
            raise CheckpointError(f"{place}: task_specific_params is {tasks!r}; needed: an object of objects")
        options = dict(options)
        return cls(model, Tokenizer(source), options.pop("prefix", ""), options)

    def _model_limit(self) -> int | None:
        field = self.model.model_class.source_field
        return None if field is None else getattr(self.model.config, field)

    def __call__(self, texts, *, truncation: bool = True, **options: Any) -> Any:
        """The model's text for one text, a string, or for each of several.

        texts: a string or a list of strings. truncation: cut off what the model cannot take. options: those of
        `model.generate` (max_new_tokens, num_beams, do_sample, ...), except num_return_sequences.

        Raises:
            TypeError: a text is no string.
            ValueError: another argument is out of range, or a text is too long with truncation=False.
        """
        if "num_return_sequences" in options:
            raise ValueError("num_return_sequences is given; needed: one result a text, without it")
        inputs = several("texts", texts)
        encodings = self._encodings([self.prefix + text for text in inputs], truncation=truncation)
        results: list[Any] = [None] * len(inputs)
        for indices, arguments in self._batches(encodings):
            ids = self.model.generate(**arguments, **{**self.options, **options})
            for i, row in zip(indices, ids, strict=True):
                results[i] = self.tokenizer.decode(row.tolist(), skip_special_tokens=True).strip()
        return results[0] if is_single(texts) else results


class Summariser(TextToText):
    """Long texts in, short ones out.

    Example:
        >>> from transformer_fast.pipelines import Summariser
        >>> summarise = Summariser.from_pretrained("sshleifer/distilbart-cnn-12-6")                   # doctest: +SKIP
        >>> summarise(open("article.txt").read(), max_new_tokens=60)                                  # doctest: +SKIP
        'The city council has voted to ...'
    """

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path | ModelSource,
        *,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
        packed_cache: str | Path | None = None,
        **hub: Any,
    ) -> Summariser:
        """The summariser of a model folder, or of a model on the Hugging Face hub.

        compute_type, ignore_fields, packed_cache and hub: as in `load_model`.

        Raises:
            CheckpointError: there is no such folder, a file is malformed, or the model is one of another kind.
        """
        options = {"compute_type": compute_type, "ignore_fields": ignore_fields, "packed_cache": packed_cache}
        return cls._from_task(open_source(path_or_hub_id, **hub), "summarization", **options)


class Translator(TextToText):
    """Texts in one language in, the same in another out.

    Example:
        >>> from transformer_fast.pipelines import Translator
        >>> translate = Translator.from_pretrained("t5-small", source="en", target="de")              # doctest: +SKIP
        >>> translate("The house is wonderful.")                                                      # doctest: +SKIP
        'Das Haus ist wunderbar.'
    """

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path | ModelSource,
        source: str | None = None,
        target: str | None = None,
        *,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
        packed_cache: str | Path | None = None,
        **hub: Any,
    ) -> Translator:
        """The translator of a model folder, or of a model on the Hugging Face hub.

        compute_type, ignore_fields, packed_cache and hub: as in `load_model`.

        source, target: languages ("en", "de") of a model for several, by which it has translation_en_to_de among its
        task_specific_params. A model for one pair of languages (Marian) needs neither.

        Raises:
            CheckpointError: there is no such folder, a file is malformed, or the model is one of another kind.
            ValueError: the model does not know the languages.
        """
        if (source is None) != (target is None):
            raise ValueError(f"source is {source!r} and target {target!r}; needed: both or neither")
        model_source = open_source(path_or_hub_id, **hub)
        options = {"compute_type": compute_type, "ignore_fields": ignore_fields, "packed_cache": packed_cache}
        if source is None:
            return cls._from_task(model_source, None, **options)
        task = f"translation_{source}_to_{target}"
        if task not in (model_source.object("config.json").get("task_specific_params") or {}):
            raise ValueError(
                f"source is {source!r} and target {target!r}; {model_source.place('config.json')} has no {task}"
            )
        return cls._from_task(model_source, task, **options)
