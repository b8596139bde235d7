"""timm's Muon in fp32: it multiplies in bf16, whatever the network is trained in."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from timm.optim import muon


@contextmanager
def muon_in_fp32() -> Iterator[None]:
    """Optimizer steps within multiply in fp32 where timm's Muon multiplies in bf16.

    A CPU without bf16 emulates it, which took most of a step of ResNet-18. Muon has no option for
    it; the function that multiplies has.
    """
    in_bf16 = muon.zeropower_via_newtonschulz
    muon.zeropower_via_newtonschulz = partial(in_bf16, dtype=torch.float32)
    try:
        yield
    finally:
        muon.zeropower_via_newtonschulz = in_bf16
