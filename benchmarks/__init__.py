"""
What `resource_tokens` costs, measured against doing without it. Run `python -m benchmarks`.
"""
