"""`site.toml`: a site with a missing, malformed or careless one does not start."""

from pathlib import Path

import pytest

from client.config import load_site_config
from client.policy import Policy
from client.template import init_site
from common.errors import SiteConfigError


def test_paths_start_at_the_folder_of_site_toml(new_site) -> None:
    folder = new_site(site={"state_dir": "../elsewhere/alpha"})
    config = load_site_config(folder)
    assert config.patients == folder.resolve() / "patients.csv"
    assert config.state_dir == folder.resolve().parent / "elsewhere" / "alpha"


def test_a_folder_without_site_toml_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(SiteConfigError, match="found none"):
        load_site_config(tmp_path)


def test_a_site_without_a_policy_does_not_start(new_site) -> None:
    folder = new_site()
    text = (folder / "site.toml").read_text(encoding="utf-8")
    (folder / "site.toml").write_text(text[: text.index("[policy]")], encoding="utf-8")
    with pytest.raises(SiteConfigError, match="policy: required and missing"):
        load_site_config(folder)


@pytest.mark.parametrize("section", ["site", "policy"])
def test_an_unknown_key_is_an_error_that_names_it(new_site, section: str) -> None:
    folder = new_site(**{section: {"max_epsilon": 1}})
    with pytest.raises(SiteConfigError, match=rf"{section}\.max_epsilon: unknown key"):
        load_site_config(folder)


def test_an_unknown_section_is_an_error_that_names_it(new_site) -> None:
    folder = new_site()
    with (folder / "site.toml").open("a", encoding="utf-8") as file:
        file.write("[polcy]\nmax_rounds = 1\n")
    with pytest.raises(SiteConfigError, match="polcy: unknown key"):
        load_site_config(folder)


def test_every_fault_of_the_file_is_in_one_error(new_site) -> None:
    folder = new_site(
        site={"name": "St. Mary's", "device": "gpu"},
        policy={"min_patients": 0, "allow_without_privacy": None},
    )
    with pytest.raises(SiteConfigError, match="4 faults") as caught:
        load_site_config(folder)
    keys = ["site.name", "site.device", "policy.min_patients", "policy.allow_without_privacy"]
    assert all(key in str(caught.value) for key in keys)


@pytest.mark.parametrize("text", [b"[site", b"\xff\xfe[site]", b"site = 1\n"])
def test_what_is_not_such_a_file_is_one_error(new_site, text: bytes) -> None:
    folder = new_site()
    (folder / "site.toml").write_bytes(text)
    with pytest.raises(SiteConfigError):
        load_site_config(folder)


@pytest.mark.parametrize("state_dir", [".", "", "state", "deep/state", "../alpha/state"])
def test_state_inside_the_data_is_refused(new_site, state_dir: str) -> None:
    folder = new_site(site={"state_dir": state_dir})
    with pytest.raises(SiteConfigError, match="outside of the data folder"):
        load_site_config(folder)


def test_state_inside_the_data_by_way_of_a_link_is_refused(new_site) -> None:
    folder = new_site(site={"state_dir": "../books"})
    (folder.parent / "books").symlink_to(folder / "hidden")
    with pytest.raises(SiteConfigError, match="outside of the data folder"):
        load_site_config(folder)


@pytest.mark.parametrize(
    "key", ['patients = "a\\u0000"', 'files = { labs = "a\\u0000" }'], ids=["patients", "files"]
)
def test_a_path_with_a_zero_byte_is_refused_in_a_sentence(new_site, key: str) -> None:
    folder = new_site()
    path = folder / "site.toml"
    text = path.read_text(encoding="utf-8")
    assert text.count("[data]\n") == 1
    lines = [line for line in text.splitlines() if not line.startswith("patients =")]
    path.write_text("\n".join(lines).replace("[data]", f"[data]\n{key}"), encoding="utf-8")
    with pytest.raises(SiteConfigError, match=r"data\.(patients|files)"):
        load_site_config(folder)


def test_a_state_dir_with_a_zero_byte_is_refused_in_a_sentence(new_site) -> None:
    with pytest.raises(SiteConfigError, match="state_dir"):
        load_site_config(new_site(site={"state_dir": "../a\0b"}))


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:-1", "cuda:0 ", "mps", ""])
def test_a_device_is_auto_cpu_or_a_numbered_gpu(new_site, device: str) -> None:
    with pytest.raises(SiteConfigError, match=r"site\.device"):
        load_site_config(new_site(site={"device": device}))


def test_the_template_explains_every_key_of_a_policy_and_decides_nothing_private(
    tmp_path: Path,
) -> None:
    path, *_ = init_site(tmp_path / "ward", None)
    decided = load_site_config(path.parent).policy
    assert (decided.epsilon_budget, decided.cohort_size) == (None, None)
    assert not decided.allow_without_privacy
    # What an engineer does: take the # away in front of the figures.
    text = path.read_text(encoding="utf-8")
    for key in ("epsilon_budget", "cohort_size", "epsilon_per_run"):
        text = text.replace(f"# {key} = ", f"{key} = ")
    path.write_text(text, encoding="utf-8")
    policy = load_site_config(path.parent).policy
    assert policy.model_fields_set == set(Policy.model_fields)
    assert None not in policy.model_dump().values()
