"""What narrow numbers cost a language model: perplexity and greedy tokens of a small one that is trained here.

Run as `python -m benchmarks.perplexity` (torch trains some minutes the first time; llama-cpp-python writes the GGUF
files). byte_model.py trains a Llama of bytes on Python's source; here files that it has not seen judge it: by how many
percent each compute type, each format of GGUF and each type of cache changes float32's perplexity a byte, and for how
many of 100 prompts the greedy tokens are llama.cpp's (greedy.py). The result is a file beside those of
`python -m benchmarks`, with `CLAIMS` judged. A new format is a name in `WEIGHTS`, `FILES` or greedy.py's `FORMATS`;
models of other sizes and texts change the figures, not their order.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ROOT, artifacts, byte_model, claims, greedy, report, runner
from benchmarks.claims import Claim

WEIGHTS = ("float32", "bfloat16", "int8", "int8_a16", "int4", "int4_a8")
FILES = {"Q8_0": "gguf_q8_0", "Q6_K": "gguf_q6_k", "Q4_K": "gguf_q4_k", "Q4_0": "gguf_q4_0"}
CACHES = ("float32", "bfloat16", "float16", "int8")
_FOLDER = ROOT / "build" / "benchmarks" / "bytes"
_JUDGED_ROWS = 64
_PROMPTS, _PROMPT_LENGTH, _NEW = 100, 64, 32
# Rows that a model computes at once: 8 x 256 x 256 logits are 2 MB.
_BATCH = 8


def _change(case: str, bound: float, text: str) -> Claim:
    return Claim(f"{text}: change of perplexity, %", lambda r: abs(r.figure(case, "change")), bound, at_most=True)


def _tokens(name: str, other: str, text: str) -> Claim:
    text = f"{name}: prompts of {_PROMPTS} whose {_NEW} greedy tokens are those of {text}"
    return Claim(text, lambda r: r.figure(f"greedy {name}", f"ours_{other}"), 95)


CLAIMS = (
    _change("weights int8", 0.3, "int8"),
    _change("file Q4_K", 2, "Q4_K"),
    _change("cache int8", 0.3, "int8 keys and values"),
    *(_tokens(name, "llama_cpp", "llama.cpp") for name in greedy.FORMATS),
    *(_tokens(name, "float32", "float32 on the file's values") for name in greedy.FORMATS),
)


def losses(model: Any, ids: np.ndarray) -> np.ndarray:
    """-log of the probability of each id of rows (B, L) but the first: (B, L - 1)."""
    parts = [ids[i : i + _BATCH] for i in range(0, len(ids), _BATCH)]
    return np.concatenate([_losses(model(part).logits[:, :-1], part[:, 1:]) for part in parts])


def losses_with_cache(model: Any, ids: np.ndarray, kv_cache_dtype: str) -> np.ndarray:
    """The same of the second half of each row, token by token, whose first half is read from a cache of that type."""
    half, found = ids.shape[1] // 2, []
    for i in range(0, len(ids), _BATCH):
        part = ids[i : i + _BATCH]
        past = model.empty_past(len(part), kv_cache_dtype)
        model(part[:, :half], past_key_values=past, use_cache=True)
        steps = range(half, ids.shape[1] - 1)
        logits = [model(part[:, i : i + 1], past_key_values=past, use_cache=True).logits for i in steps]
        found.append(_losses(np.concatenate(logits, axis=1), part[:, half + 1 :]))
    return np.concatenate(found)


def _losses(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=-1)) - np.take_along_axis(logits, ids[..., None], -1)[..., 0]


def figures(found: np.ndarray, whole: np.ndarray) -> dict[str, float]:
    """Of losses (B, n), next to those of float32: perplexity, its change in %, and the standard error of that.

    All formats predict the same bytes, so the change is much surer than the perplexity. Rows are independent samples,
    bytes of one are not.
    """
    change = (found - whole).mean(axis=1)
    return {
        "perplexity": float(np.exp(found.mean())),
        "change": 100 * float(np.expm1(change.mean())),
        "error": 100 * float(change.std(ddof=1) / np.sqrt(len(change))),
    }


def weight_rows(checkpoint: str | Path, ids: np.ndarray) -> Iterator[dict[str, Any]]:
    """Rows of the result: each compute type on the checkpoint."""
    import transformer_fast as tf

    whole = losses(tf.load_model(checkpoint), ids)
    for name in WEIGHTS:
        found = losses(tf.load_model(checkpoint, compute_type=name), ids)
        yield _row("weights", name, figures(found, whole))


def file_rows(checkpoint: str | Path, forms: dict[str, str], ids: np.ndarray) -> Iterator[dict[str, Any]]:
    """The same of GGUF files, as "auto" and as "auto_a8"; `of_values`: the change by the file's values in float32."""
    import transformer_fast as tf

    whole = losses(tf.load_model(checkpoint), ids)
    for name, form in FILES.items():
        if form in forms:
            values = figures(losses(tf.load_model(forms[form], compute_type="float32"), ids), whole)
            for case, compute_type in ((name, "auto"), (f"{name} auto_a8", "auto_a8")):
                own = figures(losses(tf.load_model(forms[form], compute_type=compute_type), ids), whole)
                yield _row("file", case, own | {"of_values": values["change"]})


