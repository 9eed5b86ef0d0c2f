"""The demo: ten years of the solar system, one commit a day.

`mmsb.demo` is plain library code and prints nothing; ``mmsb demo`` (`mmsb.cli`) tells the story.

- `elements`: published orbits and masses to positions and velocities at J2000.
- `gravity`: the symplectic integrator.
- `system`: the pages, and one commit a day.
- `child`: the process that is killed.
- `story`: the six steps and their facts.
"""
