"""models/jina_v3.py: transformers' own numbers (golden), the first code's folders and names, adapters of tasks.

transformers has no adapters, and the code of the first folders is remote: what an adapter does is held by its formula,
the same model with W + scaling B A written into its file in place of W.
"""

from __future__ import annotations

import copy
import pickle

import encoder_checks as checks
import numpy as np
import pytest
from model_folders import WORDS, write_json, write_sentence_model

from transformer_fast import load_model, nn
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.models.jina_v3 import (
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3ForMaskedLM,
    JinaEmbeddingsV3ForQuestionAnswering,
    JinaEmbeddingsV3ForSequenceClassification,
    JinaEmbeddingsV3ForTokenClassification,
    JinaEmbeddingsV3Model,
)
from transformer_fast.pipelines import SentenceEncoder

save_file = pytest.importorskip("safetensors.numpy").save_file
pytest.importorskip("ml_dtypes")

TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
CONFIG = {
    "vocab_size": 30,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 12,
}
# What jina-embeddings-v3 has in its config.json, with other sizes.
FIRST = {
    "architectures": ["XLMRobertaModel"],
    "attention_probs_dropout_prob": 0.1,
    "auto_map": {"AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA"},
    "bos_token_id": 0,
    "classifier_dropout": None,
    "emb_pooler": "mean",
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 40,
    "layer_norm_eps": 1e-05,
    "load_trained_adapters": True,
    "lora_adaptations": TASKS,
    "lora_alpha": 1,
    "lora_dropout_p": 0.0,
    "lora_main_params_trainable": False,
    "lora_rank": 4,
    "matryoshka_dimensions": [4, 8, 12],
    "max_position_embeddings": 34,
    "model_type": "xlm-roberta",
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "output_past": True,
    "pad_token_id": 1,
    "position_embedding_type": "rotary",
    "rotary_emb_base": 50.0,
    "task_instructions": dict.fromkeys(TASKS, ""),
    "torch_dtype": "bfloat16",
    "transformers_version": "4.31.0",
    "truncate_dim": None,
    "type_vocab_size": 1,
    "use_cache": True,
    "use_flash_attn": True,
    "use_reg_tokens": False,
    "vocab_size": len(WORDS),
}
IDS, MASK = np.array([[7, 8, 9, 10], [11, 12, 13, 0]]), np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
ADAPTED = {"mixer.Wqkv": (72, 24), "mixer.out_proj": (24, 24), "mlp.fc1": (40, 24), "mlp.fc2": (24, 40)}


def first_tensors():
    """The tensors of a first folder, by its names."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32) * np.float32(0.3)

    def adapted(name, fan_out, fan_in, shapes):
        return {
            f"{name}.parametrizations.weight.original": normal(fan_out, fan_in),
            **{f"{name}.parametrizations.weight.0.lora_{k}": normal(5, *shapes[k]) for k in "AB"},
        }

    tensors = {}
    for table, n in (("word_embeddings", len(WORDS)), ("token_type_embeddings", 1)):
        tensors |= adapted(f"roberta.embeddings.{table}", n, 24, {"A": (n, 4), "B": (4, 24)})
    norms = ["roberta.emb_ln", *(f"roberta.encoder.layers.{i}.norm{n}" for i in range(2) for n in (1, 2))]
    for norm in norms:
        tensors |= {f"{norm}.weight": 1 + normal(24), f"{norm}.bias": normal(24)}
    for i in range(2):
        for part, (n, k) in ADAPTED.items():
            name = f"roberta.encoder.layers.{i}.{part}"
            tensors |= adapted(name, n, k, {"A": (4, k), "B": (n, 4)}) | {f"{name}.bias": normal(n)}
    pooler = "roberta.pooler.dense"
    return tensors | adapted(pooler, 24, 24, {"A": (4, 24), "B": (24, 4)}) | {f"{pooler}.bias": normal(24)}


def merged(tensors, task):
    """The same model without adapters: those of a task, or of none, are written into its weights."""
    result = {name: tensor for name, tensor in tensors.items() if ".parametrizations." not in name}
    for name, tensor in tensors.items():
        start, original, _ = name.partition(".parametrizations.weight.original")
        if not original:
            continue
        update = 0
        if task is not None:
            A, B = (tensors[f"{start}.parametrizations.weight.0.lora_{k}"][TASKS.index(task)] for k in "AB")
            update = (A @ B if "embeddings" in start else B @ A) / 4
        result[f"{start}.weight"] = (tensor + update).astype(np.float32)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sentence model with the files of a first folder."""
    folder = write_sentence_model(tmp_path_factory.mktemp("jina") / "model")
    write_json(folder / "config.json", FIRST)
    save_file(first_tensors(), folder / "model.safetensors")
    return folder


def write_merged(path, task):
    path.mkdir(exist_ok=True)
    write_json(path / "config.json", FIRST | {"lora_adaptations": None, "load_trained_adapters": False})
    save_file(merged(first_tensors(), task), path / "model.safetensors")
    return path


@pytest.mark.parametrize("task", [None, *TASKS])
def test_an_adapter_is_added_to_the_weights(tmp_path, isa, folder, task):
    model = load_model(folder)
    assert type(model) is JinaEmbeddingsV3Model and model.tasks == tuple(TASKS)
    whole = load_model(write_merged(tmp_path / "merged", task))
    with pytest.raises(ValueError, match="task is 'separation'; needed: None or nothing else"):
        whole.for_task("separation")
    np.testing.assert_allclose(model.for_task(task)(IDS, MASK)[0], whole(IDS, MASK)[0], atol=checks.TOLERANCE, rtol=0)
    packed, starts = IDS[MASK.astype(bool)], np.array([0, 4, 7])
    for rows in ({}, {"pooled_rows": 0}):
        got, expected = (found.encode_packed(packed, starts, **rows) for found in (model.for_task(task), whole))
        np.testing.assert_allclose(got, expected, atol=checks.TOLERANCE, rtol=0)


