"""The public names for pictures, which users import; the code is in `files.pictures`."""

from transformer_fast.files.pictures import ImageProcessor, load_image

__all__ = ["ImageProcessor", "load_image"]
