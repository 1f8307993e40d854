"""The routes of a sparse encoder: which modules may follow each other, beside those of `sentence_routes`.

    texts -> masked-language model -> SpladePooling -> modules -> vectors
    texts -> SparseStaticEmbedding -> modules -> vectors
    texts -> any route of a SentenceEncoder, with a SparseAutoEncoder -> vectors

`SparseEncoder` passes `SparseRouteMaker` to `read_routes`. A further start of a route is a case of its `route`.

Source: sentence-transformers 6, sparse_encoder/model.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformer_fast.files.errors import CheckpointError
from transformer_fast.pipelines.sentence_modules import KINDS
from transformer_fast.pipelines.sentence_routes import Route, RouteMaker, pooled_at
from transformer_fast.pipelines.sentence_settings import ModuleFiles
from transformer_fast.pipelines.sparse_modules import (
    MaskedLMInput,
    SparseStaticEmbedding,
    SpladePooling,
    TokenPresence,
)

# The class of a masked-language model in a folder -> transformer_task where its files do not say.
_TASKS = {"Transformer": "feature-extraction", "MLMTransformer": "fill-mask"}


class SparseRouteMaker(RouteMaker):
    """Makes routes; an input that several of them share is made once."""

    def route(self, modules: Sequence[ModuleFiles], what: str, plain: bool = False) -> Route:
        """what: the modules, for error texts. plain: there is no modules.json, and the maximum of logits is taken."""
        kinds = [files.kind for files in modules]
        if plain and kinds == ["Transformer"]:
            return self.finished(self._masked_lm(modules[0], plain=True), SpladePooling(), ())
        if len(kinds) > 1 and kinds[0] in _TASKS and kinds[1] == "SpladePooling" and set(kinds[2:]) <= set(KINDS):
            input = self._masked_lm(modules[0])
            return self.finished(input, SpladePooling.read(modules[1].part(), input.vocab_size), modules[2:])
        if kinds and kinds[0] == "SparseStaticEmbedding" and set(kinds[1:]) <= set(KINDS):
            return self.finished(self.input(modules[0]), TokenPresence(), modules[1:])
        if plain or pooled_at(kinds) is None or "SparseAutoEncoder" not in kinds:
            raise CheckpointError(
                f"{what or 'the modules'} are {', '.join(kinds) or 'none'}; supported: Transformer or MLMTransformer, "
                "SpladePooling; SparseStaticEmbedding; or Transformer, WordWeights, Pooling (or StaticEmbedding), and "
                f"a SparseAutoEncoder; with more of {', '.join(KINDS)}"
            )
        return super().route(modules, what)

    def read_input(self, files: ModuleFiles, plain: bool = False) -> object:
        if files.kind == "SparseStaticEmbedding":
            return SparseStaticEmbedding.read(files.part(), *self.options)
        return super().read_input(files, plain)

    def _masked_lm(self, files: ModuleFiles, plain: bool = False) -> MaskedLMInput:
        if files.place not in self._inputs:
            options = {"plain": plain, "usual_task": _TASKS[files.kind]}
            found = MaskedLMInput.read(files.part(), *self.options, **options)
            self._inputs[files.place] = found
        return self._inputs[files.place]
