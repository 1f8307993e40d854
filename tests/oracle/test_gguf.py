"""GGUF files next to transformers, which reads them as well: logits and tokens."""

from __future__ import annotations

import numpy as np
import pytest
from decoder_cases import LLAMA, QWEN2, config, inputs, tensors
from gguf_experts import in_gguf, settings_of, write_experts
from gguf_experts import tensors_of as tensors_of_experts
from gguf_files import by_name_map, metadata_of, tensors_in_gguf, tensors_of_llama, write_gguf

from transformer_fast import load_model
from transformer_fast.tokenization import read_tokenizer

pytestmark = pytest.mark.oracle
gguf = pytest.importorskip("gguf")

TOKENS = [*map(chr, range(ord("a"), ord("z") + 1)), "Ġ", "ab", "Ġa", "Ġab", "<|end|>"]
TOKENIZER = {"model": "gpt2", "pre": "gpt-2", "tokens": TOKENS, "merges": ["a b", "Ġ a", "Ġa b"], "eos_token_id": 30}
TOKENIZER |= {"token_type": [1] * 30 + [3]}
TEXTS = ["ab cab", " ab", "a b<|end|>ab", "zz", ""]


@pytest.mark.parametrize("code", ["F32", "Q8_0", "Q4_K", "Q6_K"])
def test_llama(tmp_path, code):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    config = {**LLAMA, "hidden_size": 256, "intermediate_size": 512, "vocab_size": len(TOKENS)}
    found = tensors_in_gguf(config, tensors_of_llama(config))
    if code != "F32":
        kind, rng = gguf.GGMLQuantizationType[code], np.random.default_rng(0)
        values, nbytes = gguf.GGML_QUANT_SIZES[kind]
        for name, array in found.items():
            if array.ndim == 2 and name.startswith("blk."):
                blocks = rng.integers(0, 256, (array.size // values, nbytes), np.uint8)
                for at in {"Q6_K": (208,), "Q4_K": (0, 2)}.get(code, (0,)):
                    halves = rng.uniform(-2e-3, 2e-3, (len(blocks), 1)).astype(np.float16)
                    blocks[:, at : at + 2] = halves.view(np.uint8)
                found[name] = (code, blocks.reshape(array.shape[0], -1))
    metadata = metadata_of(config) | {f"tokenizer.ggml.{key}": value for key, value in TOKENIZER.items()}
    path = write_gguf(tmp_path / "a.gguf", "llama", metadata, found)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    ids = inputs(len(TOKENS))[0]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    got = load_model(path, compute_type="float32")(ids).logits
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(("architecture", "config"), [("llama", LLAMA), ("qwen2", QWEN2)])
def test_tokens(tmp_path, architecture, config):
    transformers = pytest.importorskip("transformers")
    pre = {"pre": "qwen2"} if architecture == "qwen2" else {}
    config = {**config, "vocab_size": len(TOKENS)}
    keys = metadata_of(config) | {f"tokenizer.ggml.{key}": value for key, value in (TOKENIZER | pre).items()}
    path = write_gguf(tmp_path / "a.gguf", architecture, keys, tensors_in_gguf(config, tensors_of_llama(config)))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    ours = read_tokenizer(path)
    for text in TEXTS:
        assert ours.tokenizer.encode(text).ids == theirs(text)["input_ids"], text


ARCHITECTURES = {
    "gemma2": ("gemma2", {"attention.sliding_window": 4}),
    "gemma3": ("gemma3", {"attention.sliding_window": 4, "rope.freq_base": 1e6}),
    "gpt2": ("gpt2", {"attention.layer_norm_epsilon": 1e-5}),
}


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_architectures(tmp_path, case):
    """Both read the same file; of Gemma 3 the folder's scaling of positions is left out, which transformers ignores."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    architecture, further = ARCHITECTURES[case]
    settings = config(case)
    if case == "gpt2":
        fields = {"context_length": 24, "embedding_length": 16, "block_count": 2, "feed_forward_length": 64}
        keys = {f"gpt2.{key}": value for key, value in (fields | {"attention.head_count": 2}).items()}
    else:
        keys = {k.replace(settings["model_type"], architecture): v for k, v in metadata_of(settings).items()}
    keys |= {f"{architecture}.{key}": value for key, value in further.items()}
    keys |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": [str(i) for i in range(40)]}
    keys |= {"tokenizer.ggml.merges": ["1 0"]}
    path = write_gguf(tmp_path / "a.gguf", architecture, keys, by_name_map(architecture, tensors(case), 2))
    own = transformers.AutoConfig.from_pretrained(tmp_path, gguf_file=path.name)
    if case == "gpt2":
        own.n_positions = 24  # transformers puts it into n_ctx, which has no effect
    else:  # the scale of scores stays at its default there; a file has none, and llama.cpp takes the width of a head
        own.query_pre_attn_scalar = 8
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32, config=own, attn_implementation="eager"
    )
    ids = inputs(40)[0]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(load_model(path)(ids).logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_experts(tmp_path):
    """Qwen 3 with experts; transformers 5.24 makes a Llama of Mixtral, and fails on files of gpt-oss."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    settings = settings_of("qwen3_moe")
    found = in_gguf(settings, tensors_of_experts(settings))
    path = write_experts(tmp_path / "a.gguf", settings, found)
    own = transformers.AutoConfig.from_pretrained(tmp_path, gguf_file=path.name)
    assert own.norm_topk_prob
    own.moe_intermediate_size = settings["moe_intermediate_size"]  # transformers does not read its key
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32, config=own
    )
    ids = inputs(40)[0]
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(load_model(path)(ids).logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


BYTES = {"model": "llama", "tokens": ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "a"]}
BYTES |= {"scores": [0.0] * 260, "token_type": [2, 3, 3, *[6] * 256, 1], "bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize("case", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_experts_next_to_llama_cpp(tmp_path, case):
    """float32 caches there. gpt-oss without YaRN, whose limits llama.cpp rounds (docs/howto/gguf.md)."""
    llama_cpp = pytest.importorskip("llama_cpp")
    changes = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96, "vocab_size": len(BYTES["tokens"])}
    changes |= {
        "mixtral": {"sliding_window": None},  # llama.cpp reads no window in files of this architecture
        "qwen3_moe": {"moe_intermediate_size": 32},
        "gpt_oss": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    }[case]
    settings = settings_of(case, **changes)
    keys = {f"tokenizer.ggml.{key}": value for key, value in BYTES.items()}
    found = in_gguf(settings, tensors_of_experts(settings))
    path = write_experts(tmp_path / "a.gguf", settings, found, tokenizer=keys)
    options = {"n_ctx": 64, "logits_all": True, "verbose": False, "flash_attn": False, "n_threads": 1}
    theirs = llama_cpp.Llama(str(path), type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, **options)
    ids = inputs(len(BYTES["tokens"]))[0][0]
    theirs.eval(ids.tolist())
    expected = np.array(theirs.scores[: len(ids)])
    got = load_model(path)(ids[None]).logits[0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
