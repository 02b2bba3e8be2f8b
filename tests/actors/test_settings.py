"""Settings: where they come from, which wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.driver import policy_of
from actors.settings import KNOBS, load_settings
from events.errors import InputError, SettingError


def test_environment_wins_over_the_file_and_options_win_over_both(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("[cascade]\nneighbor_cap = 1\nneighbor_window_days = 1\ntasks_per_repo = 1\n")
    environment = {"DATASMITH_NEIGHBOR_WINDOW_DAYS": "2", "HEADRACE_CASCADE_TASKS_PER_REPO": "2"}
    found = load_settings(path, environ=environment, overrides={"cascade": {"tasks_per_repo": 3}}).cascade
    assert (found.neighbor_cap, found.neighbor_window_days, found.tasks_per_repo) == (1, 2, 3)


def test_the_documented_defaults_hold_without_any_source() -> None:
    found = load_settings(environ={})
    cascade = found.cascade
    assert (cascade.neighbor_window_days, cascade.neighbor_cap, cascade.rl_max_retries) == (60, 40, 3)
    assert (cascade.rl_default_pause_s, cascade.rl_pause_jitter_s) == (3600.0, 30.0)
    assert found.build.base_image == "python:{python_version}-slim-bookworm"
    assert found.verify.rules.min_pass_ratio == 0.9


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_reaches_its_setting_and_refuses_nonsense(knob: str) -> None:
    section, name = KNOBS[knob]
    assert getattr(getattr(load_settings(environ={knob: "7"}), section), name) == 7
    with pytest.raises(SettingError, match=knob):
        load_settings(environ={knob: "seven"})


def test_lists_and_tables_are_json_in_the_environment() -> None:
    environment = {"HEADRACE_BUILD_BUILD_ARGS": '{"A": "b"}', "HEADRACE_BUILD_PYTHON_VERSIONS": '["3.12"]'}
    build = load_settings(environ=environment).build
    assert (build.build_args, build.python_versions) == ({"A": "b"}, ["3.12"])


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("[verify]\nmin_pass_ratio = 0\n", "above 0 and up to 1"),
        ('[verify]\nlevel = "all"\n', "build, f2p, smoke, tests"),
        ("[sweeps]\nworkers = 1\n", "tables sweep, build, verify, disk, cascade"),
        ('[verify]\nnetwork = "host"\n', "never `host`"),
        ("verify = 1\n", r"a table \[verify\]"),
        ("[sweep]\nworkers = true\n", "an integer from 0"),
    ],
)
def test_a_bad_value_in_the_file_names_file_and_range(tmp_path: Path, text: str, fragment: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(SettingError, match=fragment) as refused:
        load_settings(path, environ={})
    assert str(path) in str(refused.value)


def test_a_file_that_is_no_toml_or_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    with pytest.raises(InputError, match="cannot be read"):
        load_settings(path, environ={})
    path.write_text("[sweep\n")
    with pytest.raises(InputError, match="not valid TOML"):
        load_settings(path, environ={})


def test_the_policy_in_the_log_is_that_of_the_settings() -> None:
    policy = policy_of(load_settings(environ={"DATASMITH_NEIGHBOR_CAP": "9", "HEADRACE_CASCADE_TRY_DEFAULT": "false"}))
    assert (policy.neighbor_cap, policy.try_default, policy.generate) == (9, False, False)
    assert len(policy.stock_context) == 64


def test_what_agents_may_do_is_part_of_the_policy() -> None:
    environment = {"HEADRACE_AGENTS_ACCOUNT": '[{"name": "c", "agent": "codex"}]', "HEADRACE_AGENTS_RACE": "3"}
    policy = policy_of(load_settings(environ={**environment, "DATASMITH_RL_MAX_RETRIES": "1"}))
    assert (policy.generate, policy.race, policy.rl_max_retries) == (True, 3, 1)


def test_paths_are_made_absolute_for_processes_with_other_working_folders() -> None:
    found = load_settings(environ={"HEADRACE_SWEEP_CACHE_DIR": "caches", "HEADRACE_BUILD_CA_BUNDLE": "~/ca.pem"})
    assert found.cache_dir == Path.cwd() / "caches"
    assert found.build.ca_bundle == str(Path("~/ca.pem").expanduser())
