"""Generation: greedy search, beam search and sampling, with transformers' options and results.

Users call `model.generate(...)` and `model.stream(...)` of a model with a language-modelling head (`GenerationMixin`),
or `generate(model, ...)`. This package knows no model family; a model takes part by two methods:

    logits, state = model.start(input_ids, attention_mask, capacity=n, **model_inputs)
        input_ids (B, L), attention_mask (B, L) or None (all are tokens) -> logits (B, V) float32 that follow each row's
        last token, and a state. capacity is the number of positions, prompt included, that a row may grow to. Padding
        may stand on the left or on the right; it is dropped, so that a row's positions are 0, 1, 2, ...
    logits = model.step(ids, state)
        ids (B,), one more token for each row -> logits (B, V). The state is changed in place. The array may be scratch
        of the model: it holds until the next step.
    state.reorder(index)
        row i becomes what row index[i] was; index (B',) may be longer or shorter than B, and repeat rows (beams).

For speculation, which drafts tokens and lets the model check them, and for a past that is given, also

    logits = model.extend(ids, state, every=False)
        ids (B, n), n more tokens for each row -> logits (B, V) after the last of them; every: (n, V) after each of one
        row's, with the bits that n steps would give.
    state.crop(-n)
        forgets the last n tokens of each row. state.get_seq_length() tokens are there.

An encoder-decoder model sets `is_encoder_decoder = True`. Its `start` runs the encoder on input_ids (or on its own
main input among model_inputs, with input_ids None), and the decoder on `decoder_input_ids` (B, n), a further keyword;
the logits and capacity are the decoder's. `model_inputs` are passed through: names that `start` does not take are
refused.

`config.py` has the options and their defaults, `logits.py` what changes scores before a token is chosen, `stopping.py`
when a row ends, `search.py` one token at a time, `beams.py` beam search, `speculation.py` tokens that are drafted and
checked, `session.py` a text that grows call by call, `streaming.py` text as it comes, `constraints.py` output that fits
a schema or a grammar (`grammar_limits.py`: how large one may be, `grammar_tokens.py`: beside a vocabulary).

Source: transformers.generation (GenerationMixin.generate).
"""

from transformer_fast.files.tokenizer import load_tokenizer
from transformer_fast.generation.config import GenerationConfig, read_generation_config
from transformer_fast.generation.constraints import Constraint, ConstraintState, constraint_processor
from transformer_fast.generation.generate import GenerationMixin, generate, stream
from transformer_fast.generation.session import GenerationSession
from transformer_fast.generation.streaming import TextStreamer

__all__ = [
    "Constraint",
    "ConstraintState",
    "GenerationConfig",
    "GenerationMixin",
    "GenerationSession",
    "TextStreamer",
    "constraint_processor",
    "generate",
    "load_tokenizer",
    "read_generation_config",
    "stream",
]