def test_packing_and_padding_of_a_task(isa, folder):
    checks.packing(load_model(folder).for_task("classification"))


def test_unknown_task(folder):
    with pytest.raises(ValueError, match="task is 'search'; needed: None or 'retrieval.query', "):
        load_model(folder).for_task("search")


def test_tasks_of_a_sentence_encoder(tmp_path, folder):
    modules = [{"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer", "kwargs": ["task"]}]
    modules += [{"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    write_json(folder / "modules.json", modules)
    encoder = SentenceEncoder.from_pretrained(folder)
    texts = ["the cat sat", "dog"]
    found = {task: encoder.encode(texts, task=task) for task in (None, *TASKS)}
    ids = encoder.tokenize(texts)
    for task, vectors in found.items():
        rows = encoder.model.for_task(task)(ids["input_ids"], ids["attention_mask"])[0]
        weights = ids["attention_mask"][..., None]
        np.testing.assert_allclose(vectors, (rows * weights).sum(axis=1) / weights.sum(axis=1), atol=1e-6)
    np.testing.assert_array_equal(encoder.encode_query(texts), found["retrieval.query"])
    np.testing.assert_array_equal(encoder.encode_document(texts), found["retrieval.passage"])
    assert len({vectors.tobytes() for vectors in found.values()}) == 6
    with pytest.raises(ValueError, match="task is 'search'; this model has the routes: 'retrieval.query', "):
        encoder.encode(texts, task="search")
    encoder.max_seq_length = 3
    assert all(len(row) == 3 for row in encoder.tokenize(["the cat sat on the mat"], task="separation")["input_ids"])


def test_tasks_pickle_as_the_model_that_they_share(folder):
    model = load_model(folder)
    tasks = [model.for_task(task) for task in TASKS]
    content = pickle.dumps([model, *tasks])
    assert len(content) < 2000
    for found, *others in (pickle.loads(content), copy.deepcopy([model, *tasks])):
        for task, other in zip(tasks, others, strict=True):
            assert all(a is b for a, b in zip(other.parameters(), found.parameters(), strict=True))
            np.testing.assert_array_equal(other(IDS, MASK)[0], task(IDS, MASK)[0])
    before, norm = tasks[0](IDS, MASK)[0], tasks[0].layers[0].feed_forward_norm
    norm.bias = norm.bias + 1  # all of them share it
    for again in pickle.loads(pickle.dumps(tasks[0])), pickle.loads(pickle.dumps(model)).for_task(TASKS[0]):
        np.testing.assert_array_equal(again(IDS, MASK)[0], tasks[0](IDS, MASK)[0])
        assert not np.array_equal(again(IDS, MASK)[0], before)


def test_what_is_saved_is_loaded(tmp_path, folder):
    model = load_model(folder)
    model.save_pretrained(tmp_path)
    again, saved = load_model(tmp_path), Checkpoint.open(tmp_path).tensors
    assert set(saved) == {name.removeprefix("roberta.") for name in first_tensors() if "pooler" not in name}
    np.testing.assert_array_equal(again.for_task("separation")(IDS)[0], model.for_task("separation")(IDS)[0])


def test_golden_numbers_of_transformers(isa):
    checks.golden("jina-v3", "JinaEmbeddingsV3ForSequenceClassification")


def test_round_trip(tmp_path):
    checks.round_trip("jina-v3", tmp_path)


def test_packing_and_padding(isa):
    checks.packing(load_model(checks.GOLDEN / "jina-v3", head=False))


def test_bad_input():
    checks.bad_input(load_model(checks.GOLDEN / "jina-v3", head=False), types=True)


def test_broken_tensors(tmp_path):
    checks.broken_tensors("jina-v3", tmp_path, "roberta.encoder.layers.1.mixer.Wqkv.weight")


def test_no_adapters_where_the_file_has_none(tmp_path, folder):
    write_json(tmp_path / "config.json", FIRST)
    save_file(merged(first_tensors(), None), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"parametrizations.weight"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "mish"},
        {"lora_adaptations": []},
        {"lora_adaptations": ["a", "a"]},
        {"lora_rank": 0},
        {"position_embedding_type": "absolute"},
        {"use_reg_tokens": True},
        {"truncate_dim": 8},
        {"rope_scaling": {"type": "odd"}},
    ],
    ids=str,
)
def test_what_is_refused(changes):
    checks.refused(JinaEmbeddingsV3Model, CONFIG, changes)


@pytest.mark.parametrize(
    "made",
    [
        JinaEmbeddingsV3Model,
        JinaEmbeddingsV3ForMaskedLM,
        JinaEmbeddingsV3ForSequenceClassification,
        JinaEmbeddingsV3ForTokenClassification,
        JinaEmbeddingsV3ForQuestionAnswering,
    ],
)
def test_fresh_models(made):
    checks.fresh(made, CONFIG)


def test_adapters_that_are_not_in_the_file_are_refused():
    with pytest.raises(ValueError, match="load_trained_adapters is False; needed with lora_adaptations: True"):
        JinaEmbeddingsV3Config(**CONFIG, lora_adaptations=["a"], load_trained_adapters=False)


def test_adapters_of_a_fresh_model_change_nothing():
    nn.manual_seed(0)
    model = JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(**CONFIG, lora_adaptations=["a", "b"]))
    np.testing.assert_allclose(model.for_task("b")(IDS)[0], model(IDS)[0], atol=1e-6)
