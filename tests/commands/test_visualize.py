"""Pictures of attention: the artists hold the weights and the tokens that came in; no pixel is compared."""

from __future__ import annotations

import io

import numpy as np
import pytest
from scipy import sparse
from subprocesses import printed

from transformer_fast import masks, visualize
from transformer_fast.visualize.inputs import LABEL_LENGTH, max_pooled
from transformer_fast.visualize.lines import WIDEST

TOKENS = ["[CLS]", "the", "$robot$", r"\frac{", "😀", "two\nlines"]


def softmax(*shape: int, seed: int = 0) -> np.ndarray:
    x = np.exp(3 * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))
    return x / x.sum(-1, keepdims=True)


def texts(labels) -> list[str]:
    return [text.get_text() for text in labels]


# heat-map ------------------------------------------------------------------------------------------------------------


def test_heatmap_shows_the_weights_and_tokens():
    weights = softmax(6, 6)
    axes = visualize.attention_heatmap(weights, TOKENS, title="costs $5_000").axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), weights)
    assert texts(axes.get_xticklabels()) == texts(axes.get_yticklabels()) == [*TOKENS[:5], r"two\nlines"]
    assert axes.get_title() == "costs $5_000"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key", "query")


def test_heatmap_of_cross_attention_has_tokens_of_both_sides():
    axes = visualize.attention_heatmap(softmax(2, 3), ["ein", "Hund"], ["a", "small", "dog"]).axes[0]
    assert texts(axes.get_yticklabels()) == ["ein", "Hund"]
    assert texts(axes.get_xticklabels()) == ["a", "small", "dog"]
    without = visualize.attention_heatmap(softmax(2, 3), ["ein", "Hund"]).axes[0]
    assert "ein" not in texts(without.get_xticklabels())


def test_heatmap_of_one_weight_and_of_a_mask():
    assert visualize.attention_heatmap([[1.0]], ["a"]).axes[0].images[0].get_array() == 1
    mask = np.tri(4, dtype=bool)
    np.testing.assert_array_equal(visualize.attention_heatmap(mask).axes[0].images[0].get_array(), mask)


def test_large_heatmap_is_pooled_thinned_and_bounded():
    weights = np.zeros((2500, 1500), np.float32)
    weights[2499, 777] = 1
    figure = visualize.attention_heatmap(weights, [f"q{i}" for i in range(2500)])
    axes, image = figure.axes[0], figure.axes[0].images[0]
    cells = image.get_array()
    assert cells.shape == (834, 750)
    assert cells[833, 388] == 1 and cells.sum() == 1
    assert image.get_extent() == [-0.5, 1499.5, 2501.5, -0.5]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 1499.5), (2499.5, -0.5))
    labels = texts(axes.get_yticklabels())
    assert 20 < len(labels) < 100
    steps = np.diff(axes.get_yticks())
    assert (steps == steps[0]).all() and labels[1] == f"q{steps[0]:.0f}"
    assert max(figure.get_size_inches()) <= 14


