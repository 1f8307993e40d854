"""Where models and their inputs come from: files of any kind, read strictly, without knowing a model.

`checkpoint` reads a folder's config.json and tensors, `tokenizer` its vocabulary, `pictures` its image preprocessing,
`sound` WAV files and Whisper's features; `weights` finds an installed model for demos. Models, pipelines, generation
and commands call these. Another kind of file is a new module here.
"""
