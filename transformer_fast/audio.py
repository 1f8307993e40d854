"""The public names for sound, which users import; the code is in `files.sound`."""

from transformer_fast.files.sound import WhisperFeatureExtractor, read_audio, read_wav, resample

__all__ = ["WhisperFeatureExtractor", "read_audio", "read_wav", "resample"]
