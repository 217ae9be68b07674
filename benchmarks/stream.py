"""Calibrate a stream of LiberTEM-live, sent by its simulator of a Merlin detector.

    python benchmarks/stream.py [--scan 32 32] [--rate 500]

The beam is learned from every other row and column of the same scan, as from a quick survey. The simulator, a process
of its own, sends the patterns of 256 x 256 pixels at the rate given, and LiberTEM's inline executor runs the UDF of
`py4dstem_prenet.libertem` on each partition as it arrives. Printed are the rate, the delay of the result after the last
pattern, and the error of the origins. Needs the extra `libertem`, and libertem-live.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from py4dstem_prenet.simulation.scan import simulate

SIDE = 256  # pixels of a Merlin detector
HEADER = 384  # bytes before each pattern
ROWS = 4  # of the scan in a partition, after each of which there is a result
MAX_WAIT_S = 60  # for the simulator to listen


def write_merlin(path, counts):
    """Write a scan as a .mib file with its .hdr."""
    frames = counts.reshape(-1, SIDE, SIDE).astype(">u2")
    with open(path, "wb") as file:
        for number, frame in enumerate(frames):
            text = (f"MQ1,{number + 1:06d},{HEADER:05d},01,{SIDE:04d},{SIDE:04d},U16,   1x1,01,"
                    f"2020-01-01 10:00:00.{number:06d},0.001,0,0,0,1.0E0")
            file.write(text.encode().ljust(HEADER, b"\0") + frame.tobytes())
    rows, columns = counts.shape[:2]
    path.with_suffix(".hdr").write_text(
        f"HDR,\t\nFrames in Acquisition (Number):\t{rows * columns}\nFrames per Trigger (Number):\t{columns}\n"
        "Counter Depth (number):\t12\nEnd\t")


def free_ports(count):
    """Some ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(port, process):
    """Wait until something listens on a port."""
    end = time.monotonic() + MAX_WAIT_S
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("The simulator of the detector did not start.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", type=int, nargs=2, default=(32, 32))
    parser.add_argument("--rate", type=float, default=500.0, help="patterns per second")
    arguments = parser.parse_args()
    from libertem.executor.inline import InlineJobExecutor
    from libertem_live.api import LiveContext

    from py4dstem_prenet.libertem import learn

    scan = simulate(tuple(arguments.scan), (SIDE, SIDE), dose=10_000.0, seed=1, amplitude=1.0, radius=12.0)
    truth = np.stack([scan.truth["qx0"], scan.truth["qy0"]])
    with tempfile.TemporaryDirectory() as folder, LiveContext(executor=InlineJobExecutor()) as context:
        path = Path(folder) / "scan.mib"
        write_merlin(path, scan.counts)
        learned = learn(context, context.load("memory", data=scan.counts[::2, ::2], num_partitions=1), device="cpu")
        data, control, trigger = free_ports(3)
        simulator = subprocess.Popen([
            str(Path(sys.executable).with_name("libertem-live-mib-sim")), str(path.with_suffix(".hdr")),
            "--cached", "mem", "--host", "127.0.0.1", "--data-port", str(data), "--control-port", str(control),
            "--trigger-port", str(trigger), "--dwelltime", str(round(1e6 / arguments.rate)), "--wait-trigger"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(control, simulator)
            connection = context.make_connection("merlin").open(
                api_host="127.0.0.1", api_port=control, data_host="127.0.0.1", data_port=data, drain=False)
            with connection:
                from libertem_live.hooks import Hooks

                class Trigger(Hooks):
                    """Starts the detector when LiberTEM is ready."""

                    def on_ready_for_data(self, environment):
                        with connection.control() as c:
                            c.cmd("STARTACQUISITION")
                            c.cmd("SOFTTRIGGER")

                acquisition = context.make_acquisition(
                    conn=connection, nav_shape=tuple(arguments.scan), hooks=Trigger(),
                    frames_per_partition=ROWS * arguments.scan[1])
                udf = learned.origin_udf(acquisition.shape.nav)
                started, seen = time.perf_counter(), []
                for partial in context.run_udf_iter(acquisition, udf):
                    seen.append((time.perf_counter() - started, int(np.count_nonzero(partial.damage.data))))
                report = learned.calibrate(partial.buffers[0])
                took = time.perf_counter() - started
        finally:
            simulator.kill()
            simulator.wait()
    measured = np.stack([report.origin.qx0, report.origin.qy0])
    error = np.abs(measured - truth)[:, report.origin.valid]
    count = scan.counts.shape[0] * scan.counts.shape[1]
    descan = np.abs(np.stack([report.fit.qx0, report.fit.qy0]) - truth)
    last = seen[-1][0]
    print(f"{count} patterns in {last:.1f} s, {count / last:.0f} a second (sent at {arguments.rate:.0f}), "
          f"in {len(seen)} partitions; the report {took - last:.1f} s later")
    print(f"origin found at {int(report.origin.valid.sum())} of {count} positions, median error "
          f"{np.median(error):.3f} px, of the fit {np.median(descan):.3f} px")


if __name__ == "__main__":
    main()
