"""The commands of `transformer-fast`, one file each.

A file holds `add(commands)`, which describes the command to argparse and names `run` as what it does, and
`run(options)`. cli.py lists the files. What reads models is imported inside `run`: `transformer-fast --help` answers at
once.
"""
