"""generation/config.py: what a folder says of generation loads, and is followed, without effect, or refused in use.

tests/oracle/test_generation_defaults.py goes through all of transformers' options.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from score_tables import Chain, cycle

from transformer_fast.files.errors import CheckpointError
from transformer_fast.generation import generate, read_generation_config, stream


def test_defaults_of_a_folder(tmp_path):
    assert read_generation_config(tmp_path, {"eos_token_id": 5, "hidden_size": 3, "pad_token_id": None}) == {
        "eos_token_id": 5
    }
    content = {
        "eos_token_id": [1, 2],
        "do_sample": True,
        "top_p": 0.9,
        "temperature": None,
        "transformers_version": "5",
    }
    content |= {"cache_implementation": "hybrid", "no_timestamps_token_id": 7, "guidance_scale": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    defaults = read_generation_config(tmp_path, {"eos_token_id": 5})
    assert defaults == {"eos_token_id": [1, 2], "do_sample": True, "top_p": 0.9, "no_timestamps_token_id": 7}
    model = Chain(cycle())
    model.generation_config = {"eos_token_id": 3, "max_new_tokens": 6, "no_timestamps_token_id": 7}
    assert generate(model, [[0]]).tolist() == [[0, 1, 2, 3]]
    assert generate(model, [[0]], eos_token_id=2).tolist() == [[0, 1, 2]]
    assert generate(model, [[0]], eos_token_id=None).shape == (1, 7)


def defaults(tmp_path, **content):
    """A model whose folder says this of generation."""
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    model = Chain(cycle())
    model.generation_config = read_generation_config(tmp_path, {})
    return model


def test_defaults_of_config_json(tmp_path):
    """Older folders have no generation_config.json; what is reported, and training's seed, are no defaults."""
    config = {"num_beams": 3, "num_beam_groups": 1, "seed": 7, "output_attentions": True, "use_cache": False}
    assert read_generation_config(tmp_path, config) == {"num_beams": 3}
    asked_for = read_generation_config(tmp_path, config | {"num_beam_groups": 3})
    assert asked_for == {"num_beams": 3, "num_beam_groups": 3}
    model = Chain(cycle())
    model.generation_config = asked_for
    with pytest.raises(NotImplementedError, match="num_beam_groups is 3, which is not supported"):
        generate(model, [[0]], max_new_tokens=2)


@pytest.mark.parametrize(
    "content, error, text, call",
    [
        ({"top_p": 7, "do_sample": True}, ValueError, "top_p is 7; needed: a number from 0 to 1", {"top_p": None}),
        ({"temperature": 0.0, "do_sample": True}, ValueError, "temperature is 0.0; needed", {"do_sample": False}),
        ({"num_beams": "many"}, ValueError, "num_beams is 'many'; needed", {"num_beams": None}),
        ({"num_return_sequences": 2}, ValueError, "num_return_sequences is 2", {"num_return_sequences": 1}),
        ({"penalty_alpha": 0.6}, NotImplementedError, "penalty_alpha is 0.6, which is not supp", {"penalty_alpha": 0}),
        ({"penalty_alpha": 0.6, "top_k": 4}, NotImplementedError, "penalty_alpha is 0.6", {"top_k": 0}),
        ({"watermarking_config": {}}, NotImplementedError, "watermarking_config is {}", {"watermarking_config": None}),
        ({"dola_layers": "low"}, NotImplementedError, "dola_layers is 'low'", {"num_beams": 2}),
        ({"num_beam_groups": 2, "num_beams": 2}, NotImplementedError, "num_beam_groups is 2", {"num_beams": 1}),
        ({"guidance_scale": 1.5}, NotImplementedError, "guidance_scale is 1.5", {"guidance_scale": 1}),
        ({"return_dict_in_generate": True}, NotImplementedError, "return_dict", {"return_dict_in_generate": False}),
        (
            {"exponential_decay_length_penalty": [5, 1.2]},
            ValueError,
            "eos_token_id is None; needed",
            {"eos_token_id": 8},
        ),
    ],
    ids=str,
)
def test_what_a_folder_asks_for_is_refused_when_it_is_in_effect(tmp_path, content, error, text, call):
    model = defaults(tmp_path, max_new_tokens=3, **content)
    with pytest.raises(error, match=text):
        generate(model, [[0]])
    if error is NotImplementedError:
        with pytest.raises(error, match="generation_config.json: .*as an argument"):
            stream(model, [[0]])
    assert generate(model, [[0]], **call).shape == (1, 4)


@pytest.mark.parametrize(
    "content",
    [
        {"temperature": 0.0, "do_sample": False},
        {"top_p": 7},
        {"penalty_alpha": 0.6, "top_k": 0},
        {"num_beam_groups": 2},
        {"output_scores": True},
        {"suppress_tokens": [-1]},
        {"begin_suppress_tokens": [-1]},
        {"pad_token_id": -1},
        {"prompt_lookup_num_tokens": 4},
        {"compile_config": {}},
        {"low_memory": True},
        {"diversity_penalty": 0.3},
    ],
    ids=str,
)
def test_what_a_folder_asks_for_without_effect(tmp_path, content):
    plain = generate(defaults(tmp_path, max_new_tokens=3), [[0]])
    model = defaults(tmp_path, max_new_tokens=3, **content)
    assert np.array_equal(generate(model, [[0]]), plain)
    if "temperature" in content:
        assert np.array_equal(generate(Chain(cycle()), [[0]], max_new_tokens=3, **content), plain)


def test_what_a_folder_asks_for_is_switched_off_by_none():
    model = Chain()
    model.generation_config = {"repetition_penalty": 5.0, "num_beams": 3, "min_length": 4, "do_sample": True, "seed": 1}
    off = dict.fromkeys(model.generation_config)
    assert np.array_equal(generate(model, [[0]], **off), generate(Chain(), [[0]]))


@pytest.mark.parametrize("text, error", [("[]", "holds a JSON list"), ("{", "not valid JSON")])
def test_malformed_defaults(tmp_path, text, error):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"generation_config.json: {error}"):
        read_generation_config(tmp_path, {})
