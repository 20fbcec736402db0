"""The scripts that start many processes, as far as a machine without their systems can tell."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from transformer_jax.cli.config_file import load_config, parse_overrides
from transformer_jax.parallel.distributed import DistributedConfig

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"


def fake(folder, name):
    """A program that prints its arguments, each on a line."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("name", ["slurm.sh", "cloud_tpu.sh"])
def test_scripts_are_bash(name):
    subprocess.run(["bash", "-n", str(LAUNCH / name)], check=True)


def test_slurm_starts_train_on_all_tasks_with_the_flags(tmp_path):
    env = os.environ | fake(tmp_path, "srun") | {"https_proxy": "x"}
    flags = ["--config", "a b.py", "--workdir", "runs/x"]
    command = ["bash", str(LAUNCH / "slurm.sh"), *flags]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["--kill-on-bad-exit=1", "python", "train.py", *flags]
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in (LAUNCH / "slurm.sh").read_text().splitlines()
        if line.startswith("#SBATCH ")
    )
    assert options["gpus-per-node"] == options["ntasks-per-node"]  # JAX gives a task one GPU
    assert "requeue" in options


def test_cloud_tpu_runs_the_same_command_on_every_host(tmp_path):
    env = os.environ | fake(tmp_path, "gcloud")
    command = ["bash", str(LAUNCH / "cloud_tpu.sh"), "pod", "zone-a", "--config", "a b.py"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:5] == ["compute", "tpus", "tpu-vm", "ssh", "pod"] and "--worker=all" in lines
    assert lines[lines.index("--zone") + 1] == "zone-a"
    assert lines[-1].split(" && ")[1].strip() == r".venv/bin/python train.py --config a\ b.py"
    short = subprocess.run(command[:3], env=env, capture_output=True, text=True)
    assert short.returncode == 2 and "launch/cloud_tpu.sh NAME ZONE" in short.stderr


def test_the_jobset_names_its_first_pod_and_as_many_processes_as_hosts():
    found = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert found["spec"]["network"]["enableDNSHostnames"] is True
    [job] = found["spec"]["replicatedJobs"]
    indexed = job["template"]["spec"]
    assert job["replicas"] == 1 and indexed["completionMode"] == "Indexed"
    assert indexed["parallelism"] == indexed["completions"]
    [container] = indexed["template"]["spec"]["containers"]
    program, script, *flags = container["command"]
    assert (program, script) == ("python", "train.py")
    config = flags.pop(0).removeprefix("--config=")
    flags = [flag.replace("$(JOB_COMPLETION_INDEX)", "1") for flag in flags]
    run, changed = parse_overrides(load_config(ROOT / config), flags, "")
    name, port = f"{found['metadata']['name']}", container["ports"][0]["containerPort"]
    coordinator = f"{name}-{job['name']}-0-0.{name}:{port}"  # JobSet's names: JOBSET-JOB-0-INDEX
    assert run.distributed == DistributedConfig(coordinator, indexed["parallelism"], 1)
    assert changed.data.path == "/data/TEXT" and str(run.workdir) == "/data/runs/bert_large"
