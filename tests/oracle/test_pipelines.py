"""pipelines/ live against transformers' pipelines: tiny random models with a tokenizer of a few hundred words."""

from __future__ import annotations

import numpy as np
import pytest
from support import alike

from transformer_fast.pipelines import (
    FillMask,
    ImageClassifier,
    ImageTextSimilarity,
    QuestionAnswerer,
    Summariser,
    TextClassifier,
    TokenTagger,
    Translator,
)

pytestmark = pytest.mark.oracle
TOLERANCE = 1e-5

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz.,?!'"]
WORDS = [*"the cat sat on a mat far away from my house in london ada lives and works with wolfgang berlin is".split()]
VOCABULARY = [*SPECIAL, *LETTERS, *(f"##{c}" for c in LETTERS), *WORDS, *(w for w in ("##ing", "##gang", "##don"))]
TEXTS = [
    "The cat sat on the mat.",
    "Ada lives in London, and works with Wolfgang.",
    "far away",
    "",
    "My house is in Berlin! Working, sitting, far away from the cats on the mat and from London; really.",
    "na\u00efve caf\u00e9 \u65e5\u672c Ada",
]
LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "LOC", 4: "I-LOC"}


def wordpiece():
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)
    )


def byte_level():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    names = dict(pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>", mask_token="<mask>")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer, names


FAMILIES = {
    "Bert": (wordpiece, {"pad_token_id": 0}),
    "Roberta": (byte_level, {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}),
    "DistilBert": (wordpiece, {"pad_token_id": 0}),
}


def written(torch, folder, family, task, **changes):
    """A random model of transformers with its tokenizer in `folder`; and both as transformers has them."""
    import transformers

    torch.manual_seed(0)
    make, options = FAMILIES[family]
    tokenizer, names = make()
    if family == "Bert":  # given here, not set afterwards: so it is saved
        names["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=60, **names)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)
    if family == "DistilBert":
        sizes = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=40)
    config = getattr(transformers, f"{family}Config")(
        **sizes | options | changes, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=70
    )
    model = getattr(transformers, f"{family}For{task}")(config).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.2
    model.save_pretrained(folder)
    theirs.save_pretrained(folder)
    return model, theirs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"num_labels": 1}, {"problem_type": "multi_label_classification"}], ids=str)
