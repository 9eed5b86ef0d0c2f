"""A simulation that can be killed at any moment and goes on where it was.

Run it, press Ctrl-C or kill it, run it again: it continues with the step after the last commit.

    python examples/pendulum.py pendulum.mmsb 2000
"""

import sys
from pathlib import Path

import mmsb
import numpy as np

STEP = 0.01


def advance(angle: float, speed: float) -> tuple[float, float]:
    """One step of a pendulum with friction, symplectic Euler."""
    speed += STEP * (-9.81 * np.sin(angle) - 0.05 * speed)
    return angle + STEP * speed, speed


def main(path: Path, steps: int) -> None:
    """Simulate up to `steps` steps in all, then look back."""
    with mmsb.open(path, mode="a", durability="os") as bus:
        state = bus.create_page("state", data=np.array([1.5, 0.0]), exist_ok=True)
        count = bus.create_page("step", data=np.array(0), exist_ok=True)
        for step in range(int(count) + 1, steps + 1):
            with bus.transaction(source="pendulum", meta={"step": step}) as tx:
                tx[state] = advance(*tx[state])
                tx[count] = step
        bus.sync()

        angle = state[0]
        widest = max((abs(value), commit.epoch) for commit, value in state.history(0, since=1))
        print(f"step {int(count)}: angle {angle:+.4f}")
        print(f"the widest swing was {widest[0]:.4f}, in epoch {widest[1]}")
        with bus.snapshot(meta={"step": min(100, steps)}) as then:
            print(f"at step {int(then['step'])} the angle was {then['state'][0]:+.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
