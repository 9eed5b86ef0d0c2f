"""The demo: ten years of the solar system, one commit a day.

`mmsb.demo` is plain library code and prints nothing; ``mmsb demo`` (`mmsb.cli`) tells the story.

- `elements`: published orbits and masses to positions and velocities at J2000.
- `gravity`: the symplectic integrator.
- `derived`: what follows from the pages, on the bus and by NumPy alone.
- `system`: the pages, and one commit a day.
- `child`: the process that is killed.
- `story`: the six steps and their facts.
"""