def test_text_classifier(torch, tmp_path, family, options):
    from transformers import pipeline

    options = {"num_labels": 3, **options}
    model, tokenizer = written(torch, tmp_path, family, "SequenceClassification", **options)
    theirs = pipeline("text-classification", model=model, tokenizer=tokenizer)
    ours = TextClassifier.from_pretrained(tmp_path)
    alike(ours(TEXTS), theirs(TEXTS))
    alike(ours(TEXTS, top_k=None), theirs(TEXTS, top_k=None))
    alike(ours(TEXTS[1], top_k=2), theirs(TEXTS[1], top_k=2))
    alike(ours(TEXTS, function_to_apply="none"), theirs(TEXTS, function_to_apply="none"))
    pairs = [(a, b) for a in TEXTS[:3] for b in TEXTS[:2]]
    alike(ours(pairs), theirs([{"text": a, "text_pair": b} for a, b in pairs]))
    long = " ".join(TEXTS * 3)
    alike(ours([long, TEXTS[0]]), theirs([long, TEXTS[0]], truncation=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_token_tagger(torch, tmp_path, family):
    from transformers import pipeline

    changes = {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}
    model, tokenizer = written(torch, tmp_path, family, "TokenClassification", **changes)
    theirs = pipeline("token-classification", model=model, tokenizer=tokenizer)
    ours = TokenTagger.from_pretrained(tmp_path)
    for strategy in ("none", "simple", "first", "average", "max"):
        options = {"aggregation_strategy": strategy}
        for ignored in (["O"], [], ["LOC", "PER"]):
            got = ours(TEXTS, ignore_labels=ignored, **options)
            alike(got, [theirs(text, ignore_labels=ignored, **options) for text in TEXTS])
    alike(ours(TEXTS[1]), theirs(TEXTS[1]))
    long = [" ".join(TEXTS * 3), TEXTS[0]]
    alike(ours(long), theirs(long))
    for strategy in ("simple", "first", "average", "max"):
        for stride in (0, 12):
            options = {"aggregation_strategy": strategy, "stride": stride}
            alike(ours(long, **options), [theirs(text, **options) for text in long])


@pytest.mark.parametrize("family", FAMILIES)
def test_fill_mask(torch, tmp_path, family):
    from transformers import pipeline

    model, tokenizer = written(torch, tmp_path, family, "MaskedLM")
    theirs = pipeline("fill-mask", model=model, tokenizer=tokenizer)
    ours = FillMask.from_pretrained(tmp_path)
    mask = ours.mask
    texts = [f"the {mask} sat on the mat", f"{mask}.", f"Ada lives in {mask}, far away", f"a {mask} is {mask}!"]
    alike(ours(texts), theirs(texts))
    alike(ours(texts[0], top_k=3), theirs(texts[0], top_k=3))
    alike(ours(texts[3], top_k=2), theirs(texts[3], top_k=2))
    words = ["a", "e", "t"]
    alike(ours(texts, targets=words), theirs(texts, targets=words))


def plain_answers(torch, model, tokenizer, question, context, *, top_k, longest, length, stride, impossible, to_words):
    """Extractive answers as the pipeline of transformers 4 defines them, by trying every span of every window."""
    windows = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    takes = ("input_ids", "attention_mask", "token_type_ids")
    found, nothing = [], []
    for w in range(len(windows["input_ids"])):
        with torch.no_grad():
            output = model(**{name: torch.tensor(windows[name][w])[None] for name in takes if name in windows})
        encoding = windows.encodings[w]
        allowed = np.array([s == 1 for s in encoding.sequence_ids])
        allowed |= np.array(encoding.ids) == tokenizer.cls_token_id
        probabilities = []
        for logits in (output.start_logits, output.end_logits):
            masked = np.where(allowed, logits[0].numpy().astype(np.float64), -10000.0)
            probabilities.append(np.exp(masked - masked.max()) / np.exp(masked - masked.max()).sum())
        start, end = probabilities
        nothing.append(start[0] * end[0])
        spans = [
            (start[s] * end[e] if s else 0.0, s, e)
            for s in np.flatnonzero(allowed)
            for e in np.flatnonzero(allowed)
            if s <= e < s + longest and s > 0
        ]
        spans = sorted(spans, key=lambda span: -span[0])[: top_k * 2 + 10 if to_words else top_k]
        for score, s, e in spans:
            words = encoding.token_to_word(s), encoding.token_to_word(e)
            if to_words and None not in words:
                place = encoding.word_to_chars(words[0], 1)[0], encoding.word_to_chars(words[1], 1)[1]
            else:
                place = encoding.offsets[s][0], encoding.offsets[e][1]
            answer = context[slice(*place)]
            known = next((a for a in found if a["answer"].lower() == answer.lower()), None)
            if known is None:
                found.append({"score": score, "start": place[0], "end": place[1], "answer": answer})
            else:
                known["score"] += score
    if impossible:
        found.append({"score": min(nothing), "start": 0, "end": 0, "answer": ""})
    return sorted(found, key=lambda answer: -answer["score"])[:top_k]


QUESTIONS = ["Where does Ada live?", "who works with Ada", "is the cat far away?"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 4, "impossible": True},
        {"to_words": False, "top_k": 3, "longest": 4},
        {"length": 40, "stride": 7, "top_k": 5},
    ],
    ids=str,
)
def test_question_answerer(torch, tmp_path, family, options):
    model, tokenizer = written(torch, tmp_path, family, "QuestionAnswering")
    ours = QuestionAnswerer.from_pretrained(tmp_path)
    contexts = [" ".join(TEXTS), TEXTS[1], " ".join(TEXTS * 2)]
    settings = {"top_k": 1, "longest": 15, "length": 60, "stride": 20, "impossible": False, "to_words": True} | options
    got = ours(
        QUESTIONS,
        contexts,
        top_k=settings["top_k"],
        max_answer_len=settings["longest"],
        max_seq_len=settings["length"],
        doc_stride=settings["stride"],
        handle_impossible_answer=settings["impossible"],
        align_to_words=settings["to_words"],
    )
    for question, context, answers in zip(QUESTIONS, contexts, got, strict=True):
        expected = plain_answers(torch, model, tokenizer, question, context, **settings)
        alike(answers if isinstance(answers, list) else [answers], [a | {"score": float(a["score"])} for a in expected])


def picture(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).integers(0, 256, shape, np.uint8)


