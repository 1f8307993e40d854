"""Result files as Markdown: `python -m benchmarks.report benchmarks/results/*`.

Writes the tables of each machine beside its results (README.md of the folder), and the headlines of all into
docs/performance.md between two marks, and README's picture. Called by __main__.py for the folder that it wrote. A new
kind of row is a function in `_TABLES`, a new headline a line in `_HEADLINES`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT

TABLES = "README.md"
_DOCUMENT = ROOT / "docs" / "performance.md"
_BEGIN = "<!-- benchmarks.report: begin. Written by `python -m benchmarks.report`; do not edit. -->"
_END = "<!-- benchmarks.report: end -->"
# Question -> the cases of which docs/performance.md shows the figures on one thread, as (name in a result, text).
_HEADLINES = {
    "attention": (
        ("D64 L128", "attention, 8 x 12 heads, L=128, D=64"),
        ("D64 L512", "attention, 12 heads, L=512, D=64"),
        ("D64 L512 causal", "the same, causal"),
        ("D64 L2048", "attention, 12 heads, L=2048, D=64"),
        ("D128 L4096", "attention, 2 heads, L=4096, D=128"),
        ("decode 32x2048x128", "decode, 32 heads, 2,048 keys, D=128"),
        ("decode 32/4x8192x128", "decode, 32 query heads on 4, 8,192 keys"),
    ),
    "linear": (
        ("1 x 768 -> 3072", "linear, 1 row, 768 to 3,072"),
        ("24 x 768 -> 3072", "linear, 24 rows"),
        ("96 x 768 -> 3072", "linear, 96 rows"),
        ("1024 x 768 -> 3072", "linear, 1,024 rows"),
    ),
    "models": (
        ("minilm 1x16", "all-MiniLM-L6-v2, 1 x 16 tokens"),
        ("minilm 8x128", "all-MiniLM-L6-v2, 8 x 128 tokens"),
        ("minilm 1x512", "all-MiniLM-L6-v2, 1 x 512 tokens"),
        ("bert-base 8x128", "BERT-base shape, 8 x 128 tokens"),
        ("minilm 2000 texts", "2,000 sentences, texts to vectors"),
    ),
    "families": (
        ("gpt2 prefill 1 x 512", "GPT-2 small, prompt of 512 tokens"),
        ("gpt2 decode 1, 512 in the cache", "GPT-2 small, one token after 512"),
        ("t5, 32 tokens of 32, beam 4", "T5 small, 32 tokens, 4 beams"),
        ("vit 8", "ViT base, 8 pictures"),
        ("whisper encoder 1", "Whisper tiny, encoder"),
    ),
}
# The same of low_precision, which has a table of its own.
_NARROW_HEADLINES = (
    ("1024 x 768 -> 3072", "linear, 1,024 rows, 768 to 3,072"),
    ("1 x 4096 -> 4096", "linear, 1 row, 4,096 to 4,096"),
    ("minilm 1x16", "all-MiniLM-L6-v2, 1 x 16 tokens"),
    ("minilm 8x128", "all-MiniLM-L6-v2, 8 x 128 tokens"),
    ("bert-base 8x128", "BERT-base shape, 8 x 128 tokens"),
    ("minilm 2000 texts", "2,000 sentences, texts to vectors"),
)
PEER_NAMES = {
    "ours": "this library",
    "numpy": "NumPy",
    "torch": "torch",
    "flex_attention": "FlexAttention",
    "onnxruntime": "onnxruntime",
    "openvino": "OpenVINO",
    "ctranslate2": "CTranslate2",
    "llama_cpp": "llama.cpp",
    "sentence_transformers": "sentence-transformers",
}


def markdown(paths: Sequence[Path]) -> str:
    """Everything that the files say, one section each."""
    return "\n\n".join(_section(Path(path)) for path in paths)


def write_tables(folder: Path) -> None:
    """Writes the tables of all results of a machine's folder beside them."""
    note = "Written by `python -m benchmarks.report`; [benchmarks/README.md](../../README.md) says how it is measured."
    text = markdown(sorted(folder.glob("*.json")))
    (folder / TABLES).write_text(f"# Results\n\n{note}\n\n{text}\n", encoding="utf-8")


def write_into(document: Path, text: str) -> None:
    """Puts the text between the marks of the document. Raises ValueError if it has none."""
    before = document.read_text(encoding="utf-8")
    if _BEGIN not in before or _END not in before:
        raise ValueError(f"{document} lacks its marks, needed: the lines {_BEGIN!r} and {_END!r}")
    head, rest = before.split(_BEGIN, 1)
    tail = rest.split(_END, 1)[1]
    document.write_text(f"{head}{_BEGIN}\n\n{text}\n\n{_END}{tail}", encoding="utf-8")