@pytest.mark.parametrize(("shape", "most"), [((7, 5), 3), ((4, 4), 4), ((1, 10), 3), ((9, 2), 100)])
def test_pooling_keeps_the_maximum_of_each_block(shape, most):
    weights = softmax(*shape)
    cells, (rows, columns) = max_pooled(weights, most)
    assert max(cells.shape) <= most
    for i, j in np.ndindex(cells.shape):
        block = weights[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        assert cells[i, j] == block.max()


def test_sparse_weights_are_the_picture_of_the_dense_ones():
    weights = softmax(1200, 1030)
    weights[weights < 1e-3] = 0
    for array in (weights, weights[:6, :6]):
        dense = visualize.attention_heatmap(array).axes[0].images[0].get_array()
        picture = visualize.attention_heatmap(sparse.csr_array(array)).axes[0].images[0].get_array()
        np.testing.assert_array_equal(picture, dense)
    weights[0, 0] = np.nan
    with pytest.raises(ValueError, match="weights holds NaN or infinity"):
        visualize.attention_heatmap(sparse.csr_array(weights))


def test_long_tokens_end_in_an_ellipsis():
    axes = visualize.attention_heatmap([[1.0]], ["antidisestablishmentarianism"]).axes[0]
    assert texts(axes.get_xticklabels()) == ["antidisestablis…"]
    assert len("antidisestablis…") == LABEL_LENGTH


# grid ----------------------------------------------------------------------------------------------------------------


def test_grid_has_a_row_a_layer_and_a_column_a_head():
    attentions = softmax(2, 3, 5, 7)
    axes = visualize.attention_grid(attentions, layers=[4, 9]).axes[0]
    assert len(axes.images) == 6
    for image, weights in zip(axes.images, attentions.reshape(6, 5, 7), strict=True):
        np.testing.assert_array_equal(image.get_array(), weights)
        assert image.norm.vmax == weights.max()
    assert texts(axes.get_yticklabels()) == ["4", "9"] and texts(axes.get_xticklabels()) == ["0", "1", "2"]
    tops = [image.get_extent()[3] for image in axes.images]
    lefts = [image.get_extent()[0] for image in axes.images]
    assert tops[0] == tops[2] < tops[3] and lefts[0] == lefts[3] < lefts[1]


def test_grid_of_a_large_model_is_bounded():
    figure = visualize.attention_grid(softmax(48, 20, 40, 40))
    assert max(figure.get_size_inches()) <= 14
    assert max(figure.axes[0].images[0].get_array().shape) <= 32


# lines ---------------------------------------------------------------------------------------------------------------


def test_lines_are_as_wide_as_their_weights():
    weights = np.array([[0.9, 0.1, 0.0], [0.015, 0.485, 0.5]], np.float32)
    axes = visualize.attention_lines(weights, ["it", "$rains"], ["es", "regnet", "$"], minimum=0.02).axes[0]
    (lines,) = axes.collections
    np.testing.assert_allclose(lines.get_linewidths(), WIDEST * np.array([0.9, 0.1, 0.485, 0.5]), rtol=1e-6)
    ends = [segment[:, 1].tolist() for segment in lines.get_segments()]
    assert ends == [[0, 0], [0, 1], [1, 1], [1, 2]]
    opacity = lines.get_colors()[:, 3]
    assert opacity[0] == opacity.max() and opacity[1] == opacity.min()
    assert texts(axes.texts) == ["it", "$rains", "es", "regnet", "$"]


def test_lines_of_heads_have_colours_and_a_legend():
    weights = softmax(12, 4, 4)
    figure = visualize.attention_lines(weights, list("abcd"), heads=range(100, 112))
    collections = figure.axes[0].collections
    assert len(collections) == 12
    assert len({tuple(lines.get_colors()[0, :3]) for lines in collections}) == 12
    assert texts(figure.legends[0].get_texts()) == [f"head {i}" for i in range(100, 112)]
    np.testing.assert_allclose(collections[7].get_linewidths(), weights[7][weights[7] >= 0.02].ravel(), rtol=1e-6)
    starts = {round(float(lines.get_segments()[0][0, 1] % 1), 6) for lines in collections}
    assert len(starts) == 12, "lines of different heads lie upon each other"


def test_lines_of_long_input_are_the_strongest():
    weights = softmax(300, 300)
    figure = visualize.attention_lines(weights, [f"t{i}" for i in range(300)], most=50)
    drawn = np.array(figure.axes[0].collections[0].get_linewidths()) / WIDEST
    np.testing.assert_allclose(np.sort(drawn), np.sort(weights.ravel())[-50:], rtol=1e-6)
    assert len(figure.axes[0].texts) < 200 and max(figure.get_size_inches()) <= 14


def test_no_link_is_strong_enough():
    axes = visualize.attention_lines([[0.5, 0.5]], ["a"], ["b", "c"], minimum=0.9).axes[0]
    assert len(axes.collections[0].get_segments()) == 0


def test_zero_is_no_link():
    axes = visualize.attention_lines([[1.0, 0.0]], ["a"], ["b", "c"], minimum=0).axes[0]
    assert len(axes.collections[0].get_segments()) == 1


# image ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [softmax(6), softmax(6).reshape(2, 3)], ids=["flat", "grid"])
def test_weights_over_an_image(weights):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    axes = visualize.attention_on_image(weights, image, grid=(2, 3)).axes[0]
    picture, overlay = axes.images
    np.testing.assert_array_equal(picture.get_array(), image)
    np.testing.assert_array_equal(overlay.get_array(), weights.reshape(2, 3))
    assert picture.get_extent() == overlay.get_extent()
    alpha = overlay.get_alpha()
    assert alpha.max() < 1 and np.argmax(alpha) == np.argmax(weights)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8])