def test_image_classifier(torch, tmp_path):
    import transformers
    from PIL import Image

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        image_size=24,
        patch_size=8,
        id2label=dict(enumerate("abcdefg")),
        label2id={name: i for i, name in enumerate("abcdefg")},
    )
    model = transformers.ViTForImageClassification(config).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    processor = transformers.ViTImageProcessorPil(size={"height": 24, "width": 24})
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    theirs = transformers.pipeline("image-classification", model=model, image_processor=processor)
    ours = ImageClassifier.from_pretrained(tmp_path)
    paths = []
    for i, shape in enumerate([(30, 40, 3), (25, 20, 4), (50, 50)]):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(picture(*shape)).save(paths[-1])
    alike(ours(paths), theirs(paths))
    alike(ours(paths[1], top_k=2), theirs(paths[1], top_k=2))
    pictures = [Image.open(path) for path in paths]
    alike(ours(pictures, top_k=7, function_to_apply="sigmoid"), theirs(pictures, top_k=7, function_to_apply="sigmoid"))


def test_image_text_similarity(torch, tmp_path):
    import transformers
    from PIL import Image

    torch.manual_seed(0)
    tokenizer, names = byte_level()
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, projection_dim=10)
    text = sizes | dict(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=20, eos_token_id=2, bos_token_id=0
    )
    vision = sizes | dict(image_size=24, patch_size=8)
    text["eos_token_id"] = tokenizer.get_vocab_size() - 1
    from tokenizers import processors

    last = tokenizer.id_to_token(text["eos_token_id"])
    tokenizer.post_processor = processors.RobertaProcessing(
        (last, text["eos_token_id"]), ("<s>", 0), add_prefix_space=False
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=20, **names)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size={"height": 24, "width": 24})
    for part in (model, tokenizer, processor):
        part.save_pretrained(tmp_path)
    ours = ImageTextSimilarity.from_pretrained(tmp_path)
    pictures = [Image.fromarray(picture(*shape)) for shape in [(30, 40, 3), (90, 33, 3), (50, 50, 3)]]
    texts = [TEXTS[0], TEXTS[2], TEXTS[4], "a cat"]
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model(**inputs, pixel_values=processor(pictures, return_tensors="pt")["pixel_values"])
    np.testing.assert_allclose(ours.encode_texts(texts), expected.text_embeds.numpy(), atol=TOLERANCE)
    np.testing.assert_allclose(ours.encode_images(pictures), expected.image_embeds.numpy(), atol=TOLERANCE)
    probabilities = expected.logits_per_image.softmax(dim=1).numpy()
    np.testing.assert_allclose(ours(pictures, texts), probabilities, atol=TOLERANCE)
    zero_shot = transformers.pipeline(
        "zero-shot-image-classification", model=model, tokenizer=tokenizer, image_processor=processor
    )
    for image in pictures:
        found = zero_shot(image, candidate_labels=texts[:2], hypothesis_template="{}")
        got = dict(zip(texts[:2], ours(image, texts[:2])[0], strict=True))
        for answer in found:
            assert abs(got[answer["label"]] - answer["score"]) <= TOLERANCE


@pytest.mark.parametrize("architecture", ["BartForConditionalGeneration", "T5ForConditionalGeneration"])
def test_texts_to_texts(torch, tmp_path, architecture):
    import transformers

    torch.manual_seed(0)
    tokenizer, names = byte_level()
    V = tokenizer.get_vocab_size()
    ids = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "bos_token_id": 0}
    tasks = {"summarization": {"prefix": "in the mat ", "max_length": 15, "num_beams": 3, "no_repeat_ngram_size": 2}}
    if architecture.startswith("T5"):
        sizes = dict(d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4)
        config = transformers.T5Config(vocab_size=V, **sizes, **ids, task_specific_params=tasks)
    else:
        heads = dict(encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=40, decoder_ffn_dim=40)
        sizes = dict(d_model=32, encoder_layers=2, decoder_layers=2, max_position_embeddings=60, **heads)
        config = transformers.BartConfig(vocab_size=V, **sizes, **ids, task_specific_params=tasks)
    model = getattr(transformers, architecture)(config).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.3
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=60, **names)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def theirs(prefix, texts, **options):
        found = []
        for text in texts:
            inputs = tokenizer(prefix + text, truncation=True, return_tensors="pt")
            row = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], **options)[0]
            found.append(tokenizer.decode(row, skip_special_tokens=True).strip())
        return found

    task = dict(tasks["summarization"])
    prefix = task.pop("prefix")
    expected = theirs(prefix, TEXTS, **task)
    assert len(set(expected)) > 1
    assert Summariser.from_pretrained(tmp_path)(TEXTS) == expected
    assert Translator.from_pretrained(tmp_path)(TEXTS, max_new_tokens=9) == theirs("", TEXTS, max_new_tokens=9)
