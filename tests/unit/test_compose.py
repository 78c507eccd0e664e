"""The compose file and the Dockerfile, as far as they can be looked at without an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
AIRFLOW = ["init", "api-server", "scheduler", "dag-processor", "triggerer", "worker", "worker-gpu"]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_every_part_of_a_distributed_airflow_is_there(compose):
    assert set(compose["services"]) == {"postgres", "redis", *AIRFLOW}


def test_all_airflow_parts_share_settings_storage_and_pictures(compose):
    services = compose["services"]
    shared = services["scheduler"]["environment"].items()

    for name in AIRFLOW:
        assert shared <= services[name]["environment"].items(), name
        mounted = {volume.split(":")[1] for volume in services[name]["volumes"]}
        assert {"/data", "/incoming", "/config", "/opt/airflow/logs"} <= mounted, name


def test_every_named_volume_is_declared(compose):
    used = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if not volume.startswith((".", "/"))
    }

    assert used == set(compose["volumes"])


def test_the_queue_gpu_is_served_by_the_one_worker_with_a_gpu(compose):
    services = compose["services"]

    devices = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]

    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert services["worker-gpu"]["command"][4] == "gpu"
    assert services["worker"]["command"][4] == "default"
    assert services["worker-gpu"]["build"]["args"]["VARIANT"] == "gpu"
    assert services["worker-gpu"]["image"] != services["worker"]["image"]


def test_what_a_part_waits_for_exists_and_can_become_so(compose):
    services = compose["services"]

    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            assert other in services, name
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in services[other], other


def test_nothing_secret_stands_in_the_file_and_every_variable_is_in_the_example(compose):
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / "docker.env.example").read_text()

    variables = set(re.findall(r"(?<!\$)\$\{(\w+)", text))

    assert variables == {line[:-1] for line in example.splitlines() if line.endswith("=")}
    assert all(f"${{{name}:?" in text for name in variables), "a default would be a known password"


def test_only_the_ui_is_published_and_only_on_the_loopback(compose):
    published = [p for service in compose["services"].values() for p in service.get("ports", [])]

    assert published == ["127.0.0.1:8080:8080"]


def test_the_init_part_makes_databases_pool_and_folders(compose):
    script = compose["services"]["init"]["command"][0]

    for needed in ("CREATE DATABASE catalog", "airflow db migrate", "sscd-ops db upgrade"):
        assert needed in script
    assert "airflow pools set embed" in script


def test_the_dockerfile_copies_only_what_exists_and_knows_both_variants():
    text = (ROOT / "Dockerfile").read_text()
    lines = re.findall(r"^COPY (.+)$", text, re.MULTILINE)
    copied = [name for line in lines for name in line.split()[:-1]]

    assert copied
    assert [name for name in copied if name != "README.md" and not (ROOT / name).exists()] == []
    assert "cpu)" in text
    assert "gpu)" in text
    assert "faiss-cpu==" in (ROOT / "requirements.lock").read_text(), "what the image replaces"


def test_the_image_runs_as_a_user_without_rights():
    lines = (ROOT / "Dockerfile").read_text().splitlines()

    assert [line for line in lines if line.startswith("USER")] == ["USER airflow"]
