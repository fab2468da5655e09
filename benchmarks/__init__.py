"""Load over HTTP: how fast the service is, next to what else one could do, and whether it is exact.

python -m benchmarks --help
"""