def test_grey_image_and_square_of_patches(dtype, tmp_path):
    figure = visualize.attention_on_image(
        softmax(49), np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8).astype(dtype)
    )
    visualize.save(figure, tmp_path / "a.png")
    axes = figure.axes[0]
    assert axes.images[1].get_array().shape == (7, 7)


def test_image_that_nobody_attends():
    visualize.attention_on_image(np.zeros(4), np.zeros((8, 8)))


# masks ---------------------------------------------------------------------------------------------------------------


def test_picture_of_a_mask_is_the_mask():
    mask = masks.window(3, 1) | masks.global_tokens([0, 9])
    axes = visualize.mask(mask, 20, 30).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), mask.dense(20, 30)[0, 0])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key", "query")
    share = f"{100 * mask.dense(20, 30).mean():.1f} % visible"
    assert axes.get_title() == f"{mask!r}\n{share}"
    assert visualize.mask(mask, 5, title="costs $5_000").axes[0].get_title() == "costs $5_000"
    assert visualize.mask(masks.documents(np.arange(500) // 3), 500).axes[0].get_title().startswith("Documents\n")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 64), (7, 5), (40, 40), (13, 33), (100, 100)])
def test_text_of_a_mask_tells_cells_that_are_seen_in_part(height, width):
    mask = masks.causal() & masks.documents(np.arange(40) // 9) | masks.strided(13) | masks.prefix(3)
    dense = mask.dense(33, 40, offset=7)[0, 0]
    rows, columns = -(-33 // height), -(-40 // width)
    lines = visualize.mask_text(mask, 33, 40, offset=7, height=height, width=width).split("\n")
    assert (len(lines), len(lines[0])) == (-(-33 // rows), -(-40 // columns))
    for (i, j), expected in np.ndenumerate(np.array([list(line) for line in lines])):
        block = dense[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        assert expected == ("#" if block.all() else "+" if block.any() else "·")


def test_large_mask_is_drawn_by_its_shares():
    axes = visualize.mask(masks.window(1000, 0), 100_000, 100_000).axes[0]
    cells = axes.images[0].get_array()
    assert cells.shape == (1021, 1021)
    size = np.full(1021, 98)
    size[-1] = 100_000 - 1020 * 98
    assert size @ cells @ size == pytest.approx(masks.window(1000, 0).ranges(100_000, 100_000).visible)
    assert cells.max() == pytest.approx(1) and cells.min() == 0


def test_picture_of_a_batch_entry_and_a_head():
    mask = masks.prefix([[1, 2], [3, 4]])
    found = [visualize.mask_text(mask, 1, 5, batch=b, head=h) for b in range(2) for h in range(2)]
    assert found == ["#····", "##···", "###··", "####·"]
    assert visualize.mask_text(masks.causal(), 1, 2, batch=3, head=7) == "#·", "shared by all"


# errors --------------------------------------------------------------------------------------------------------------

GREY = np.zeros((4, 4))


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: visualize.attention_heatmap(softmax(2, 3, 3)), ["weights", "(2, 3, 3)", "(Lq, Lk)"]),
        (lambda: visualize.attention_heatmap(np.zeros((0, 3))), ["weights", "(0, 3)"]),
        (lambda: visualize.attention_heatmap([[np.nan]]), ["weights", "NaN"]),
        (lambda: visualize.attention_heatmap([["a"]]), ["weights", "numbers"]),
        (lambda: visualize.attention_heatmap(softmax(3, 3), ["a"]), ["tokens has 1", "3"]),
        (lambda: visualize.attention_heatmap(softmax(1, 3), ["a"], ["b"]), ["key_tokens has 1", "3"]),
        (lambda: visualize.attention_heatmap(softmax(3, 3), "abc"), ["tokens", "string"]),
        (lambda: visualize.attention_grid([]), ["attentions is empty"]),
        (lambda: visualize.attention_grid([softmax(1, 2, 3, 3)]), ["attentions[0]", "(1, 2, 3, 3)", "batch"]),
        (lambda: visualize.attention_grid([softmax(2, 3, 3), softmax(2, 3, 4)]), ["attentions[1]", "(2, 3, 4)"]),
        (lambda: visualize.attention_grid([softmax(2, 3, 3)], layers=[1, 2]), ["layers has 2", "1"]),
        (lambda: visualize.attention_lines(softmax(3, 3), ["a", "b"]), ["tokens has 2", "3"]),
        (lambda: visualize.attention_lines(softmax(2, 3), ["a", "b"]), ["key_tokens has 2", "3"]),
        (lambda: visualize.attention_lines([[-1.0]], ["a"]), ["-1.0", "negative"]),
        (lambda: visualize.attention_lines([[1.0]], ["a"], heads=[1, 2]), ["heads has 2", "H=1"]),
        (lambda: visualize.attention_lines([[1.0]], ["a"], most=0), ["most is 0"]),
        (lambda: visualize.attention_on_image(softmax(5), GREY), ["5 entries", "grid=", "weights[1:]"]),
        (lambda: visualize.attention_on_image(softmax(6), GREY, grid=(2, 2)), ["grid is (2, 2)", "6"]),
        (lambda: visualize.attention_on_image(softmax(2, 3), GREY, grid=(3, 2)), ["grid is (3, 2)", "(2, 3)"]),
        (lambda: visualize.attention_on_image(softmax(4), np.zeros((3, 8, 8))), ["image", "(3, 8, 8)"]),
        (lambda: visualize.attention_on_image(softmax(4), np.zeros((8, 8), np.int64)), ["image", "int64", "uint8"]),
        (lambda: visualize.attention_on_image(softmax(4), np.full((8, 8), 255.0)), ["image", "255.0"]),
        (lambda: visualize.attention_on_image(-softmax(4), GREY), ["negative"]),
        (lambda: visualize.mask(np.eye(3), 3), ["mask is a ndarray"]),
        (lambda: visualize.mask_text(masks.causal(), 0), ["Lq is 0"]),
        (lambda: visualize.mask_text(masks.causal(), 4, height=0), ["height is 0"]),
        (lambda: visualize.mask_text(masks.prefix([1, 2]), 3, batch=2), ["batch is 2", "0 to 1"]),
        (lambda: visualize.mask_text(masks.prefix([1, 2]), 3, head=-1), ["head is -1"]),
        (lambda: visualize.save(visualize.attention_heatmap([[1.0]]), "a.jpg"), ["a.jpg", ".png or .svg"]),
        (lambda: visualize.save(visualize.attention_heatmap([[1.0]]), io.BytesIO()), ["format is None", "BytesIO"]),
        (lambda: visualize.save(visualize.attention_heatmap([[1.0]]), "a.png", format="pdf"), ["'pdf'", ".svg"]),
    ],
)
def test_bad_input(call, parts):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    for part in parts:
        assert part in str(error.value)


# save ----------------------------------------------------------------------------------------------------------------


def test_save_into_an_open_file():
    file = io.BytesIO()
    visualize.save(visualize.attention_heatmap([[1.0]]), file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("B.PNG", b"\x89PNG")])
def test_saved_file_is_what_its_suffix_says_every_time(name, magic, tmp_path):
    written = []
    for _ in range(2):
        visualize.save(visualize.attention_lines(softmax(6, 6), [*TOKENS[:5], "\u0378\ud800"]), tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0].startswith(magic)
    assert written[0] == written[1]
    if name.endswith("svg"):
        assert "$robot$" in written[0].decode("utf-8")


def test_latex_setting_of_the_user_does_not_reach_tokens(tmp_path):
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True}):
        axes = visualize.attention_heatmap(softmax(6, 6), TOKENS).axes[0]
        assert not any(label.get_usetex() for label in axes.get_xticklabels())


def test_neither_pyplot_nor_a_display_is_touched():
    code = """
        import sys
        import transformer_fast
        before = "matplotlib" in sys.modules
        transformer_fast.visualize
        loaded = "matplotlib" in sys.modules
        transformer_fast.visualize.attention_heatmap([[1.0]])
        print(before, loaded, "matplotlib.figure" in sys.modules, "matplotlib.pyplot" in sys.modules)
    """
    assert printed(code, DISPLAY="") == "False False True False"
