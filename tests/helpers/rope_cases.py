"""Rotary scalings as checkpoints write them, one or more of every kind: for the golden file, and live comparisons."""

from __future__ import annotations

import numpy as np

ORIGINAL = 64
MAX_POSITION = 4 * ORIGINAL
POSITIONS = np.array([0, 1, 2, 7, 40, 63, 64, 100, 255, 300, 699])

_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL, "rope_theta": 10000.0}
SCALINGS = {
    "default": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
        "rope_theta": 500000.0,
    },
    "yarn": _YARN,
    "yarn with every field": {
        **_YARN,
        "factor": 3.0,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 0.7,
        "mscale_all_dim": 0.4,
        "truncate": False,
    },
    "yarn with attention_factor": {**_YARN, "attention_factor": 1.3},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.05 * i for i in range(16)],
        "long_factor": [1.5 + 0.5 * i for i in range(16)],
        "original_max_position_embeddings": ORIGINAL,
        "factor": 4.0,
        "rope_theta": 10000.0,
    },
}
