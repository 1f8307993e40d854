"""No code but that of a level asks for more than the processor that every wheel is for: SSE2 on x86-64.

The classic fault: a function that is not static is compiled with AVX-512's flags in one file and with none in another,
and the linker takes the former for both. The module under test is disassembled; the symbol table says which file a
function comes from, since local symbols follow the name of theirs. A new level is known from setup.py's table.
"""

from __future__ import annotations

import bisect
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from setup_tables import isa_sources
from subprocesses import SANITIZED

from transformer_fast import _core, show_config

pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the instructions are x86-64's"),
    pytest.mark.skipif(not shutil.which("objdump") or not shutil.which("readelf"), reason="binutils are missing"),
    pytest.mark.skipif(SANITIZED or bool(show_config()["emulated_isas"]), reason="a test build is no wheel"),
]

# VEX and EVEX, whose names begin with v; what of BMI, masks and tiles has such an encoding; SSE3 to SSE4.2 and POPCNT.
# tzcnt is not here: compilers write it where bsf does the same, which older processors take it for.
BEYOND = re.compile(
    r"v(?!err|erw)[a-z0-9]+|k(mov|or|and|xor|xnor|not|test|shift|unpck|add)[a-z]*|tile[a-z0-9]+|tdp[a-z0-9]+|[ls]ttilecfg"
    r"|andn|bzhi|pdep|pext|rorx|sarx|shlx|shrx|mulx|bextr|bls(r|i|msk)|lzcnt|popcnt|movbe|crc32[a-z]*"
    r"|addsubp[sd]|fisttp[a-z]*|h(add|sub)p[sd]|mov(s[hl]|d)dup|lddqu|pshufb|palignr|pabs[bwd]|ph(add|sub)[a-z]+|pmaddubsw"
    r"|pmulhrsw|psign[bwd]|dpp[sd]|blendv?p[sd]|pblend[a-z]+|round[sp][sd]|p(max|min)(sb|sd|uw|ud)|pmulld|pmuldq|insertps"
    r"|extractps|pinsr[bdq]|pextr[bdq]|pmov[sz]x[a-z]+|ptest|pcmp(eqq|gtq|[ei]str[im])|packusdw|movntdqa|phminposuw"
)


def functions(module: Path) -> tuple[list[int], list[str]]:
    """Addresses of the functions, in order, and of each the file that it comes from, "" where the linker says none."""
    table = subprocess.run(["readelf", "-sW", module], check=True, capture_output=True, text=True).stdout
    file, found = "", {}
    for line in table.partition("'.symtab'")[2].splitlines():
        fields = line.split()
        if len(fields) < 7 or not fields[0].rstrip(":").isdigit():
            continue
        if fields[3] == "FILE":
            file = fields[7] if len(fields) > 7 else ""
        elif fields[3] == "FUNC" and fields[6] != "UND":
            found[int(fields[1], 16)] = file if fields[4] == "LOCAL" else ""
    addresses = sorted(found)
    return addresses, [found[address] for address in addresses]


def instructions(module: Path):
    """(address, mnemonic) of all code."""
    command = ["objdump", "-d", "--no-show-raw-insn", module]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            place, colon, text = line.partition(":\t")
            if colon and text.strip():
                yield int(place, 16), text.split()[0]


def test_only_levels_have_instructions_beyond_the_baseline():
    module = Path(_core.__file__)
    addresses, files = functions(module)
    if not addresses:
        pytest.skip("the module's symbols are stripped")
    levels = {path.name for path in isa_sources()} - {"portable.c"}
    assert "dispatch.c" in files, "files of the symbol table are read"
    outside, inside = {}, set()
    for address, mnemonic in instructions(module):
        if BEYOND.fullmatch(mnemonic):
            file = files[max(0, bisect.bisect_right(addresses, address) - 1)]
            if file in levels:
                inside.add(file)
            else:
                outside.setdefault(file, set()).add(mnemonic)
    assert inside, "levels do have such instructions: the disassembly is read"
    assert outside == {}


def test_module_is_not_marked_for_newer_processors():
    """A linker refuses to load what has this mark on an older machine, all of it."""
    notes = subprocess.run(["readelf", "-nW", _core.__file__], check=True, capture_output=True, text=True).stdout
    assert not re.search(r"x86-64-v[234]", notes)
