"""The device that a site trains on."""

import torch

from common.errors import SiteConfigError


def device_of(name: str) -> torch.device:
    """The device that `site.toml` names: "cpu", "cuda:N", or "auto".

    Raises:
        SiteConfigError: this machine has no such GPU.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda:") and int(name[5:]) >= torch.cuda.device_count():
        raise SiteConfigError(
            f"Expected the GPU {name} (site.device), found {torch.cuda.device_count()} GPUs. "
            'Use "auto", "cpu" or a number below that.'
        )
    return torch.device(name)
