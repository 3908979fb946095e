"""Which arithmetic the hardware is good at."""

import torch


def bf16_autocast(device: torch.device) -> torch.autocast:
    """Autocast matrix work to bfloat16 where the hardware has it (GPUs; CPUs with AVX512-BF16 or AMX), else do nothing."""
    supported = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16, enabled=supported)