def headlines(folders: Sequence[Path]) -> str:
    """The chosen cases on one thread, a table and the plots of each machine."""
    return "\n\n".join(text for text in map(_headlines_of, folders) if text)


def _headlines_of(folder: Path) -> str:
    paths = sorted(folder.glob("*-1thread.json"))
    results = {path: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    order = list(_HEADLINES)
    narrow = [result for result in results.values() if result["benchmark"] == "low_precision"]
    by_question = [result for result in results.values() if result["benchmark"] in order]
    by_question.sort(key=lambda result: order.index(result["benchmark"]))
    if not by_question:
        return ""
    found = {label for result in by_question for label in result["backends"]}
    peers = [label for label in PEER_NAMES if label != "ours" and label in found]
    lines = []
    for result in by_question:
        rows = {row["case"]["name"]: row for row in result["rows"]}
        for name, text in _HEADLINES[result["benchmark"]]:
            if "seconds" in rows.get(name, {"lanes": {"ours": {}}})["lanes"]["ours"]:
                cells = _speed_row(rows[name], peers)
                share = f"{cells[4]} of the read" if cells[4] else cells[3]
                lines.append((text, cells[1], share, *cells[5:-1]))
    head = ("Case, 1 thread", "time", "of FMA peak", *(f"vs {PEER_NAMES[peer]}" for peer in peers))
    machine = by_question[0]["machine"]
    dates = sorted({result["date"][:10] for result in by_question})
    place = f"../benchmarks/results/{folder.name}"
    plotted = [path.with_suffix(".png") for path in paths if path.with_suffix(".png").exists()]
    parts = [
        f"## {machine.get('name', folder.name)}: {machine['cpu']}, {by_question[0]['isa']}",
        f"{' and '.join(dates)}; [all tables]({place}/{TABLES}).",
        table(*_without_empty_columns(head, lines)),
        *map(_narrow_headlines, narrow),
        "\n".join(f"![{path.stem}]({place}/{path.name})" for path in plotted),
    ]
    return "\n\n".join(part for part in parts if part)


def _narrow_headlines(result: dict[str, Any]) -> str:
    rows = {row["case"]["name"]: row for row in result["rows"]}
    ours, others = _narrow_labels(result)
    lines = [(text, *_narrow_row(rows[name], ours, others)[1:]) for name, text in _NARROW_HEADLINES if name in rows]
    head = ("Narrow numbers, 1 thread", *_narrow_head(ours, others)[1:])
    return table(*_without_empty_columns(head, lines)) if lines else ""


def _section(path: Path) -> str:
    result = json.loads(path.read_text(encoding="utf-8"))
    threads = result["threads"]
    name = result["machine"].get("name")
    machine = result["machine"]["cpu"].split(" Processor")[0] + (f" ({name})" if name else "")
    question = result["benchmark"].replace("_", " ").capitalize()
    title = f"## {question}, {threads} thread{'s' * (threads > 1)}: {machine}, {result['isa']}"
    parts = [title, _about(result, path), _verdicts(result), *_TABLES[result["benchmark"]](result), _peers(result)]
    return "\n\n".join(part for part in parts if part)


def _about(result: dict[str, Any], path: Path) -> str:
    machine = result["machine"]
    start = f"`{path.name}`, {result['date']}: {machine['cpu']}, {machine['cpus']} processors, ISA {result['isa']}"
    if "memory_read_gbs" not in result:  # nothing was timed
        return f"{start}."
    reads = " / ".join(f"{gbs:.1f}" for gbs in result["memory_read_gbs"])
    peaks = [row["peaks"]["ours"]["gflops"] for row in result["rows"] if "ours" in row["peaks"]]
    peak = f"FMA peak {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s, " if peaks else ""
    quick = " A quick run: its figures say that it works, not how fast." if result.get("quick") else ""
    return (
        f"{start}; {peak}memory read {reads} GB/s before and after. "
        f"Median of up to {result['rounds']} interleaved rounds.{quick}"
    )


def _verdicts(result: dict[str, Any]) -> str:
    rows = []
    for verdict in result["claims"]:
        value = "" if verdict["value"] is None else f"{verdict['value']:.3g}"
        word = {True: "yes", False: "**no**", None: "not measured"}[verdict["holds"]]
        rows.append((verdict["claim"], verdict["bound"], value, word, verdict["remark"]))
    return table(("Claim", "Bound", "Measured", "Holds", ""), rows, left=(0, 3, 4)) if rows else ""


def _speed_tables(result: dict[str, Any]) -> list[str]:
    """GFLOP/s of ours, its shares, and every peer's time over ours."""
    lanes = [label for label in result["backends"] if "missing" not in result["backends"][label]]
    others = [
        label
        for label in lanes
        if label != "ours" and any("seconds" in row["lanes"].get(label, {}) for row in result["rows"])
    ]
    names = [f"vs {PEER_NAMES.get(label, label)}" for label in others]
    head = ("Case", "time", "GFLOP/s", "of FMA peak", "of read", *names, "max error")
    tables = []
    for group in dict.fromkeys(row["group"] for row in result["rows"]):
        rows = [_speed_row(row, others) for row in result["rows"] if row["group"] == group]
        tables.append(f"### {group}\n\n{table(*_without_empty_columns(head, rows))}")
    return tables


def _speed_row(row: dict[str, Any], others: Sequence[str]) -> tuple[str, ...]:
    ours = row["lanes"]["ours"]
    name = row["case"]["name"]
    if "seconds" not in ours:
        return (name, ours.get("unsupported", ""), "", "", "", *("" for _ in others), "")

    def ratio(label: str) -> str:
        entry = row["lanes"].get(label, {})
        return f"{entry['seconds'] / ours['seconds']:.2f}x" if "seconds" in entry else ""

    error = ours.get("max_error")
    return (
        name,
        duration(ours["seconds"]),
        f"{ours['gflops']:.1f}",
        f"{ours['of_peak']:.0%}",
        f"{ours['of_read']:.0%}" if "of_read" in ours else "",
        *map(ratio, others),
        "" if error is None else f"{error:.0e}",
    )


def _without_empty_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[Sequence[str], list]:
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _mask_tables(result: dict[str, Any]) -> list[str]:
    """Times with lists made beforehand and in the call, what they cost, and peers; layouts of pages; memory."""
    tables = []
    for group in dict.fromkeys(row["group"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["group"] == group]
        paged = rows[0]["case"]["operation"] == "paged"
        head = _PAGED_HEAD if paged else _MASK_HEAD
        lines = [(_paged_row if paged else _mask_row)(row, result["workspace_bytes"]) for row in rows]
        tables.append(f"### {group}\n\n{table(*_without_empty_columns(head, lines))}")
    note = (
        "Visible: the share of all pairs. Cost: time by the share times the time of the dense call. Workspace: what "
        "the engine holds beside the operands, the result and the lists."
    )
    return [note, *tables]


_MASK_HEAD = ("Case", "visible", "time", "compiled in the call", "dense", "cost", "of FMA peak", "vs torch")
_MASK_HEAD += ("vs FlexAttention", "workspace", "max error")
_PAGED_HEAD = ("Case", "separate", "of read", "pages of 64", "of read", "shared", "separate / shared", "max error")


def _mask_row(row: dict[str, Any], workspace: dict[str, int]) -> tuple[str, ...]:
    case, lanes = row["case"], row["lanes"]
    share = row["flops"] / (4 * case["D"] * case["H"] * case["L"] ** 2)
    seconds = {label: entry["seconds"] for label, entry in lanes.items() if "seconds" in entry}
    dense = seconds.get("ours, dense")
    return (
        case["name"],
        f"{share:.2%}",
        *(duration(seconds[x]) if x in seconds else "" for x in ("ours", "ours, compiled in the call", "ours, dense")),
        f"{seconds['ours'] / (share * dense):.2f}" if dense and "ours" in seconds else "",
        f"{lanes['ours']['of_peak']:.0%}" if "of_peak" in lanes["ours"] else "",
        *(_over(seconds, peer, "ours") for peer in ("torch", "flex_attention")),
        f"{workspace[case['name']] / 1e6:.2f} MB",
        _error(lanes["ours"]),
    )


def _paged_row(row: dict[str, Any], _: dict[str, int]) -> tuple[str, ...]:
    lanes = row["lanes"]
    seconds = {label: entry["seconds"] for label, entry in lanes.items() if "seconds" in entry}
    cells = []
    for label in ("ours", "ours, pages", "ours, shared"):
        cells.append(duration(seconds[label]) if label in seconds else "")
        if label != "ours, shared":  # whose limit is not the read
            cells.append(f"{lanes[label]['of_read']:.0%}" if "of_read" in lanes[label] else "")
    return (row["case"]["name"], *cells, _over(seconds, "ours", "ours, shared"), _error(lanes["ours"]))


def _over(seconds: dict[str, float], label: str, other: str) -> str:
    return f"{seconds[label] / seconds[other]:.2f}x" if label in seconds and other in seconds else ""


def _error(entry: dict[str, Any]) -> str:
    return "" if entry.get("max_error") is None else f"{entry['max_error']:.0e}"


def _model_tables(result: dict[str, Any]) -> list[str]:
    tables = _speed_tables(result)
    rows = [
        (
            model,
            duration(figures["seconds"]),
            duration(figures["import_seconds"]),
            f"{figures['resident_bytes'] / 1e6:.0f} MB",
            f"{figures['memory_of_weights']:.2f}",
        )
        for model, figures in result["loading"].items()
    ]
    head = ("Model", "load and first call", "import", "resident", "in units of the weights")
    return [*tables, f"### Loading\n\n{table(head, rows)}"]


def _narrow_tables(result: dict[str, Any]) -> list[str]:
    """Ours in each compute type, the peers' times over ours in int8, and the cosines of all."""
    return _format_tables(result, lambda _: "ours, int8")


def _decoder_tables(result: dict[str, Any]) -> list[str]:
    """Ours in each format, the peers' times over ours in the same one, and the cosines of all."""
    return _format_tables(result, lambda label: ", ".join(["ours", *label.split(", ")[1:]]))


def _format_tables(result: dict[str, Any], counterpart: Callable[[str], str]) -> list[str]:
    """counterpart: a peer's lane -> that of ours with which it is compared."""
    ours, others = _narrow_labels(result)
    tables = []
    for group in dict.fromkeys(row["group"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["group"] == group]
        speed = [_narrow_row(row, ours, others, counterpart) for row in rows]
        cosines = [(row["case"]["name"], *(_cosines(row, label) for label in (*ours, *others))) for row in rows]
        parts = [f"### {group}", table(*_without_empty_columns(_narrow_head(ours, others, counterpart), speed))]
        if any(cell for line in cosines for cell in line[1:]):
            head = ("Cosines, mean / least", *(_narrow_name(label) for label in (*ours, *others)))
            parts.append(table(*_without_empty_columns(head, cosines)))
        tables.append("\n\n".join(parts))
    return tables


def _narrow_labels(result: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The lanes of ours, float32 first, and those of the peers."""
    backends = result["backends"]
    ours = [label for label, backend in backends.items() if backend["backend"] == "ours"]
    return ours, [label for label in backends if label not in ours]


def _narrow_name(label: str) -> str:
    peer, _, compute_type = label.partition(", ")
    return " ".join([PEER_NAMES.get(peer, peer) if peer != "ours" else "", compute_type or "float32"]).strip()


def _narrow_head(ours: Sequence[str], others: Sequence[str], counterpart: Callable[[str], str]) -> tuple[str, ...]:
    names = (f"{_narrow_name(label)} over our {_narrow_name(counterpart(label))}" for label in others)
    return ("Case", *map(_narrow_name, ours), *names)


def _narrow_row(
    row: dict[str, Any], ours: Sequence[str], others: Sequence[str], counterpart: Callable[[str], str]
) -> tuple[str, ...]:
    """Times of ours, and how many times as fast as float32 they are; of peers how many times as long as ours."""
    seconds = {label: entry["seconds"] for label, entry in row["lanes"].items() if "seconds" in entry}

    def own(label: str) -> str:
        if label not in seconds:
            return ""
        gain = "" if label == "ours" or "ours" not in seconds else f" ({seconds['ours'] / seconds[label]:.2f}x)"
        return duration(seconds[label]) + gain

    def other(label: str) -> str:
        own = counterpart(label)
        return f"{seconds[label] / seconds[own]:.2f}x" if label in seconds and own in seconds else ""

    return (row["case"]["name"], *map(own, ours), *map(other, others))


def _cosines(row: dict[str, Any], label: str) -> str:
    entry = row["lanes"].get(label, {})
    return f"{entry['mean_cosine']:.5f} / {entry['least_cosine']:.5f}" if "least_cosine" in entry else ""


def _perplexity_tables(result: dict[str, Any]) -> list[str]:
    """The model that was trained, how formats change its perplexity, and whose greedy tokens agree."""
    model, judged, greedy = result["model"], result["judged"], result["greedy"]
    rows: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for row in result["rows"]:
        name = row["case"]["name"].removeprefix(f"{row['group']} ")
        rows.setdefault(row["group"], []).append((name, row["lanes"]["ours"]))
    about = (
        f"A Llama of bytes, {model['num_hidden_layers']} layers of width {model['hidden_size']}, trained "
        f"{model['steps']} steps on the standard library of Python {result['python']}, judged by {judged['rows']} x "
        f"{judged['length']} bytes of files that it has not seen. Changes are those of float32's perplexity a byte, "
        "with their standard error."
    )
    parts = [about]
    for group, title in (("weights", "Compute types"), ("file", "GGUF files"), ("cache", "Keys and values")):
        lines = [_perplexity_row(name, entry) for name, entry in rows.get(group, [])]
        head = (title, "perplexity", "change", "standard error", "change, the file's values in float32")
        if lines:
            parts.append(f"### {title}\n\n{table(*_without_empty_columns(head, lines))}")
    if "greedy" in rows:
        head = (
            "File",
            "ours as llama.cpp",
            "ours as float32",
            "auto_a8 as float32",
            "llama.cpp as float32",
            "largest gap",
        )
        names = ("ours_llama_cpp", "ours_float32", "ours_a8_float32", "llama_cpp_float32")
        lines = []
        for name, entry in rows["greedy"]:
            lines.append((name, *(str(entry.get(key, "")) for key in names), f"{entry['largest_gap']:.2g}"))
        note = (
            f"Prompts of {greedy['prompts']}, each of {greedy['length']} bytes, after which all of {greedy['new']} "
            "greedy tokens are the same. float32: the file's values, multiplied in float32. Gap: how far apart "
            "float32's logits of the two tokens are where ours and llama.cpp's first differ, at most."
        )
        parts.append(f"### Greedy tokens\n\n{note}\n\n{table(head, lines)}")
    return parts


def _perplexity_row(name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    of_values = f"{entry['of_values']:+.3f} %" if "of_values" in entry else ""
    return (name, f"{entry['perplexity']:.4f}", f"{entry['change']:+.3f} %", f"{entry['error']:.3f} %", of_values)


_TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "attention": _speed_tables,
    "masks": _mask_tables,
    "late_interaction": _speed_tables,
    "linear": _speed_tables,
    "models": _model_tables,
    "families": _speed_tables,
    "low_precision": _narrow_tables,
    "decoders": _decoder_tables,
    "retrieval": _speed_tables,
    "perplexity": _perplexity_tables,
}


def _peers(result: dict[str, Any]) -> str:
    """Versions and settings, the variants that were taken, and who was missing."""
    lines = []
    for label, backend in result["backends"].items():
        if "missing" in backend:
            lines.append(f"- {label}: missing ({backend['missing']})")
            continue
        versions = ", ".join(f"{name} {version}" for name, version in backend["versions"].items())
        shown = {k: v for k, v in backend["settings"].items() if k not in ("cpu", "cache_bytes", "version")}
        settings = ", ".join(f"{name}={value}" for name, value in shown.items())
        lines.append(f"- {label}: {versions}; {settings}. {_doings(result, label)}".rstrip())
    return "### Peers\n\n" + "\n".join(lines)


def _doings(result: dict[str, Any], label: str) -> str:
    """The variants that a lane was measured in, its largest error, and how many processors it kept busy; "" where
    nothing was timed at all."""
    if "memory_read_gbs" not in result:
        return ""
    entries = [row["lanes"].get(label, {}) for row in result["rows"]]
    entries = [entry for entry in entries if "seconds" in entry]
    if not entries:
        return "Nothing measured."
    variants: dict[str, int] = {}
    for entry in entries:
        variants[entry["variant"]] = variants.get(entry["variant"], 0) + 1
    taken = "; ".join(f"{name} ({count})" for name, count in variants.items())
    errors = [entry["max_error"] for entry in entries if entry["max_error"] is not None]
    error = f"Largest error {max(errors):.0e}. " if errors else ""
    busy = sorted(entry["processors"] for entry in entries)
    restless = "" if all(entry["at_rest"] for entry in entries) else " Its threads did not always come to rest."
    used = f"Processors busy: {busy[len(busy) // 2]:.2f} (median), {busy[-1]:.2f} (most)."
    return f"Taken: {taken}. {error}{used}{restless}"


def duration(seconds: float) -> str:
    for limit, unit, factor in ((1e-3, "us", 1e6), (1.0, "ms", 1e3)):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A Markdown table; the columns in `left` are aligned to the left, the others to the right."""
    line = ["---" if i in left else "--:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, line, *rows))


def main() -> None:
    from benchmarks import overview  # which imports this module

    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="one a machine")
    folders = [folder for folder in parser.parse_args().folders if folder.is_dir()]
    for folder in folders:
        write_tables(folder)
    write_into(_DOCUMENT, headlines(folders))
    overview.write()


if __name__ == "__main__":
    main()
