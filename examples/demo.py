"""The demo: three nights of the real DAG inside a real Airflow, on pictures of this folder.

python examples/demo.py run | clean | airflow | airflow-down
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
COMMAND = Path(sys.executable).with_name("sscd-ops")
DEMO = Path(os.environ.get("SSCD_OPS_DEMO", ROOT / ".demo"))
# where commands look for the embedded server of the demo's config file
POSTGRES = DEMO / "curation" / ".sscd-ops" / "postgres"
sys.path.insert(0, str(HERE))

from airflow_local import LocalAirflow  # noqa: E402 - the folder is no package
from demo_report import ASIDE, compare, digest, print_report, read_planted  # noqa: E402
from plant_copies import NIGHTS, plant_nights  # noqa: E402

from sscd_ops.catalog import embedded  # noqa: E402
from sscd_ops.catalog.migrate import upgrade  # noqa: E402
from sscd_ops.config import load_settings  # noqa: E402
from sscd_ops.steps.verify import verify_index, verify_snapshot  # noqa: E402
from sscd_ops.wiring import Wiring  # noqa: E402

DAG = "curate_demo"
_STARTED = time.monotonic()


MARGIN = """
[datasets.demo.duplicates]
margin = 0.25  # so that the contact sheet shows pairs well below the threshold
"""


def say(message: str) -> None:
    print(f"[{time.monotonic() - _STARTED:5.1f} s] {message}", flush=True)


def postgres() -> dict[str, str]:
    """The embedded server with one database for the catalog, one for Airflow, one to compare."""
    urls = embedded.ensure_running(POSTGRES, ("catalog", "airflow", "fresh"))
    upgrade(urls["catalog"])
    return urls


def prepare() -> Path:
    """Plant the nights and write the config file; its path."""
    config = DEMO / "curation.toml"
    if not config.exists():
        say("planting copies among the example pictures")
        DEMO.mkdir(parents=True, exist_ok=True)
        plant_nights(DEMO)
        config.write_text((HERE / "curation.toml").read_text() + MARGIN)
    return config


def local_airflow(config: Path, urls: dict[str, str]) -> LocalAirflow:
    return LocalAirflow(
        DEMO / "airflow",
        ROOT / "dags",
        urls["airflow"],
        variables={"SSCD_OPS_CONFIG": str(config), "SSCD_OPS_DATABASE_URL": urls["catalog"]},
    )


def run_id(night: str) -> str:
    return f"night__{night}"


def run_nights(airflow: LocalAirflow) -> None:
    """Run each night's DAG run, or clear and run it again where it is there."""
    there = {run["dag_run_id"] for run in airflow.runs(DAG)}
    for night in NIGHTS:
        name = run_id(night)
        if name in there:
            airflow.clear(DAG, name)
        else:
            airflow.trigger(DAG, name, {"date": night})
        state = airflow.wait_for_runs(DAG, [name])[name]
        say(f"night of {night}: {state}" + (" (cleared and run again)" if name in there else ""))
        if state != "success":
            tasks = [t for t in airflow.tasks(DAG, name) if t["state"] == "failed"]
            for task in tasks:
                print(airflow.task_log(DAG, name, task["task_id"], task["map_index"])[-3000:])
            sys.exit(f"the DAG run {name} did not succeed")


def run() -> None:
    """Three nights inside Airflow, then what became of them; a second time: what changed."""
    config = prepare()
    say("starting Postgres (embedded) and Airflow: scheduler, API server, DAG processor, triggerer")
    urls = postgres()
    airflow = local_airflow(config, urls)
    mine = not airflow.is_running()  # `make airflow` may have started it, and stops it
    try:
        problems = show_nights(airflow, config, urls, stop=mine)
    finally:
        if mine:
            embedded.stop(POSTGRES)
    print(
        f"\nAsk it: {COMMAND} audit removed --config {config}\n"
        f"        {COMMAND} audit quarantined --config {config}\n"
        f"        {COMMAND} explain SOURCE_SHARD#KEY --config {config} --picture why.png"
    )
    say("done; `make airflow` shows it in Airflow's UI, `make demo-clean` removes it")
    if problems:
        sys.exit(1)


