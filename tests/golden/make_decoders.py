"""Makes decoders.npz: what transformers answers for the cases of tests/helpers/decoder_cases.py.

Needs the extra `oracle`. Run it from anywhere:

    python tests/golden/make_decoders.py phi3 olmo2

makes these cases anew and leaves the others as they are; without names all are made, and others then differ in last
bits, which depend on the machine and on the releases that are installed. Read by the tests of decoders in tests/models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from decoder_cases import BEAMS, CASES, GOLDEN, NEW_TOKENS, draw, generates, inputs  # noqa: E402


def answers(content: dict) -> dict[str, np.ndarray]:
    fields = {name: value for name, value in content.items() if name != "model_type"}
    config = transformers.AutoConfig.for_model(content["model_type"], **fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    state = dict(model.state_dict())
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    weights = {name: torch.from_numpy(draw(name, tuple(tensor.shape))) for name, tensor in state.items()}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    ids, mask, left = (torch.from_numpy(array) for array in inputs(config.vocab_size))
    tokens = mask.bool()
    with torch.no_grad():
        output = model(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True, use_cache=False)
    written = config.to_dict() | {"architectures": [type(model).__name__]}
    return {
        "config": np.array(json.dumps(written)),
        "shapes": np.array(json.dumps({name: list(tensor.shape) for name, tensor in state.items()})),
        "logits": output.logits[tokens].numpy(),
        "hidden_state": output.hidden_states[1][tokens].numpy(),
        "attentions": output.attentions[-1].transpose(1, 2)[tokens].numpy(),
    } | (generated(model, ids, left) if generates(content) else {})


def generated(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, np.ndarray]:
    """What the model continues the rows of ids with, by greedy and by beam search."""
    options = {"attention_mask": mask, "max_new_tokens": NEW_TOKENS, "pad_token_id": 1, "do_sample": False}
    with torch.no_grad():
        # An ending id that one row meets after some tokens, so that it is followed by padding.
        free = model.generate(ids, **options, eos_token_id=None)
        eos = int(free[0, ids.shape[1] + 4])
        greedy = model.generate(ids, **options, eos_token_id=eos)
        beams = model.generate(ids, **options, eos_token_id=eos, **BEAMS)
    return {
        "eos": np.array(eos),
        "greedy": greedy.numpy().astype(np.int16),
        "beams": beams.numpy().astype(np.int16),
    }


if __name__ == "__main__":
    made = sys.argv[1:] or list(CASES)
    with np.load(GOLDEN) as file:
        arrays = {name: file[name] for name in file.files if name.partition("/")[0] in CASES.keys() - set(made)}
    arrays |= {f"{case}/{name}": array for case in made for name, array in answers(CASES[case]).items()}
    np.savez_compressed(GOLDEN, **arrays)
    print(GOLDEN.name, GOLDEN.stat().st_size)
