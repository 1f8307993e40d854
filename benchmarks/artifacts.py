"""What the model benchmarks run on: checkpoints, and each peer's own form of them, made once into build/benchmarks/.

models.py, families.py, low_precision.py and decoders.py call `prepare`; the conversions run as
`python -m benchmarks.artifacts <form> <checkpoint> <target>` in processes of their own, since they need torch, which
must not be loaded where another peer is measured. A new form is a function in `_FORMS`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT

_FOLDER = ROOT / "build" / "benchmarks"
_BERT_BASE = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
}
# The standard deviation that BERT was initialised with: larger ones make attention a choice of one key.
_INITIAL_RANGE = 0.02
_OPSET = 17
_CALIBRATION_TEXTS = 100
# Models of families.py and decoders.py, made by transformers with random weights: the class, its config's class, and
# what differs from the defaults, which are the shapes of GPT-2 small, T5 small, ViT base, Whisper tiny and BigBird base
# (two layers of it: transformers takes seconds for each). Llama 3.2 stretches its rotations; that changes angles, not
# what is measured.
_RANDOM: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {}),
    "t5": ("T5ForConditionalGeneration", "T5Config", {"decoder_start_token_id": 0}),
    "vit": ("ViTModel", "ViTConfig", {}),
    "whisper": ("WhisperModel", "WhisperConfig", {}),
    "big_bird": ("BigBirdModel", "BigBirdConfig", {"num_hidden_layers": 2}),
    "smollm2-135m": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "rope_theta": 100000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3-0.6b": (
        "Qwen3ForCausalLM",
        "Qwen3Config",
        {
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
        },
    ),
    "llama-3.2-1b": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        },
    ),
    "deberta-v3-base": (
        "DebertaV2Model",
        "DebertaV2Config",
        {
            "vocab_size": 128100,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "cross-encoder": (
        "BertForSequenceClassification",
        "BertConfig",
        {
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "num_labels": 1,
        },
    ),
    "splade": ("BertForMaskedLM", "BertConfig", {}),
    "colbert": ("BertModel", "BertConfig", {}),
}
# Of these the ones that read texts, with MiniLM's tokenizer; those with a class are saved by sentence-transformers.
_TEXT_MODELS = {"cross-encoder": None, "splade": "SparseEncoder", "colbert": "MultiVectorEncoder"}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


def prepare(model: str, forms: Sequence[str], report: Callable[[str], None], text_count: int = 0) -> dict[str, Any]:
    """name -> path of what a backend may want of the model ("minilm", "bert-base" or one of `_RANDOM`), and "config",
    its config.json.

    A form whose packages are missing, or whose conversion fails, is left out, and `report` says so. Where that is the
    checkpoint itself, {} is returned.
    """
    checkpoint = _checkpoint(model, report)
    if checkpoint is None:
        return {}
    found: dict[str, Any] = {"checkpoint": str(checkpoint)}
    found["config"] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    folder = _FOLDER / model
    folder.mkdir(parents=True, exist_ok=True)
    found |= convert(checkpoint, folder, forms, report)
    if text_count:
        from transformer_fast import passages

        path = folder / f"texts-{text_count}.json"
        path.write_text(json.dumps(passages.sentences(text_count)), encoding="utf-8")
        found["texts"] = str(path)
    return found


def convert(checkpoint: Path, folder: Path, forms: Sequence[str], report: Callable[[str], None]) -> dict[str, str]:
    """form -> path, of a checkpoint's forms in `folder`, made where they are missing; those that cannot be are not
    there."""
    found = {}
    for form in forms:
        make, needs, target = _FORMS[form]
        absent = [name for name in needs if importlib.util.find_spec(name) is None]
        if absent:
            report(f"{folder.name}: no {form}, since {', '.join(absent)} is not installed")
            continue
        place = folder / form
        if not place.exists():
            report(f"converting {folder.name} to {form}")
            if not _convert(form, checkpoint, place, target, report):
                continue
        found[form] = str(place / target)
    return found


def _checkpoint(model: str, report: Callable[[str], None]) -> Path | None:
    if model in _RANDOM:
        absent = [name for name in _TORCH if importlib.util.find_spec(name) is None]
        if absent:
            report(f"no {model}, since {', '.join(absent)} is not installed")
            return None
        place = _FOLDER / model / "checkpoint"
        place.parent.mkdir(parents=True, exist_ok=True)
        made = place.exists() or _convert("random", Path(model), place, ".", report)
        return place if made else None
    if model == "minilm":
        from transformer_fast.weights import find_minilm

        return find_minilm()
    from model_folders import bert_tensors, write_bert

    folder = _FOLDER / model / "checkpoint"
    if not (folder / "model.safetensors").exists():
        tensors = bert_tensors(_BERT_BASE)
        own_range = float(tensors["encoder.layer.0.intermediate.dense.weight"].std())
        for name, values in tensors.items():
            if values.ndim == 2:
                tensors[name] = values * values.dtype.type(_INITIAL_RANGE / own_range)
        write_bert(folder, _BERT_BASE, tensors)
    return folder


def _convert(form: str, checkpoint: Path, place: Path, target: str, report: Callable[[str], None]) -> bool:
    """Fills the folder `place`, which is there in the end or not at all; whether it is."""
    partial = place.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    command = [sys.executable, "-m", "benchmarks.artifacts", form, str(checkpoint), str(partial / target)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        report(f"no {form}: {(done.stderr.strip().splitlines() or ['the conversion failed'])[-1]}")
        return False
    partial.rename(place)
    return True


# Below: what runs in the conversions' own processes -------------------------------------------------------------------


def random_model(model_class: str, config_class: str, fields: dict[str, Any]):
    """transformers' model with its own initialisation, and vectors (biases, norms) that are not all 0 or 1."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**fields)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += _INITIAL_RANGE * torch.randn_like(parameter)
    return model