def show_nights(
    airflow: LocalAirflow, config: Path, urls: dict[str, str], *, stop: bool
) -> list[str]:
    """Run the nights, report on them, and compare where they had been run before; what is wrong."""
    with Wiring(load_settings(config), database_url=urls["catalog"]) as parts:
        try:
            airflow.start()
            airflow.wait_for_dags([DAG])
            airflow.unpause(DAG)
            say("Airflow is up; running the nights")
            states = {run["dag_run_id"]: run["state"] for run in airflow.runs(DAG)}
            again = all(states.get(run_id(night)) == "success" for night in NIGHTS)
            before = digest(parts) if again else {}
            run_nights(airflow)
        finally:
            if stop:
                airflow.stop()
        say("Airflow is stopped" if stop else "Airflow is left running: it was up before")
        planted = read_planted(DEMO / "planted.csv")
        print_report(parts, "demo", planted, DEMO / "contact_sheet.png")
        problems = verify_snapshot(parts, "demo") + verify_index(parts, "demo")
        print("snapshot verify, index verify: " + ("; ".join(problems) or "as the catalog says"))
        if again:
            changed = compare(before, digest(parts))
            print(f"\nThe same DAG runs again changed: {', '.join(changed) or 'nothing'}")
            if count_nights(parts) > len(NIGHTS):
                print("Other nights than the demo's are in it: it is not compared with a fresh one")
            else:
                changed += rerun_fresh(config, urls["fresh"], digest(parts, aside=ASIDE))
            problems += changed
    return problems


def count_nights(parts: Wiring) -> int:
    """How many nights and supplements there are, a user's own among them."""
    import sqlalchemy as sa

    with parts.catalog.read() as conn:
        return int(conn.execute(sa.text("SELECT count(*) FROM curation.runs")).scalar_one())


def rerun_fresh(config: Path, url: str, wanted: dict[str, str]) -> list[str]:
    """The same nights by the command, into a fresh root and database; what differs."""
    root = DEMO / "fresh"
    shutil.rmtree(root, ignore_errors=True)
    text = config.read_text(encoding="utf-8").replace('root = "curation"', 'root = "fresh"')
    fresh = DEMO / "fresh.toml"
    fresh.write_text(text, encoding="utf-8")
    _empty(url)
    command = [str(COMMAND), "run", "--config", str(fresh)]
    for night in NIGHTS:
        subprocess.run(
            [*command, "--dataset", "demo", "--date", night],
            env={**os.environ, "SSCD_OPS_DATABASE_URL": url},
            stdout=subprocess.DEVNULL,
            check=True,
        )
    with Wiring(load_settings(fresh), database_url=url) as parts:
        changed = compare(wanted, digest(parts, aside=ASIDE))
    shutil.rmtree(root)
    print(
        "The same nights by `sscd-ops run`, into a fresh root and database, differ in:"
        f" {', '.join(changed) or 'nothing'}"
    )
    return changed


def _empty(url: str) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    with engine.begin() as conn:
        for schema in ("curation", "sscd_ops"):
            conn.execute(sa.text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
    engine.dispose()
    upgrade(url)


def airflow_up() -> None:
    """Airflow on the demo's data, left running."""
    config = prepare()
    urls = postgres()
    airflow = local_airflow(config, urls)
    say("starting Airflow")
    airflow.start()
    airflow.wait_for_dags([DAG])
    airflow.unpause(DAG)  # nothing starts by itself: its start lies far ahead
    print(f"\nAirflow: {airflow.url}   user {airflow.user}   password {airflow.password}")
    print(f"DAG {DAG}: trigger it with date {', '.join(NIGHTS)}; leave the logical date empty")
    print("(one before the DAG's start gets no task from Airflow, which calls that a success).")
    print("`make airflow-down` stops it.")


def airflow_down() -> None:
    """Stop what ``airflow_up`` started."""
    if (DEMO / "airflow").exists():
        urls = postgres()
        local_airflow(DEMO / "curation.toml", urls).stop()
    embedded.stop(POSTGRES)
    print("stopped")


def clean() -> None:
    """Stop everything and remove the folder."""
    if DEMO.exists():
        airflow_down()
        shutil.rmtree(DEMO)
    print(f"removed {DEMO}; .venv and .tools stay")


COMMANDS = {"run": run, "clean": clean, "airflow": airflow_up, "airflow-down": airflow_down}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: demo.py {' | '.join(COMMANDS)}")
    COMMANDS[sys.argv[1]]()
