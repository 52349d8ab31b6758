"""What is measured, and how: `make bench` runs it all and writes `benchmarks/results.md`.

Machines are shared and noisy, so a figure that matters is a ratio to something measured in the
same run, and the best of several rounds. Nothing here fails a build: the CI gate
(`warmbench regress`) compares simulated figures, which are exact.
"""
