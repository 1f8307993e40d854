"""Encoder-decoders that write: what `generation.generate` needs, around the blocks of `nn`.

`TransformerGenerator` puts embeddings and an output projection around `nn.Transformer` and keeps keys and values;
`RecurrentSeq2Seq` is the older design, two recurrent networks with additive attention between them. Both take and
give the same things, so that one can be measured against the other. `source.py` is what they share: the source's rows
without padding, and beams that look at one source. Another encoder-decoder is one more file here.
"""

from transformer_fast.nn.seq2seq.recurrent import RecurrentSeq2Seq
from transformer_fast.nn.seq2seq.transformer import TransformerGenerator

__all__ = ["RecurrentSeq2Seq", "TransformerGenerator"]
