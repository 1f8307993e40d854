"""Shared by model families: reading and writing checkpoints, configs, stacks of layers, heads, caches and outputs.

`base` and `config` are for every family; `encoder` and `heads` for encoders of text; `decoder`, `decoding` and
`decoder_blocks` for language models; `seq2seq` and `seq2seq_blocks` for encoder-decoders; `image_embedding` and
`vision_output` for pictures. `inputs` checks what a user gives, `output` names what a call returns.
docs/adding_a_model.md says what a family takes from each.
"""