def _to_random(name: Path, target: Path) -> None:
    random_model(*_RANDOM[str(name)]).save_pretrained(target)
    if str(name) in _TEXT_MODELS:
        _complete(target, _TEXT_MODELS[str(name)])


def _complete(folder: Path, text_class: str | None) -> None:
    """Adds a tokenizer to the model, and the modules that sentence-transformers' class puts behind it."""
    from transformer_fast.weights import find_minilm

    for name in _TOKENIZER_FILES:
        source = find_minilm() / name
        if source.exists():
            shutil.copy(source, folder / name)
    if text_class is not None:
        import sentence_transformers

        model = getattr(sentence_transformers, text_class)(str(folder), device="cpu", local_files_only=True)
        shutil.rmtree(folder)
        model.save_pretrained(str(folder))


def _wrapped(checkpoint: Path, attention: str):
    """The encoder as a torch module from ids and mask, or from pixels, to hidden states; an example of its inputs."""
    import torch
    from transformers import BertModel, ViTModel

    if json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["model_type"] == "vit":

        class Pictures(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.vit = ViTModel.from_pretrained(checkpoint, attn_implementation=attention, dtype=torch.float32)

            def forward(self, pixel_values):
                return self.vit(pixel_values=pixel_values).last_hidden_state

        return Pictures().eval(), {"pixel_values": torch.randn(2, 3, 224, 224)}

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel.from_pretrained(
                checkpoint, attn_implementation=attention, add_pooling_layer=False, dtype=torch.float32
            )

        def forward(self, input_ids, attention_mask):
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.randint(1000, 2000, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    return Encoder().eval(), {"input_ids": ids, "attention_mask": mask}


def _to_onnx(checkpoint: Path, target: Path) -> None:
    import torch

    # Written with eager attention: its graph is the pattern that onnxruntime's optimiser knows.
    encoder, example = _wrapped(checkpoint, "eager")
    free = {0: "B"} if "pixel_values" in example else {0: "B", 1: "L"}
    torch.onnx.export(
        encoder,
        tuple(example.values()),
        str(target),
        input_names=list(example),
        output_names=["last_hidden_state"],
        dynamic_axes={name: free for name in (*example, "last_hidden_state")},
        opset_version=_OPSET,
        dynamo=False,
    )


def _to_optimized_onnx(checkpoint: Path, target: Path) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    plain = target.with_name("plain.onnx")
    _to_onnx(checkpoint, plain)
    model = optimize_model(
        str(plain),
        model_type="bert",
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
        opt_level=0,  # the session's own optimisations follow when it is loaded
        use_gpu=False,
    )
    fused = model.get_fused_operator_statistics()
    if fused["Attention"] != config["num_hidden_layers"]:
        raise SystemExit(f"onnxruntime's optimiser fused {fused['Attention']} attention nodes: the graph has changed")
    model.save_model_to_file(str(target))
    plain.unlink()


def _to_openvino(checkpoint: Path, target: Path) -> None:
    import openvino as ov

    encoder, example = _wrapped(checkpoint, "sdpa")
    ov.save_model(ov.convert_model(encoder, example_input=example), target, compress_to_fp16=False)


def _to_int8_onnx(checkpoint: Path, target: Path, **options: Any) -> None:
    """Dynamic quantisation of the optimised model, as onnxruntime's documentation advises for transformers."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = target.with_name("float32.onnx")
    _to_optimized_onnx(checkpoint, whole)
    # Shapes and types end at the fused nodes, which onnx does not know: what follows them is float, too.
    extra = {"DefaultTensorType": TensorProto.FLOAT}
    quantize_dynamic(whole, target, weight_type=QuantType.QInt8, extra_options=extra, **options)
    whole.unlink()


def _to_int8_onnx_reduced(checkpoint: Path, target: Path) -> None:
    """Weights of 7 bits by column: without VNNI two products are added in 16 bits, where those of 8 bits saturate."""
    _to_int8_onnx(checkpoint, target, reduce_range=True, per_channel=True)


def _to_int8_weights_openvino(checkpoint: Path, target: Path) -> None:
    import nncf
    import openvino as ov

    encoder, example = _wrapped(checkpoint, "sdpa")
    model = nncf.compress_weights(
        ov.convert_model(encoder, example_input=example), mode=nncf.CompressWeightsMode.INT8_ASYM
    )
    ov.save_model(model, target, compress_to_fp16=False)


def _to_int8_openvino(checkpoint: Path, target: Path) -> None:
    """Static quantisation of weights and activations, whose ranges come from real texts."""
    import nncf
    import openvino as ov

    encoder, example = _wrapped(checkpoint, "sdpa")
    model = nncf.quantize(
        ov.convert_model(encoder, example_input=example),
        nncf.Dataset(_calibration_inputs()),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=_CALIBRATION_TEXTS,
    )
    ov.save_model(model, target, compress_to_fp16=False)


def _calibration_inputs() -> list[dict[str, Any]]:
    """Real texts, one a time, in the ids of MiniLM's tokenizer, whose vocabulary is that of all encoders here."""
    import numpy as np
    from tokenizers import Tokenizer

    from transformer_fast import passages
    from transformer_fast.weights import find_minilm

    tokenizer = Tokenizer.from_file(str(find_minilm() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_BERT_BASE["max_position_embeddings"])
    rows = [np.array([one.ids]) for one in tokenizer.encode_batch(passages.sentences(_CALIBRATION_TEXTS))]
    return [{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in rows]


def _to_ctranslate2(checkpoint: Path, target: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    # The converter asks for a tokenizer, which random weights do not have; only its vocabulary's size matters.
    if not (checkpoint / "vocab.txt").exists() and config["model_type"] != "bert":

        class Converter(TransformersConverter):
            def load_tokenizer(self, *names, **options):
                return _Vocabulary(config)

        Converter(str(checkpoint)).convert(str(target))
        return
    if not (checkpoint / "vocab.txt").exists():
        size = config["vocab_size"]
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = special + [f"word{i}" for i in range(size - len(special))]
        (checkpoint / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    TransformersConverter(str(checkpoint)).convert(str(target))


class _Vocabulary:
    """What CTranslate2's converter asks of a tokenizer; the token of an id is that of `ct2_token`."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.size = config["vocab_size"]
        special = {name: config.get(f"{name}_token_id") for name in ("bos", "eos", "pad")}
        last = self.size - 1
        self.bos_token, self.eos_token, self.pad_token = (ct2_token(last if i is None else i) for i in special.values())
        self.unk_token = self.eos_token

    def get_vocab(self) -> dict[str, int]:
        return {ct2_token(i): i for i in range(self.size)}

    def convert_ids_to_tokens(self, i: int) -> str:
        return ct2_token(i)


def ct2_token(i: int) -> str:
    """CTranslate2 takes words, not ids: the one that stands for the id."""
    return f"word{i}"


def ct2_id(token: str) -> int:
    """The other way."""
    return int(token.removeprefix("word"))


def _to_gguf(checkpoint: Path, target: Path) -> None:
    """The checkpoint's numbers as F32, under llama.cpp's names; without a vocabulary, which nothing here reads."""
    import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy
    from gguf_files import metadata_of, tensors_in_gguf, write_gguf
    from safetensors.numpy import load_file

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    config["rope_theta"] = rope.get("rope_theta", config.get("rope_theta"))
    tensors = load_file(checkpoint / "model.safetensors")
    if config["tie_word_embeddings"]:
        tensors.pop("lm_head.weight", None)
    metadata = metadata_of(config) | {"tokenizer.ggml.model": "none"}
    write_gguf(target, config["model_type"], metadata, tensors_in_gguf(config, tensors))


def _to_quantised_gguf(checkpoint: Path, target: Path, kind: str) -> None:
    """By llama.cpp's own quantiser; every matrix in one format, where a mixture would hide what is measured."""
    import llama_cpp

    whole = target.with_name("float32.gguf")
    _to_gguf(checkpoint, whole)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    options.pure = True
    if llama_cpp.llama_model_quantize(str(whole).encode(), str(target).encode(), options):
        raise SystemExit(f"llama.cpp does not write {kind}")
    whole.unlink()


def _to_gguf_f16(checkpoint: Path, target: Path) -> None:
    _to_quantised_gguf(checkpoint, target, "F16")


def _to_gguf_q8_0(checkpoint: Path, target: Path) -> None:
    _to_quantised_gguf(checkpoint, target, "Q8_0")


def _to_gguf_q4_0(checkpoint: Path, target: Path) -> None:
    _to_quantised_gguf(checkpoint, target, "Q4_0")


def _to_gguf_q6_k(checkpoint: Path, target: Path) -> None:
    _to_quantised_gguf(checkpoint, target, "Q6_K")


def _to_gguf_q4_k(checkpoint: Path, target: Path) -> None:
    _to_quantised_gguf(checkpoint, target, "Q4_K_S")


_TORCH = ("torch", "transformers")
_GGUF = ("gguf", "llama_cpp")
_FORMS = {
    "random": (_to_random, _TORCH, "."),
    "onnx": (_to_onnx, (*_TORCH, "onnx"), "model.onnx"),
    "onnx_optimized": (_to_optimized_onnx, (*_TORCH, "onnx", "onnxruntime"), "optimized.onnx"),
    "openvino": (_to_openvino, (*_TORCH, "openvino"), "model.xml"),
    "onnx_int8": (_to_int8_onnx, (*_TORCH, "onnx", "onnxruntime"), "int8.onnx"),
    "onnx_int8_reduced": (_to_int8_onnx_reduced, (*_TORCH, "onnx", "onnxruntime"), "int8.onnx"),
    "openvino_int8": (_to_int8_openvino, (*_TORCH, "openvino", "nncf"), "model.xml"),
    "openvino_int8_weights": (_to_int8_weights_openvino, (*_TORCH, "openvino", "nncf"), "model.xml"),
    "ctranslate2": (_to_ctranslate2, (*_TORCH, "ctranslate2"), "ctranslate2"),
    "gguf_f32": (_to_gguf, ("gguf",), "model.gguf"),
    "gguf_f16": (_to_gguf_f16, _GGUF, "model.gguf"),
    "gguf_q8_0": (_to_gguf_q8_0, _GGUF, "model.gguf"),
    "gguf_q4_0": (_to_gguf_q4_0, _GGUF, "model.gguf"),
    "gguf_q6_k": (_to_gguf_q6_k, _GGUF, "model.gguf"),
    "gguf_q4_k": (_to_gguf_q4_k, _GGUF, "model.gguf"),
}
FORMS = tuple(_FORMS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    _FORMS[options.form][0](options.checkpoint, options.target)


if __name__ == "__main__":
    main()
