"""``ray_cluster.yaml`` is a file that Ray's own cluster launcher takes, and keeps what docs and actors rely on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[2] / "ray_cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return loaded


def commands(cluster: dict[str, Any], kind: str) -> str:
    return "\n".join(cluster[kind])


def test_ray_accepts_the_file_and_keeps_all_workers(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    (node_type,) = prepared["available_node_types"].values()
    assert node_type["min_workers"] == node_type["max_workers"] == len(cluster["provider"]["worker_ips"])


def test_rays_schema_refuses_a_misspelt_field(cluster: dict[str, Any]) -> None:
    cluster["worker_start_ray_command"] = cluster.pop("worker_start_ray_commands")
    with pytest.raises(jsonschema.ValidationError, match="worker_start_ray_command"):
        validate_config(prepare_config(cluster))


def test_workers_offer_the_resource_that_runners_ask_for_and_the_head_does_not(cluster: dict[str, Any]) -> None:
    found = re.search(r"--resources='(\{.*?\})'", commands(cluster, "worker_start_ray_commands"))
    assert found is not None
    assert json.loads(found.group(1))["docker"] >= 1
    assert "--resources" not in commands(cluster, "head_start_ray_commands")


def test_the_heads_system_configuration_is_json(cluster: dict[str, Any]) -> None:
    found = re.search(r"--system-config='(\{.*?\})'", commands(cluster, "head_start_ray_commands"))
    assert found is not None
    assert json.loads(found.group(1))["health_check_failure_threshold"] == 3


def test_every_ray_command_reads_the_settings_that_guard_the_cluster(cluster: dict[str, Any]) -> None:
    setup = commands(cluster, "setup_commands")
    for setting in ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=", "RAY_USAGE_STATS_ENABLED=0", "refresh_ms=0"):
        assert setting in setup
    assert "chmod 600 ~/.headrace/ray_token" in setup
    for command in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]:
        assert command.startswith(". ~/.headrace/ray_env;")


def test_the_dashboard_stays_on_loopback_and_the_head_where_workers_look_for_it(cluster: dict[str, Any]) -> None:
    head = commands(cluster, "head_start_ray_commands")
    assert "--dashboard-host=127.0.0.1" in head
    assert f"--node-ip-address={cluster['provider']['head_ip']} " in head
