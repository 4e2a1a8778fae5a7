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
    num_found = torch.cuda.device_count()
    if name.startswith("cuda:") and int(name[5:]) >= num_found:
        usable = "0" if num_found == 1 else f"0 to {num_found - 1}"
        there = f"found {num_found} here, numbered {usable}. Name one of them"
        none = "found none that torch can use. Look at its driver (nvidia-smi)"
        raise SiteConfigError(
            f"Expected the GPU {name} (site.device), {there if num_found else none}, or write "
            '"auto" or "cpu".'
        )
    return torch.device(name)
