"""A real Ray cluster on this machine, of nodes that tests may kill or stop.

It is a process of its own, which reads commands from its standard input, one a line:
`add` (a node), `kill PID` (SIGKILL to all processes of the node that a process is on),
and `orphan PID` (the same, but for that process itself). It answers each with a number,
and ends with its input.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile

CORES = 1
OBJECT_STORE = 80 * 2**20  # Ray's least is 75 MB


class RayCluster:
    """A head without cores, two nodes of one core each, and those that are added."""

    def __init__(self):
        environment = {"RAY_USAGE_STATS_ENABLED": "0"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.address = self._answer()

    def tell(self, command):
        print(command, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        for line in self.process.stdout:
            if line.startswith("answer: "):
                return line.removeprefix("answer: ").rstrip("\n")
        raise RuntimeError("the cluster ended; see above")

    def close(self):
        self.process.stdin.close()
        self.process.stdout.read()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


def family(process):
    """A process and all below it."""
    return [process, *process.children(recursive=True)]


def main():
    # Sockets are below it, and their paths are short.
    folder = tempfile.mkdtemp(prefix="ray_", dir="/tmp")
    # There Ray notes where its last cluster is, and makes no folder for it: /tmp/ray is
    # the user's own, which may not be there.
    os.environ["RAY_TMPDIR"] = folder
    os.mkdir(f"{folder}/ray")

    import psutil
    from ray.cluster_utils import Cluster

    options = {"num_cpus": CORES, "object_store_memory": OBJECT_STORE}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            **options,
            "num_cpus": 0,
            "include_dashboard": False,
            "temp_dir": folder,
            "_system_config": {
                "health_check_initial_delay_ms": 1000,
                "health_check_period_ms": 1000,
                "health_check_timeout_ms": 5000,
                "health_check_failure_threshold": 3,
            },
        },
    )
    raylets = []

    def add():
        node = cluster.add_node(**options)
        pid = node.all_processes["raylet"][0].process.pid
        raylets.append(psutil.Process(pid))

    add()
    add()
    print(f"answer: {cluster.address}", flush=True)
    for line in sys.stdin:
        command, *pid = line.split()
        if command == "add":
            add()
            print(f"answer: {len(raylets)}", flush=True)
            continue
        task = psutil.Process(int(pid[0]))
        (raylet,) = {*raylets} & {*task.parents()}
        found = family(raylet)
        if command == "orphan":
            found.remove(task)
        for process in found:
            process.kill()
        print(f"answer: {len(found)}", flush=True)
    for process in reversed(family(psutil.Process())[1:]):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
