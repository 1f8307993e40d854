"""`python -m transformer_fast`: the same as the command `transformer-fast`, which stands in cli.py."""

from __future__ import annotations

from transformer_fast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
