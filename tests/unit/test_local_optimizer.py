"""The optimizers of local training: torch's own, bit for bit, without its compiler."""

import subprocess
import sys

import pytest
import torch

from client.local_optimizer import LocalOptimizer
from common.plan import Training


@pytest.mark.parametrize(
    ("name", "momentum", "reference"),
    [
        ("sgd", 0.0, lambda ps: torch.optim.SGD(ps, lr=0.05, weight_decay=0.1, foreach=True)),
        (
            "sgd",
            0.9,
            lambda ps: torch.optim.SGD(ps, lr=0.05, weight_decay=0.1, momentum=0.9, foreach=True),
        ),
        ("adam", 0.0, lambda ps: torch.optim.Adam(ps, lr=0.05, weight_decay=0.1, foreach=True)),
        ("adamw", 0.0, lambda ps: torch.optim.AdamW(ps, lr=0.05, weight_decay=0.1, foreach=True)),
    ],
    ids=["sgd", "sgd with momentum", "adam", "adamw"],
)
@pytest.mark.parametrize("is_decayed", [(True, True), (True, False)], ids=["all", "not the bias"])
def test_steps_are_those_of_torchs_optimizers_bit_for_bit(
    name, momentum, reference, is_decayed: tuple[bool, bool]
) -> None:
    plan = Training(
        rounds=1,
        local_steps=1,
        optimizer=name,
        learning_rate=0.05,
        weight_decay=0.1,
        momentum=momentum,
    )
    generator = torch.Generator().manual_seed(4)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (3,))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    groups = [
        {"params": [one]} | ({} if is_it else {"weight_decay": 0.0})
        for one, is_it in zip(theirs, is_decayed, strict=True)
    ]
    ours_optimizer, theirs_optimizer = LocalOptimizer(ours, plan, is_decayed), reference(groups)
    for step in range(5):
        ours_optimizer.zero_grad()
        theirs_optimizer.zero_grad()
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            if place == 1 and step in (0, 2):  # a parameter that the loss does not use
                continue
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        ours_optimizer.step()
        theirs_optimizer.step()
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)


def test_training_does_not_load_torchs_compiler(tmp_path) -> None:
    # Over a second of every process that trains, for nothing.
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from common.study_file import load_study, override\n"
        "from simulations.cohort import varied_sites, write_cohort\n"
        "from simulations.simulate import Simulation, simulate\n"
        "folder = Path(sys.argv[1])\n"
        "study = override(load_study('demo'), training__rounds=1)\n"
        "effects = varied_sites(study, num_sites=2, seed=0)\n"
        "write_cohort(study, effects, folder / 'sites', seed=0)\n"
        "simulate(Simulation(study=study, sites=folder / 'sites', out=folder / 'run'))\n"
        "assert 'torch' in sys.modules\n"
        "print(sorted({'torch._dynamo', 'sklearn', 'ray'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
