"""Reading and bulk where there are many scores: how fast the service is, and whether it is exact.

python -m benchmarks scale --help
"""
