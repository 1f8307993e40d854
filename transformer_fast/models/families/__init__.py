"""Model families, one file each: a config, the names of a checkpoint's tensors, a model and its heads.

`transformer_fast.models` imports a file when `load_model` meets its model_type, or a user asks for one of its classes.
docs/adding_a_model.md says how to write one.
"""
