"""Airflow on this machine: scheduler, dag-processor, triggerer and api-server on the loopback.

Used by the demo and by the scheduler tests, and by hand::

    python examples/airflow_local.py up --home .airflow --dags dags --database-url postgresql+...
    python examples/airflow_local.py status --home .airflow
    python examples/airflow_local.py down --home .airflow

Everything it makes lies in its home: ``airflow.env`` (mode 0600, with the secrets), the password
file (0600), logs and ``running.json``. It listens on 127.0.0.1 only: the two log servers, which
would listen everywhere, are not started; with tasks on this machine nobody needs them.
"""

# ruff: noqa: S310  (every URL here is http://127.0.0.1)
from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from sscd_ops.machine import cores

COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
DONE = ("success", "failed")


class AirflowError(RuntimeError):
    """Airflow did not do what it was asked."""


class LocalAirflow:
    """An Airflow of its own below ``home``.

    Args:
        home: AIRFLOW_HOME; made where it lacks.
        dags_folder: where the DAG files are.
        database_url: Airflow's own database, ``postgresql+psycopg2://...``.
        port: of the API and UI; None: a free one, or the one it had before.
        plugins_folder: None: none.
        parallelism: tasks at once.
        variables: further environment of all components, e.g. SSCD_OPS_CONFIG.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        database_url: str,
        *,
        port: int | None = None,
        plugins_folder: Path | None = None,
        parallelism: int = 4,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home.absolute()
        self.home.mkdir(parents=True, exist_ok=True)
        before = _read_env(self.home / "airflow.env")
        self.port = port or self._same_port(before) or free_port()
        self.user = "admin"
        self.password = self._password()
        self.env = {
            **self._settings(dags_folder, plugins_folder, database_url, parallelism),
            **self._secrets(before),
            **(variables or {}),
        }
        _write_private(
            self.home / "airflow.env", "".join(f"{k}={v}\n" for k, v in sorted(self.env.items()))
        )
        self._token = ""

    # ------------------------------------------------------------ what it is started with

    @property
    def url(self) -> str:
        """Of API and UI."""
        return f"http://127.0.0.1:{self.port}"

    def _same_port(self, before: Mapping[str, str]) -> int | None:
        """The port it had before, unless somebody else has it now."""
        port = int(before.get("AIRFLOW__API__PORT", 0))
        if not port or any(self._processes().values()):
            return port or None
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return None
        return port

    def _settings(
        self, dags: Path, plugins: Path | None, database_url: str, parallelism: int
    ) -> dict[str, str]:
        return {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": str(parallelism),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags.absolute()),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(
                plugins.absolute() if plugins else self.home / "plugins"
            ),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{self.user}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._password_file),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW__OPENLINEAGE__DISABLED": "True",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores().number)),
        }

    def _secrets(self, before: Mapping[str, str]) -> dict[str, str]:
        made = {
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }
        return {name: before.get(name) or value for name, value in made.items()}

    @property
    def _password_file(self) -> Path:
        return self.home / "passwords.json"

    def _password(self) -> str:
        """Airflow would make one, print it in a log and leave the file readable to all."""
        if not self._password_file.exists():
            _write_private(self._password_file, json.dumps({self.user: secrets.token_urlsafe(12)}))
        return str(json.loads(self._password_file.read_text())[self.user])

    @property
    def environment(self) -> dict[str, str]:
        """Of every component: this process's without other Airflow settings, plus its own."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
        return {**inherited, **self.env}

    # ------------------------------------------------------------ up and down

    def start(self, timeout: float = 180.0) -> None:
        """Migrate the database, start the four components and wait until they are healthy.

        Raises:
            AirflowError: a component ended, or they were not healthy in time.
        """
        if self.is_running():
            return
        self.cli("db", "migrate")
        logs = self.home / "components"
        logs.mkdir(exist_ok=True)
        running = {}
        for name, arguments in COMPONENTS.items():
            with (logs / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "airflow", *arguments],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.home,
                    start_new_session=True,
                )
            running[name] = [process.pid, psutil.Process(process.pid).create_time()]
            _write_private(self._running_file, json.dumps(running))
        try:
            self._wait_until_healthy(time.monotonic() + timeout)
        except BaseException:
            self.stop()
            raise

    def _wait_until_healthy(self, deadline: float) -> None:
        health: Any = None
        while time.monotonic() < deadline:
            for name, process in self._processes().items():
                if process is None:
                    raise AirflowError(f"{name} ended:\n{self.log_end(name)}")
            with contextlib.suppress(OSError, ValueError):
                health = _json(urllib.request.Request(f"{self.url}/api/v2/monitor/health"), 5)
                if all(_is_healthy(health, name) for name in _HEALTH):
                    return
            time.sleep(0.5)
        raise AirflowError(f"not healthy in time: {health}; logs are in {self.home / 'components'}")

    def stop(self, patience: float = 20.0) -> None:
        """End the components and all their children; nothing happens where none runs."""
        leaders = {name: p for name, p in self._processes().items() if p is not None}
        family = [p for leader in leaders.values() for p in _family(leader)]
        for leader in leaders.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                leader.terminate()
        _, alive = psutil.wait_procs(family, timeout=patience)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    process.kill()
        for leader in leaders.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(leader.pid, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=5)
        self._running_file.unlink(missing_ok=True)

    def is_running(self) -> bool:
        """Whether all four components run."""
        processes = self._processes()
        return len(processes) == len(COMPONENTS) and None not in processes.values()

    @property
    def _running_file(self) -> Path:
        return self.home / "running.json"

    def _processes(self) -> dict[str, psutil.Process | None]:
        """Component -> its process, None where it ended; empty where none was started."""
        if not self._running_file.exists():
            return {}
        noted = json.loads(self._running_file.read_text())
        return {name: _process(pid, created) for name, (pid, created) in noted.items()}

    def pids(self) -> dict[str, int]:
        """Component -> process number of those that run."""
        return {name: p.pid for name, p in self._processes().items() if p is not None}

    def log_end(self, name: str, lines: int = 30) -> str:
        """The last lines of a component's log."""
        path = self.home / "components" / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])

    def cli(self, *arguments: str, timeout: float = 180.0) -> str:
        """Run an ``airflow`` command (seconds of CPU each: the REST calls below are cheaper).

        Raises:
            AirflowError: it failed; the message has the end of what it printed.
        """
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise AirflowError(
                f"airflow {' '.join(arguments)} ended with {done.returncode}:\n"
                + (done.stdout + done.stderr)[-3000:]
            )
        return done.stdout

    # ------------------------------------------------------------ the REST API

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call of ``/api/v2``; answers the decoded JSON, None for an empty answer.

        Raises:
            AirflowError: the API refused; the message has its reason.
        """
        if not self._token:
            self._token = self._log_in()
        request = urllib.request.Request(
            f"{self.url}/api/v2{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            return _json(request, 60)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:2000]
            raise AirflowError(f"{method} {path}: {error.code} {said}") from error

    def _log_in(self) -> str:
        request = urllib.request.Request(
            f"{self.url}/auth/token",
            data=json.dumps({"username": self.user, "password": self.password}).encode(),
            headers={"Content-Type": "application/json"},
        )
        return str(_json(request, 30)["access_token"])

    def set_pool(self, name: str, slots: int, description: str = "") -> None:
        """Make a pool, or change it."""
        body = {"name": name, "slots": slots, "description": description}
        try:
            self.call("POST", "/pools", {**body, "include_deferred": False})
        except AirflowError as error:
            if "409" not in str(error):
                raise
            self.call("PATCH", f"/pools/{quote(name)}?update_mask=slots", body)

    def wait_for_dags(self, dag_ids: Iterable[str], timeout: float = 120.0) -> None:
        """Wait until these DAGs were parsed.

        Raises:
            AirflowError: they were not in time, or a DAG file has an import error.
        """
        wanted = set(dag_ids)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = {dag["dag_id"] for dag in self.call("GET", "/dags?limit=100")["dags"]}
            if wanted <= found:
                return
            errors = self.call("GET", "/importErrors")["import_errors"]
            if errors:
                raise AirflowError("\n".join(error["stack_trace"] for error in errors))
            time.sleep(1)
        raise AirflowError(f"DAGs {sorted(wanted - found)} did not appear within {timeout:.0f} s")

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run a DAG."""
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def trigger(
        self,
        dag_id: str,
        run_id: str,
        conf: Mapping[str, Any] | None = None,
        logical_date: str | None = None,
    ) -> str:
        """Start a run; answers its run id."""
        body = {"dag_run_id": run_id, "logical_date": logical_date, "conf": dict(conf or {})}
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def backfill(
        self,
        dag_id: str,
        first: str,
        last: str,
        *,
        max_active_runs: int = 2,
        run_backwards: bool = False,
    ) -> int:
        """Start a backfill over the nights from ``first`` to ``last`` (instants); its number."""
        body = {
            "dag_id": dag_id,
            "from_date": first,
            "to_date": last,
            "max_active_runs": max_active_runs,
            "run_backwards": run_backwards,
            "reprocess_behavior": "none",
        }
        return int(self.call("POST", "/backfills", body)["id"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """A DAG's runs, by logical date."""
        found = self.call("GET", f"/dags/{dag_id}/dagRuns?limit=100&order_by=logical_date")
        return list(found["dag_runs"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """One run."""
        return dict(self.call("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"))

    def wait_for_runs(
        self, dag_id: str, run_ids: Sequence[str] | int, timeout: float = 300.0
    ) -> dict[str, str]:
        """Wait until runs have ended; run id -> ``success`` or ``failed``.

        Args:
            dag_id: whose runs.
            run_ids: which, or how many must have ended.
            timeout: seconds.

        Raises:
            AirflowError: they did not end in time; says how they stand.
        """
        deadline = time.monotonic() + timeout
        while True:
            states = {run["dag_run_id"]: run["state"] for run in self.runs(dag_id)}
            if isinstance(run_ids, int):
                ended = {run: state for run, state in states.items() if state in DONE}
                if len(ended) >= run_ids:
                    return ended
            elif all(states.get(run) in DONE for run in run_ids):
                return {run: states[run] for run in run_ids}
            if time.monotonic() > deadline:
                raise AirflowError(f"{dag_id} after {timeout:.0f} s: {states}")
            time.sleep(0.5)

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """A run's task instances."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances?limit=1000"
        return list(self.call("GET", path)["task_instances"])

    def clear(
        self,
        dag_id: str,
        run_id: str,
        tasks: Sequence[str | tuple[str, int]] | None = None,
        *,
        downstream: bool = True,
    ) -> None:
        """Clear a run's tasks: all, or some, a mapped one as (task id, index)."""
        body: dict[str, Any] = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": False,
            "include_downstream": downstream,
            "reset_dag_runs": True,
        }
        if tasks is not None:
            body["task_ids"] = [t if isinstance(t, str) else list(t) for t in tasks]
        self.call("POST", f"/dags/{dag_id}/clearTaskInstances", body)

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Delete a run, as the UI does."""
        self.call("DELETE", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")

    def task_log(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
        """All tries' logs of a task, from the files."""
        folder = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        if map_index >= 0:
            folder = folder / f"map_index={map_index}"
        return "\n".join(path.read_text() for path in sorted(folder.glob("attempt=*.log*")))


# ---------------------------------------------------------------- small things


_HEALTH = ("metadatabase", "scheduler", "triggerer", "dag_processor")


def _is_healthy(health: Mapping[str, Any], name: str) -> bool:
    return bool((health.get(name) or {}).get("status") == "healthy")


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _json(request: urllib.request.Request, timeout: float) -> Any:
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def _read_env(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    lines = (line.partition("=") for line in path.read_text().splitlines())
    return {name: value for name, _, value in lines}


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)


def _process(pid: int, created: float) -> psutil.Process | None:
    """The process of this number if it is still the one that was started."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) > 1 or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.NoSuchProcess:
        return None
    return process


def _family(leader: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [leader, *leader.children(recursive=True)]
    return [leader]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("up", "down", "status"))
    parser.add_argument("--home", type=Path, default=Path(".airflow"))
    parser.add_argument("--dags", type=Path, default=Path("dags"))
    parser.add_argument("--plugins", type=Path, default=None)
    parser.add_argument("--database-url", default=os.environ.get("AIRFLOW_DATABASE_URL", ""))
    parser.add_argument("--port", type=int, default=None)
    given = parser.parse_args()
    before = _read_env(given.home / "airflow.env")
    url = given.database_url or before.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "")
    if not url:
        parser.error("--database-url is needed the first time")
    airflow = LocalAirflow(
        given.home, given.dags, url, port=given.port, plugins_folder=given.plugins
    )
    if given.what == "up":
        airflow.start()
    elif given.what == "down":
        airflow.stop()
    running = airflow.is_running()
    print(f"Airflow {'runs' if running else 'does not run'} at {airflow.url}")
    if running:
        print(f"login: {airflow.user} / {airflow.password}")


if __name__ == "__main__":
    main()
