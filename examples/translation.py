"""Translation with an encoder-decoder: numbers in words become digits, "four hundred seven" -> "407".

One sees torch train a small nn.Transformer for some 20 seconds of one core, and this library serve it: `from_torch`
takes the weights over, `nn.TransformerGenerator` keeps keys and values, and the digits that come out are those of the
usual loop in torch, which runs the whole prefix again for each digit. Needs the extra `oracle` (torch).
"""

import time

import numpy as np
import torch

import transformer_fast as tf
from transformer_fast import nn
from transformer_fast.generation import generate
from transformer_fast.integrations.torch import from_torch

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
PAD, START, END = 0, 1, 2
SOURCE = {word: i for i, word in enumerate(["", *SMALL, *TENS, "hundred", "thousand"])}
DIGITS = 3  # the id of "0" among the targets
LONGEST = 16
WIDTH, HEADS, LAYERS, INNER = 64, 4, 2, 128
STEPS, BATCH = 600, 128


def words(n: int) -> list[str]:
    """407 -> ["four", "hundred", "seven"]."""
    if n < 20:
        return [SMALL[n]]
    if n < 100:
        return [TENS[n // 10 - 2]] + (words(n % 10) if n % 10 else [])
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if n >= size:
            return words(n // size) + [name] + (words(n % size) if n % size else [])
    raise ValueError(f"n is {n}; needed: 0 or more")


def batch(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the words (B, S) and of the digits between START and END (B, T), padded on the right."""
    sources = [[SOURCE[word] for word in words(int(n))] for n in numbers]
    targets = [[START, *(DIGITS + int(digit) for digit in str(n)), END] for n in numbers]
    return padded(sources), padded(targets)


def padded(rows: list[list[int]]) -> np.ndarray:
    ids = np.full((len(rows), max(map(len, rows))), PAD)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids


def digits(ids: np.ndarray) -> str:
    return "".join(str(i - DIGITS) for i in ids if i >= DIGITS)


class Translator(torch.nn.Module):
    """torch's nn.Transformer with what it needs around it."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = torch.nn.Transformer(WIDTH, HEADS, LAYERS, LAYERS, INNER, dropout=0.0, batch_first=True)
        self.transformer.encoder.use_nested_tensor = False  # a prototype of torch's, which it warns of
        self.source = torch.nn.Embedding(len(SOURCE), WIDTH)
        self.target = torch.nn.Embedding(DIGITS + 10, WIDTH)
        self.positions = torch.nn.Embedding(LONGEST, WIDTH)
        self.logits = torch.nn.Linear(WIDTH, DIGITS + 10)

    def embed(self, embedding: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        return embedding(ids) + self.positions(torch.arange(ids.shape[1]))

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        padding = source == PAD
        hidden = self.transformer(
            self.embed(self.source, source),
            self.embed(self.target, target),
            tgt_mask=torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1),
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return self.logits(hidden)


def train(model: Translator, rng: np.random.Generator) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=STEPS)
    for step in range(STEPS):
        # As many short numbers as long ones: most numbers below a million have six digits.
        source, target = (torch.from_numpy(ids) for ids in batch(rng.integers(0, 10 ** rng.integers(1, 7, BATCH))))
        logits = model(source, target[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), target[:, 1:], ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"  step {step + 1:5}: loss {loss.item():.4f}")


@torch.no_grad()
def greedy(model: Translator, source: np.ndarray, steps: int) -> np.ndarray:
    """The loop of the tutorials: the decoder reads all ids so far, and the likeliest next one is appended."""
    model.eval()
    source = torch.from_numpy(source)
    padding = source == PAD
    memory = model.transformer.encoder(model.embed(model.source, source), src_key_padding_mask=padding)
    ids = torch.full((len(source), 1), START)
    ended = torch.zeros(len(source), dtype=torch.bool)
    for _ in range(steps):
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        hidden = model.transformer.decoder(
            model.embed(model.target, ids), memory, tgt_mask=causal, memory_key_padding_mask=padding
        )
        chosen = model.logits(hidden[:, -1]).argmax(dim=-1).masked_fill(ended, PAD)
        ids = torch.cat([ids, chosen[:, None]], dim=1)
        ended |= chosen == END
        if ended.all():
            break
    return ids.numpy()


def served(model: Translator) -> nn.TransformerGenerator:
    """The same model in this library."""
    positions = nn.LearnedPositionalEmbedding(LONGEST, WIDTH)
    positions.load_state_dict({"weight": model.positions.weight.detach().numpy()})
    return nn.TransformerGenerator(
        from_torch(model.transformer),
        from_torch(model.source),
        from_torch(model.target),
        from_torch(model.logits),
        positions,
    )


def timed(call, rounds: int = 5) -> float:
    """The median of some calls, in seconds."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tf.set_num_threads(1)
    rng = np.random.default_rng(0)
    model = Translator()
    print("training with torch")
    started = time.perf_counter()
    train(model, rng)
    print(f"  {time.perf_counter() - started:.0f} s")

    ours = served(model)
    numbers = rng.integers(0, 10**6, 256)
    source, _ = batch(numbers)

    def translate(rows: np.ndarray) -> np.ndarray:
        return generate(
            ours,
            rows,
            rows != PAD,
            decoder_start_token_id=START,
            eos_token_id=END,
            pad_token_id=PAD,
            max_new_tokens=8,
        )

    theirs, found = greedy(model, source, 8), translate(source)
    print("\nnumbers, most of which it has never seen")
    for n, row in list(zip(numbers, found, strict=True))[:6]:
        print(f"  {' '.join(words(int(n))):68} {digits(row):>6} {'' if digits(row) == str(n) else '(wrong)'}".rstrip())
    right = sum(digits(row) == str(n) for n, row in zip(numbers, found, strict=True))
    print(f"\nright: {right} of {len(numbers)}; tokens as torch's: {np.array_equal(found, theirs)}")
    for rows in (source[:1], source):
        torch_time, our_time = timed(lambda r=rows: greedy(model, r, 8)), timed(lambda r=rows: translate(r))
        print(f"{len(rows):4} at once: torch {1e3 * torch_time:7.1f} ms, this library {1e3 * our_time:7.1f} ms")


if __name__ == "__main__":
    main()