def cache_rows(checkpoint: str | Path, ids: np.ndarray) -> Iterator[dict[str, Any]]:
    """The same of float32 weights with each type of cache."""
    import transformer_fast as tf

    model = tf.load_model(checkpoint)
    found = {name: losses_with_cache(model, ids, name) for name in CACHES}
    for name, values in found.items():
        yield _row("cache", name, figures(values, found["float32"]))


def greedy_rows(forms: dict[str, str], prompts: np.ndarray, new: int, threads: int) -> Iterator[dict[str, Any]]:
    """Greedy tokens of each file: greedy.compare's figures."""
    for name, form in greedy.FORMATS.items():
        if form in forms:
            yield _row("greedy", name, greedy.compare(name, forms[form], prompts, new, threads))


def case_names() -> list[str]:
    """The cases of a result that lacks nothing."""
    files = [case for name in FILES for case in (name, f"{name} auto_a8")]
    groups = {"weights": WEIGHTS, "file": files, "cache": CACHES, "greedy": greedy.FORMATS}
    return [_row(group, name, {})["case"]["name"] for group, names in groups.items() for name in names]


def _row(group: str, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {"case": {"name": f"{group} {name}"}, "group": group, "lanes": {"ours": entry}}


def measure(threads: int) -> dict[str, Any]:
    """The whole result, from a model that is trained where there is none yet."""
    from benchmarks.backends.ours import Ours

    started, ours = time.time(), Ours(threads)
    checkpoint = _FOLDER / "checkpoint"
    if not checkpoint.exists():
        _FOLDER.mkdir(parents=True, exist_ok=True)
        byte_model.train(checkpoint)
    wanted = dict.fromkeys([*FILES.values(), *greedy.FORMATS.values()])
    forms = artifacts.convert(checkpoint, _FOLDER, list(wanted), print)
    ids = byte_model.judged_rows(_JUDGED_ROWS, byte_model.LENGTH, seed=1)
    rows = [*weight_rows(checkpoint, ids), *file_rows(checkpoint, forms, ids), *cache_rows(checkpoint, ids)]
    prompts = byte_model.judged_rows(_PROMPTS, _PROMPT_LENGTH, seed=2)
    about = {"backend": "ours", "versions": ours.versions(), "settings": ours.settings()}
    peer: dict[str, Any] = {"backend": "llama_cpp", "missing": "not installed"}
    if importlib.util.find_spec("llama_cpp") is not None:
        rows += greedy_rows(forms, prompts, _NEW, threads)
        settings = {"n_threads": threads, "type_k": "F32", "type_v": "F32", "flash_attn_type": "disabled"}
        versions = {"llama_cpp_python": importlib.metadata.version("llama_cpp_python")}
        peer = {"backend": "llama_cpp", "versions": versions, "settings": settings}
    result = {
        **runner.head("perplexity", about, threads, started),
        "model": byte_model.CONFIG | {"steps": byte_model.STEPS},
        "judged": {"rows": _JUDGED_ROWS, "length": byte_model.LENGTH},
        "greedy": {"prompts": _PROMPTS, "length": _PROMPT_LENGTH, "new": _NEW},
        "backends": {"ours": about, "llama_cpp": peer},
        "rows": rows,
    }
    result["claims"] = claims.judge(result, CLAIMS)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perplexity", description=__doc__)
    parser.add_argument(
        "--threads", type=int, default=1, help="of ours and of llama.cpp (default: 1); no figure of ours depends on it"
    )
    parser.add_argument("--machine", help='what the title and the folder call the machine: "Zen 4" (default: unnamed)')
    parser.add_argument("--out", type=Path, help="the JSON file (default: in the machine's folder of results)")
    options = parser.parse_args()
    if options.machine is not None and not runner.machine_folder(options.machine):
        parser.error(f"--machine is {options.machine!r}; letters or digits are needed, for the name of the folder")
    result = measure(options.threads)
    if options.machine:
        result["machine"]["name"] = options.machine
    path = options.out or runner.RESULTS / runner.place(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(runner.to_text(result), encoding="utf-8")
    print(report.markdown([path]))
    if not options.out:
        report.write_tables(path.parent)


if __name__ == "__main__":
    main()
