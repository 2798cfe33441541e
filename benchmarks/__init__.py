"""Benchmarks: one script a question, side by side with named peers.

Run one from the root of the repository, `python -m benchmarks.roots`; with
`--smoke` it takes seconds and writes nothing. Tables and figures are written to
`benchmarks/results/`, as Markdown to read and as JSON to compute with.
"""
