"""Pictures of attention: who attends whom, as heat-map, as lines between tokens, over an image, for all heads at once;
as a page to look around in (`explore`); and of masks (`mask`; `mask_text` as characters): who may attend whom.

Users and `transformer-fast attend` come here with the weights that `scaled_dot_product_attention(...,
return_weights="heads")` or a model's `output_attentions=True` gave. Every function but `explore` and `mask_text`
returns a matplotlib Figure and touches no state of pyplot, so that it needs no display and leaves other figures alone;
`save` writes it. matplotlib (extra `plot`) is imported when the first figure is made. A new kind of picture is a file
here and a line below.
"""

from transformer_fast.visualize.explorer import Explorer, explore
from transformer_fast.visualize.heatmap import attention_grid, attention_heatmap
from transformer_fast.visualize.image import attention_on_image
from transformer_fast.visualize.lines import attention_lines
from transformer_fast.visualize.output import save
from transformer_fast.visualize.structure import mask, mask_text

__all__ = [
    "Explorer",
    "attention_grid",
    "attention_heatmap",
    "attention_lines",
    "attention_on_image",
    "explore",
    "mask",
    "mask_text",
    "save",
]
