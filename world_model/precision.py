"""Which arithmetic the hardware is good at."""

from functools import cache
from pathlib import Path

import torch


def bf16_autocast(device: torch.device) -> torch.autocast:
    """Autocast matrix work to bfloat16 where the hardware is faster at it, else do nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or (device.type == "cpu" and _cpu_is_fast()))


@cache
def _cpu_is_fast() -> bool:
    """CPUs with AMX tiles, and AMD's with AVX512-BF16: 370 against 140 GFLOP/s on an EPYC.

    A Xeon without AMX has AVX512-BF16 too, and multiplies matrices half as fast with it as in float32 (164 against 310 GFLOP/s).
    """
    if torch.cpu._is_amx_tile_supported():
        return True
    processor = Path("/proc/cpuinfo")
    is_amd = processor.is_file() and "AuthenticAMD" in processor.read_text()
    return is_amd and torch.cpu._is_avx512_bf16_supported()
